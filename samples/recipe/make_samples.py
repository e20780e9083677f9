#!/usr/bin/env python3
"""Makes the bundled samples from the images that ``make_images.py`` made.

    python3 samples/recipe/make_samples.py [--images build/images] [--out samples]

Each sample is a folder: ``image.kdump``, an excerpt of the image; ``truth.tar.xz``, what the guest's own
/proc said just before it was paused or crashed; ``manifest.json``, how both were made. The tampered sample
is an excerpt of a clean image with one labelled edit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from vmaforensics.analysis import analyse_image
from vmaforensics.export.excerpt import Keep, select, write_selection
from vmaforensics.image.open import open_image
from vmaforensics.kernel.edit import Edit
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from vmaforensics.analysis import Analysis
    from vmaforensics.image.image import Image

LIMIT = 12_000_000  # bytes a file of the repository may have

# sample: file of the image it is made from
SAMPLES = {
    "debian-5.10": "debian-5.10.elf",
    "debian-6.1": "debian-6.1.elf",
    "debian-6.1-la57": "debian-6.1-la57.elf",
    "debian-6.1-crash": "debian-6.1-crash.kdump",
    "debian-6.12": "debian-6.12.elf",
    "debian-7.3": "debian-7.3.elf",
}
TAMPERED = "tampered-6.1"
TAMPERED_FROM = "debian-6.1.elf"


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the bundled samples from the images.")
    parser.add_argument("--images", type=Path, default=Path("build/images"))
    parser.add_argument("--out", type=Path, default=Path("samples"))
    args = parser.parse_args()
    for name, file in SAMPLES.items():
        make(args.images / file, args.out / name, open_image(args.images / file), {})
    clean = analyse_image(args.images / TAMPERED_FROM)
    edited, label = tampered(clean)
    make(args.images / TAMPERED_FROM, args.out / TAMPERED, edited, {"edit": label})
    return 0


def tampered(clean: Analysis) -> tuple[Image, dict[str, str | int]]:
    """The image with one leaf slot of a maple tree set to NULL, that of the first executable VMA of a file between two
    others; and the label that says so."""
    views = clean.views
    assert views.maple is not None
    maple, vmas = views.maple, views.vmas
    row = views.vma_rows(maple.vma)
    fits = (vmas.file[row] != 0) & ((vmas.flags[row] & np.uint64(flags.VM_EXEC)) != 0)
    joined = (maple.mm[1:] == maple.mm[:-1]) & (maple.start[1:] == maple.end[:-1])
    fits[1:-1] &= joined[:-1] & joined[1:]
    fits[[0, -1]] = False
    at = int(np.flatnonzero(fits)[0])
    edit = Edit(clean.image, clean.kernel)
    edit.put(int(maple.slot[at]), 0)
    pid = int(views.mms.pid[views.mm_rows(maple.mm[at : at + 1])[0]])
    start, end = hex(int(maple.start[at])), hex(int(maple.end[at]))
    return edit.image(), {"technique": "slot zeroed", "pid": pid, "start": start, "end": end, "rank": "high"}


def make(source: Path, folder: Path, image: Image, more: dict[str, object]) -> None:
    """Write one sample's folder: of the whole kernel's memory if that is small enough, else of the analysis."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "image.kdump"
    for keep in (Keep.KERNEL, Keep.ANALYSIS):
        with target.open("wb") as stream:
            write_selection(stream, image, select(image, keep))
        if target.stat().st_size <= LIMIT:
            break
    stem = source.name.split(".elf")[0].split(".kdump")[0]
    truth = source.with_name(f"{stem}.truth.tar").read_bytes()
    (folder / "truth.tar.xz").write_bytes(lzma.compress(truth, preset=9))
    made = json.loads(source.with_name(f"{stem}.json").read_text())
    wanted = ("package", "version", "release", "suite", "uname", "cmdline", "cpu", "memory_mib", "made")
    manifest = {
        **{name: made[name] for name in wanted if name in made},
        "source": {"file": source.name, "sha256": made["sha256"].get(source.name)},
        "excerpt": f"vmaforensics excerpt --keep {keep.value}",
        **more,
        "sha256": {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in (target, folder / "truth.tar.xz")},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print(f"{folder}: {target.stat().st_size} bytes, {keep.value}")


if __name__ == "__main__":
    sys.exit(main())
