"""The pages of a region a piece at a time; of a large region, pieces without any entry are not looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.compare.ranges import entries_within
from vmaforensics.export.page_source import (
    NOT_MAPPED,
    UNKNOWN,
    UNTOUCHED,
    PageSources,
    complete,
    complete_vdso,
    mapped_pages,
)
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.compare.known_regions import KnownRegions
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views

PIECE = 1 << 12  # pages looked at together
_SMALL = 1 << 16  # pages up to which a region is looked at whole


class Piece(NamedTuple):
    """Neighbouring pages of a region. Without ``pages`` all are of one ``state``, and none has bytes."""

    start: int
    end: int
    pages: PageSources | None
    state: int


def region_pages(
    kernel: Kernel, views: Views, regions: KnownRegions, row: int, bounds: tuple[int, int] | None = None
) -> Iterator[Piece]:
    """The pieces of a region, or of what lies of it within ``bounds``, in order of address; of pages of a file that no
    entry maps, what the page cache has."""
    rows, shift = regions.rows, kernel.arch.page_shift
    origin, end, mm = int(rows.start[row]), int(rows.end[row]), int(rows.mm[row])
    start = origin
    if bounds is not None:
        start, end = max(start, bounds[0]), min(end, bounds[1])
    mapping = file_mapping(views, int(rows.file[row]))
    vdso = _vdso_image(kernel, views, regions, row) if rows.kind[row] == Kind.SPECIAL else None
    step = PIECE << shift
    large = (end - start) >> shift > _SMALL
    firsts = _pieces_with_entries(views, mm, start, end, step) if large else range(start, end, step)
    whole = views.page_tables is not None and bool(views.page_tables.whole[int(rows.mm_row[row])])
    private = not rows.file[row] and rows.kind[row] == Kind.ANONYMOUS  # a page never written is one of zeros
    empty = UNKNOWN if not whole else UNTOUCHED if private else NOT_MAPPED
    at = start
    for first in firsts:
        if first > at:
            yield Piece(at, first, None, empty)
        at = min(first + step, end)
        pages = mapped_pages(kernel, views.mms, views.page_tables, mm, first, at)
        if mapping or private:
            place = int(rows.pgoff[row]) + ((first - origin) >> shift)
            complete(kernel, pages, mapping, place % (1 << 64))
        elif vdso and at - origin <= vdso.size:
            complete_vdso(kernel, pages, vdso.data, (first - origin) >> shift)
        yield Piece(first, at, pages, empty)
    if at < end:
        yield Piece(at, end, None, empty)


def file_mapping(views: Views, file: int) -> int:
    """The ``address_space`` of a regular file that VMAs map; 0 for none."""
    if not file or views.files is None:
        return 0
    row = int(views.files.rows_of(np.array([file], np.uint64))[0])
    files = views.files.rows
    return int(files.mapping[row]) if row >= 0 and files.ok[row] and files.regular[row] else 0


class _Image(NamedTuple):
    """The kernel's copy of a vDSO."""

    data: int
    size: int  # bytes, whole pages


def _vdso_image(kernel: Kernel, views: Views, regions: KnownRegions, row: int) -> _Image | None:
    """The image that the process of a region has its vDSO from, if that is the region (vdso_fault)."""
    mm_row = int(regions.rows.mm_row[row])
    if mm_row < 0 or views.mms.vdso[mm_row] != regions.rows.start[row] or not kernel.has("vdso_image", "data"):
        return None
    images, ok = kernel.gather_member("mm_struct", "context.vdso_image?", regions.rows.mm[row : row + 1])
    data, data_ok = kernel.gather_member("vdso_image", "data", images)
    size, size_ok = kernel.gather_member("vdso_image", "size", images)
    fits = ok[0] and data_ok[0] and size_ok[0] and kernel.arch.kernel_pointer(data)[0]
    page = kernel.arch.page_size
    return _Image(int(data[0]), -(-int(size[0]) // page) * page) if fits else None


def _pieces_with_entries(views: Views, mm: int, start: int, end: int, step: int) -> list[int]:
    """Where those pieces of ``[start, end)`` begin that some entry maps a part of."""
    view = views.page_tables
    if view is None:
        return []
    rows = entries_within(views, mm, start, end)
    ptes = view.entries.take(slice(rows.start, rows.stop))
    low = (np.maximum(ptes.va, np.uint64(start)) - np.uint64(start)) // np.uint64(step)
    high = (np.minimum(ptes.ends(view.arch), np.uint64(end)) - np.uint64(start + 1)) // np.uint64(step)
    spans = {(int(first), int(last)) for first, last in zip(low.tolist(), high.tolist(), strict=True)}
    numbers = {number for first, last in spans for number in range(first, last + 1)}
    return [start + number * step for number in sorted(numbers)]
