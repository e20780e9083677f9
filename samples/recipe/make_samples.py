#!/usr/bin/env python3
"""Makes the bundled samples from the images that ``make_images.py`` and ``make_work.py`` made.

    python3 samples/recipe/make_samples.py [NAME...] [--images build/images] [--out samples]

Each sample is a folder: ``image.kdump``, an excerpt of the image; ``truth.tar.xz``, what the guest's own /proc said
before; ``manifest.json``, how both were made, and, of guests that died or were tampered with, the label that says what
was done. The tampered sample is an excerpt of a clean image with one labelled edit. That of an image which was
acquired while the guest ran has ``times.json``: when each of its slices was read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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


class Made(NamedTuple):
    """What a sample is made from: an image, and the archive of the guest's /proc."""

    image: str
    truth: str


RESTING = {
    "debian-5.10": Made("debian-5.10.elf", "debian-5.10.truth.tar"),
    "debian-6.1": Made("debian-6.1.elf", "debian-6.1.truth.tar"),
    "debian-6.1-la57": Made("debian-6.1-la57.elf", "debian-6.1-la57.truth.tar"),
    "debian-6.1-crash": Made("debian-6.1-crash.kdump", "debian-6.1-crash.truth.tar"),
    "debian-6.12": Made("debian-6.12.elf", "debian-6.12.truth.tar"),
    "debian-7.3": Made("debian-7.3.elf", "debian-7.3.truth.tar"),
}
TAMPERED = {"tampered-6.1": Made("debian-6.1.elf", "debian-6.1.truth.tar")}
DEAD = {
    "crash-5.10-hung": Made("debian-5.10-hung.elf", "debian-5.10-hung.truth.tar"),
    "crash-6.1-vma-file": Made("debian-6.1-vma-file.elf", "debian-6.1-vma-file.truth.tar"),
    "crash-7.3-pte-flipped": Made("debian-7.3-pte-flipped.elf", "debian-7.3-pte-flipped.truth.tar"),
}
LIVE = {"live-6.1": Made("debian-6.1-work5-live-20s-3.lime", "debian-6.1-work5.before.tar")}
ALL = RESTING | TAMPERED | DEAD | LIVE

# What of an image's manifest its sample has too.
_COPIED = ("package", "version", "release", "suite", "uname", "cmdline", "cpu", "cpus", "memory_mib", "made", "death")
_COPIED_OF_WORK = ("method", "load", "seed", "storms", "resting", "edits")


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the bundled samples from the images.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(ALL)}")
    parser.add_argument("--images", type=Path, default=Path("build/images"))
    parser.add_argument("--out", type=Path, default=Path("samples"))
    args = parser.parse_args()
    for name in args.names or ALL:
        path = args.images / ALL[name].image
        if name in TAMPERED:
            image, label = tampered(analyse_image(path))
            more: dict[str, object] = {"edit": label}
        else:
            image, more = open_image(path), {}
        make(path, args.images / ALL[name].truth, args.out / name, image, more)
    return 0


def tampered(clean: Analysis) -> tuple[Image, dict[str, str | int]]:
    """The image with one leaf slot of a maple tree set to NULL, that of the first executable VMA of a file between two
    others in the first bash; and the label that says so."""
    views = clean.views
    assert views.maple is not None
    maple, vmas = views.maple, views.vmas
    row = views.vma_rows(maple.vma)
    fits = (vmas.file[row] != 0) & ((vmas.flags[row] & np.uint64(flags.VM_EXEC)) != 0)
    joined = (maple.mm[1:] == maple.mm[:-1]) & (maple.start[1:] == maple.end[:-1])
    fits[1:-1] &= joined[:-1] & joined[1:]
    fits[[0, -1]] = False
    shells = views.tasks.mm[views.tasks.leader & (views.tasks.comm == b"bash")]
    rows = np.flatnonzero(fits & np.isin(maple.mm, shells))
    at = int(rows[np.argmin(views.mms.pid[views.mm_rows(maple.mm[rows])])])
    edit = Edit(clean.image, clean.kernel)
    edit.put(int(maple.slot[at]), 0)
    pid = int(views.mms.pid[views.mm_rows(maple.mm[at : at + 1])[0]])
    start, end = hex(int(maple.start[at])), hex(int(maple.end[at]))
    return edit.image(), {"technique": "slot zeroed", "pid": pid, "start": start, "end": end, "rank": "high"}


def make(source: Path, truth: Path, folder: Path, image: Image, more: dict[str, object]) -> None:
    """Write one sample's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "image.kdump"
    with target.open("wb") as stream:
        # The kernel's code would double each file.
        write_selection(stream, image, select(image, Keep.ANALYSIS, without=("code",)), level=15)
    if target.stat().st_size > LIMIT:
        raise SystemExit(f"{target} has more than {LIMIT} bytes")
    (folder / "truth.tar.xz").write_bytes(lzma.compress(truth.read_bytes(), preset=9))
    made = json.loads(source.with_suffix(".json").read_text())
    live = made.get("live")
    files = [target, folder / "truth.tar.xz"]
    if live is not None:
        files.append(folder / "times.json")
        files[-1].write_text(times(live))
    copied = {name: made[name] for name in (*_COPIED, *_COPIED_OF_WORK) if made.get(name) is not None}
    manifest = {
        **copied,
        **({} if live is None else {"live": {key: live[key] for key in live if key != "slices"}}),
        "source": {"file": source.name, "sha256": made.get("sha256", {}).get(source.name)},
        "excerpt": "vmaforensics excerpt --keep analysis --without code",
        **more,
        "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print(f"{folder}: {target.stat().st_size} bytes")


def times(live: dict[str, Any]) -> str:
    """When each slice was read, a line each."""
    rows = ",\n  ".join(json.dumps(row) for row in live["slices"])
    columns = json.dumps(["start", "end", "began", "ended", "jiffies"])
    return f'{{\n "columns": {columns},\n "slices": [\n  {rows}\n ]\n}}\n'


if __name__ == "__main__":
    sys.exit(main())
