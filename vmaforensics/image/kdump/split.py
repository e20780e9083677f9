"""The parts of a kdump that ``makedumpfile --split`` has written into several files.

Each part has the headers and the bitmaps of the whole dump, and the pages of one window of page frames.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from vmaforensics.errors import UnsupportedFormatError
from vmaforensics.image.kdump.header import MAIN_HEADER, read_header
from vmaforensics.image.kdump.reader import KdumpFile, open_parts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vmaforensics.image.image import Image
    from vmaforensics.image.source import FileSource

MAGIC = b"KDUMP   "
_STEP = 1 << 24  # bytes compared at a time


def open_split(files: Sequence[tuple[Path, FileSource]]) -> Image:
    """Open the parts of one split dump, given in any order; what parts are missing, their pages are absent.

    Raises :class:`UnsupportedFormatError` if the files are not parts of one dump.
    """
    parts = []
    for path, source in files:
        if source[:8] != MAGIC:
            raise UnsupportedFormatError(
                f"{path} is not a kdump file, and several files are read together only if they are the parts of a "
                "split kdump; give one image, or all parts of one dump (pieces of one file, as `split` makes them, are "
                "joined with `cat PIECE... > IMAGE`)"
            )
        header, problems = read_header(path, source)
        if header.window is None:
            raise UnsupportedFormatError(
                f"{path} is a whole kdump (split is 0, file offset {header.block_size + 12}), not a part of one; give "
                "it alone"
            )
        parts.append(KdumpFile(path, source, header, tuple(f"{path}: {text}" for text in problems)))
    parts.sort(key=_window)
    for part in parts[1:]:
        _require_same(parts[0], part)
    held = [part for part in parts if _window(part)[0] < _window(part)[1]]
    for part, other in pairwise(held):
        if _window(other)[0] < _window(part)[1]:
            raise UnsupportedFormatError(
                f"{part.path} and {other.path} cannot be parts of one dump: both say they have page frame "
                f"{_window(other)[0]:#x}; give every part once"
            )
    # Parts without a page (makedumpfile writes such, too) add nothing but their names.
    return open_parts([*held, *(part for part in parts if part not in held)] if held else parts)


def _window(part: KdumpFile) -> tuple[int, int]:
    assert part.header.window is not None
    return part.header.window


def _require_same(part: KdumpFile, other: KdumpFile) -> None:
    """Raise :class:`UnsupportedFormatError` unless both have the headers, VMCOREINFO and bitmaps of one dump.

    makedumpfile's own ``--reassemble`` compares the first of these (``store_splitting_info``).
    """
    size = MAIN_HEADER.sizeof()
    what = ""
    if part.source[:size] != other.source[:size]:
        what = "the headers (machine, kernel, time, sizes) differ"
    elif part.header.vmcoreinfo != other.header.vmcoreinfo or _text(part) != _text(other):
        what = "VMCOREINFO differs"
    elif part.header.max_mapnr != other.header.max_mapnr or not _same_bitmaps(part, other):
        what = "the bitmaps differ"
    if what:
        raise UnsupportedFormatError(
            f"{part.path} and {other.path} are not parts of one dump: {what}; give the parts of one dump"
        )


def _text(part: KdumpFile) -> memoryview:
    at, size = part.header.vmcoreinfo or (0, 0)
    return part.source[at : at + size]


def _same_bitmaps(part: KdumpFile, other: KdumpFile) -> bool:
    start, end = part.header.bitmap_at, part.header.descriptors_at
    if (start, end) != (other.header.bitmap_at, other.header.descriptors_at):
        return False
    return all(
        part.source[at : min(at + _STEP, end)] == other.source[at : min(at + _STEP, end)]
        for at in range(start, end, _STEP)
    )
