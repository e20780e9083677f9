"""LiME v1: one 32-byte header and the bytes behind it, per range of RAM (LiME, AVML uncompressed, LEMON).

What lies between two ranges is not RAM. AVML leaves out blocks of 16 MiB that are all zeros, though, and
nothing in the file tells such a gap from a hole: it is reported, and reads as not RAM. AVML 0.16 and 0.17 wrote the
header of such a block all the same, and nothing behind it: the next header follows at once. For what LEMON could not
read see :mod:`vmaforensics.image.formats.lemon`.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import UnsupportedFormatError
from vmaforensics.image.formats.lemon import LemonMemory
from vmaforensics.image.formats.segments import Segments, lay_out
from vmaforensics.image.image import Image
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from vmaforensics.image.source import FileSource

MAGIC = 0x4C694D45
# u32 magic, u32 version, u64 start, u64 end (inclusive), 8 reserved bytes. Each header says where the next
# one lies, so they cannot be read as one array.
HEADER = struct.Struct("<IIQQ8x")
MOST_RANGES = 1 << 20
AVML_BLOCK = 16 << 20


def open_lime(path: Path, source: FileSource) -> Image:
    """Open a LiME file. What follows the last range that can be believed is named in a problem.

    Raises :class:`UnsupportedFormatError` if not even the first header can be believed.
    """
    size = len(source)
    rows: list[tuple[int, int, int, int, int]] = []
    zeros: list[tuple[int, int]] = []
    stop = ""
    at = 0
    while at < size and not stop:
        start, length, stop = _range(source, at)
        if not stop and len(rows) + len(zeros) == MOST_RANGES:
            stop = f"more than {MOST_RANGES:,} ranges"
        if stop:
            break
        after = at + HEADER.size
        if _follows(source, after, start + length) and not _follows(source, after + length, start + length):
            zeros.append((start, start + length))
            at = after
        else:
            rows.append((start, length, length, after, 0))
            at = after + length
    if not rows:
        raise UnsupportedFormatError(
            f"{path} begins like a LiME file, but its header at file offset {at:#x} cannot be believed: "
            f"{stop}; acquire the image again"
        )
    memory, problems = lay_out(source, Segments.of_rows(rows), "LiME range", LemonMemory, ranges_of(zeros))
    if stop:
        problems.append(
            f"the chain of LiME ranges breaks off at file offset {at:#x} ({stop}); the "
            f"{counted(size - at, 'byte')} from there on were not read"
        )
    details = {"ranges": f"{len(rows) + len(zeros):,}"}
    if zeros:
        details["ranges of zeros"] = f"{len(zeros):,}"
    gaps = gaps_of_zeros(rows, zeros)
    if gaps:
        details["writer"] = "AVML, to judge by its blocks of 16 MiB"
        problems.append(
            f"{counted(len(gaps), 'gap')} of {sum(gaps) >> 20:,} MiB in all may be RAM that AVML left out "
            "because it was all zeros; it is read as not RAM"
        )
    return Image(path=path, size=size, format="lime", memory=memory, details=details, problems=tuple(problems))


def _range(source: FileSource, at: int) -> tuple[int, int, str]:
    """Physical address and length of the range whose header is at file offset ``at``; why it is not believed, or ""."""
    head = bytes(source[at : at + HEADER.size])
    if len(head) < HEADER.size:
        return 0, 0, f"{counted(len(head), 'byte')} are left, too few for a 32-byte range header"
    magic, version, start, end = HEADER.unpack(head)
    stop = ""
    if magic != MAGIC:
        stop = f"the magic number is {magic:#010x}, expected {MAGIC:#x}"
    elif version != 1:
        stop = f"the version is {version}, expected 1"
    elif end < start:
        stop = f"the range ends at {end:#x}, below its start {start:#x}"
    elif end - start >= 2**63:
        stop = f"the range {start:#x} to {end:#x} is longer than any memory"
    return start, end + 1 - start, stop


def _follows(source: FileSource, at: int, end: int) -> bool:
    """Whether at file offset ``at`` a range from physical address ``end`` on, or a later one, begins."""
    start, _, stop = _range(source, at)
    return not stop and start >= end


def ranges_of(rows: list[tuple[int, int]]) -> NDArray[np.uint64]:
    """``[start, end)`` pairs as an ``(n, 2)`` array."""
    return np.array(rows, np.uint64).reshape(-1, 2)


def gaps_of_zeros(rows: list[tuple[int, int, int, int, int]], zeros: list[tuple[int, int]]) -> list[int]:
    """The sizes of gaps that may be zero blocks AVML left out, if these :class:`Segments` rows look like its own:
    some adjoin, none is longer than 16 MiB. Such a gap is a multiple of 16 MiB. Blocks that are known to be ``zeros``,
    as ``[start, end)``, are no gaps."""
    blocks = sorted([*((pa, pa + length) for pa, length, *_ in rows), *zeros])
    pairs = [(before[1], after[0]) for before, after in pairwise(blocks)]
    if max(end - start for start, end in blocks) > AVML_BLOCK or not any(end == start for end, start in pairs):
        return []
    return [start - end for end, start in pairs if start > end and (start - end) % AVML_BLOCK == 0]
