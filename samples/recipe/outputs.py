"""What comes out of a guest: the record it wrote, and the dumps of its memory."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from qemu import GuestError, rearrange

if TYPE_CHECKING:
    from pathlib import Path

    from images import Image
    from qemu import Guest


def console_value(text: str, key: str) -> str:
    """The rest of the console line that starts with a key."""
    for line in text.splitlines():
        if line.startswith(f"{key} "):
            return line.removeprefix(f"{key} ").strip()
    raise GuestError(f"the console shows no {key}")


def save_truth(work: Path, target: Path, text: str) -> None:
    """Cut the archive out of the guest's disk."""
    size = int(console_value(text, "TRUTH-SIZE"))
    with (work / "truth.disk").open("rb") as source, target.open("wb") as out:
        while size:
            data = source.read(min(size, 1 << 20))
            if not data:
                raise GuestError("the truth is cut short")
            out.write(data)
            size -= len(data)


def dump(image: Image, guest: Guest, base: Path) -> list[Path]:
    """Write the dumps of a paused guest."""
    made = []
    for kind in image.outputs:
        path = base.parent / f"{base.name}.{kind}"
        if kind == "raw":
            guest.dump_raw(path, image.memory << 20)
        elif kind == "elf":
            guest.dump_elf(path)
        elif kind == "ram":
            os.link(base.parent / "memory", path)
        else:
            guest.dump_kdump(path)
        if kind in ("raw", "elf"):
            subprocess.run(["fallocate", "--dig-holes", str(path)], check=False)
        made.append(path)
    return made


def crash_dumps(work: Path, base: Path, text: str) -> list[Path]:
    """The dumps the crash kernel wrote: all but useless pages, and nearly all; or one of everything, where this
    makedumpfile does not know the kernel."""
    made = []
    for level, ending in ((31, "kdump"), (1, "d1.kdump")):
        path = base.parent / f"{base.name}.{ending}"
        if f"CRASH: level {level} saved" in text:
            rearrange(work / f"dump{level}.disk", path)
            made.append(path)
    if not made:
        made.append(base.parent / f"{base.name}.vmcore")
        size = int(console_value(text, "CRASH: level 31 raw"))
        os.truncate(work / "dump31.disk", size)
        (work / "dump31.disk").replace(made[-1])
        subprocess.run(["fallocate", "--dig-holes", str(made[-1])], check=False)
    return made
