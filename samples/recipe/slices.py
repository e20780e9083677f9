"""Acquisition of a running guest: its memory read in slices, ascending, and written as LiME does; every time recorded.

The guest's memory is a file that QEMU shares; below the PCI hole an offset in it is a physical address.
"""

from __future__ import annotations

import mmap
import re
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

SLICE = 256 << 10
PAGE = 4096
LIME_HEADER = struct.Struct("<IIQQQ")  # LiME, main.h: magic, version, s_addr, e_addr (inclusive), reserved
LIME_MAGIC = 0x4C694D45
LIME_VERSION = 1
RAM = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) : System RAM$", re.MULTILINE)  # not indented: top level


@dataclass(frozen=True)
class Slice:
    """Physical memory ``[start, end)``, read between two moments."""

    start: int
    end: int
    began: float  # seconds since 1970, the host's
    ended: float
    jiffies: int  # jiffies_64 of the guest right before

    def row(self) -> list[int | float]:
        """For a manifest: start, end, began, ended, jiffies."""
        return [self.start, self.end, round(self.began, 6), round(self.ended, 6), self.jiffies]


def ram(iomem: bytes) -> list[tuple[int, int]]:
    """Ranges ``[start, end)`` of whole pages of System RAM in /proc/iomem, as LiME takes them."""
    found = [(int(low, 16), int(high, 16) + 1) for low, high in RAM.findall(iomem)]
    return [(-(-low // PAGE) * PAGE, high // PAGE * PAGE) for low, high in found]


def pieces(ranges: Iterable[tuple[int, int]], size: int = SLICE) -> list[tuple[int, int]]:
    """Ranges cut into slices at multiples of ``size``."""
    found = []
    for low, high in ranges:
        at = low
        while at < high:
            end = min(high, (at // size + 1) * size)
            found.append((at, end))
            at = end
    return found


def acquire(memory: Path, iomem: bytes, seconds: float, path: Path, jiffies: int) -> list[Slice]:
    """Read a running guest's memory over some seconds into a LiME file; ``jiffies``: physical address of jiffies_64."""
    ranges = ram(iomem)
    parts = pieces(ranges)
    headers = {low: LIME_HEADER.pack(LIME_MAGIC, LIME_VERSION, low, high - 1, 0) for low, high in ranges}
    total = sum(high - low for low, high in parts)
    slices = []
    with (
        memory.open("rb") as source,
        path.open("wb") as out,
        mmap.mmap(source.fileno(), 0, prot=mmap.PROT_READ) as view,
    ):
        first = time.time()
        done = 0
        for low, high in parts:
            time.sleep(max(0.0, first + seconds * done / total - time.time()))
            clock = int.from_bytes(view[jiffies : jiffies + 8], "little")
            began = time.time()
            data = view[low:high]
            ended = time.time()
            out.write(headers.get(low, b"") + data)
            slices.append(Slice(low, high, began, ended, clock))
            done += high - low
    return slices


def cut_out(disk: Path, path: Path) -> None:
    """The LiME file that a guest wrote to the start of a disk."""
    at = 0
    with disk.open("rb") as source, path.open("wb") as out:
        while len(head := source.read(LIME_HEADER.size)) == LIME_HEADER.size:
            magic, version, low, high, _ = LIME_HEADER.unpack(head)
            if (magic, version) != (LIME_MAGIC, LIME_VERSION) or high < low:
                break
            out.write(head + source.read(high + 1 - low))
            at = source.tell()
    if not at:
        raise ValueError(f"{disk}: no LiME file was written to it")


def whole(slices: Sequence[Slice]) -> dict[str, object]:
    """What a manifest says of an acquisition."""
    return {
        "seconds": round(slices[-1].ended - slices[0].began, 3),
        "columns": ["start", "end", "began", "ended", "jiffies"],
        "slices": [row.row() for row in slices],
    }
