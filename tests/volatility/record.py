"""Rows of volatility3's own plugins on the samples, as hashes, with the symbol files that dwarf2json made.

    python record.py DWARF_ISF... > stock_rows.json

DWARF_ISF are made of the debugging information of the samples' kernels (linux-image-*-dbg packages).
``test_isf.py`` holds the rows on our symbol files against the record.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PLUGINS = (
    "linux.pslist.PsList",
    "linux.pstree.PsTree",
    "linux.pidhashtable.PIDHashTable",
    "linux.lsmod.Lsmod",
    "linux.proc.Maps",
    "linux.lsof.Lsof",
    "linux.mountinfo.MountInfo",
    "linux.kmsg.Kmsg",
    "linux.sockstat.Sockstat",
    "linux.envars.Envars",
    "linux.bash.Bash",
    "linux.malware.malfind.Malfind",
    "linux.pagecache.Files",
)
# Excerpts first, which come with the sources, then the images they were taken from.
IMAGES = tuple(
    name
    for release in ("5.10", "6.1", "6.12", "7.3")
    for name in (f"samples/debian-{release}/image.kdump", f"build/images/debian-{release}.raw")
)


def fingerprint(image: Path) -> str:
    """SHA-256 of an image, by its manifest if it is a large one."""
    manifest = image.with_suffix(".json")
    if manifest.exists():
        return str(json.loads(manifest.read_bytes())["sha256"][image.name])
    return hashlib.sha256(image.read_bytes()).hexdigest()


def digests(image: Path, symbols: Path) -> dict[str, Any]:
    """By plugin: the number of rows, their hash, and the error that ended them."""
    command = [sys.executable, str(Path(__file__).with_name("rows.py")), str(image), str(symbols), *PLUGINS]
    done = subprocess.run(command, capture_output=True, check=True, timeout=1800)
    return {plugin: digest(found) for plugin, found in json.loads(done.stdout).items()}


def digest(found: dict[str, Any]) -> list[Any]:
    """Of what one plugin gave."""
    return [len(found["rows"]), hashlib.sha256(json.dumps(found["rows"]).encode()).hexdigest()[:32], found["error"]]


def main(paths: list[Path]) -> None:
    """Record every image there is."""
    from vmaforensics.image.open import open_image
    from vmaforensics.kernel.find import find_kernel
    from vmaforensics.kernel.symbols.isf import Isf

    files = {Isf(path).banner.decode().strip(): path for path in paths}
    record: dict[str, Any] = {"volatility3": version("volatility3"), "images": {}}
    for name in IMAGES:
        image = ROOT / name
        symbols = files.get(find_kernel(open_image(image)).identity.banner) if image.exists() else None
        if symbols is not None:
            record["images"][name] = {"sha256": fingerprint(image), "plugins": digests(image, symbols)}
    json.dump(record, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main([Path(path) for path in sys.argv[1:]])
