"""The memory of a process as segments of a core file: what has bytes, what is zeros, what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import ALLOW_EXECUTE, ALLOW_USER, ALLOW_WRITE
from vmaforensics.columns.runs import begins_run, run_lasts, run_starts
from vmaforensics.columns.table import Table, column, table
from vmaforensics.columns.types import I64, U8, U64
from vmaforensics.export.page_source import STATES, UNTOUCHED, PageSources
from vmaforensics.export.region_pages import region_pages
from vmaforensics.views.vmas.flags import VM_EXEC, VM_READ, VM_WRITE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.compare.known_regions import KnownRegions
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views

_NAMES = tuple(STATES)
_LONG = 1 << 12  # untouched pages from which on a run of them is a segment without bytes


@table()
class Segments(Table):
    """Segments by address; they do not overlap."""

    start: U64
    end: U64
    flags: U8  # PF_R, PF_W, PF_X
    has_bytes: U8  # 1: the file has its bytes, 0: it does not
    region: I64 = column(fill=-1)  # row of the regions


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The segments, the pages with bytes in order of address, and what is missing."""

    segments: Segments
    pages: PageSources
    missing: list[dict[str, object]]  # runs of pages without bytes: start, pages, state
    counts: dict[str, int]  # pages by state


def lay_out(kernel: Kernel, views: Views, regions: KnownRegions) -> Layout:
    """The segments of ``regions``, which are of one address space and sorted. Where they overlap, the one that begins
    first has the pages: what they hold is the same, for it is read through the page tables."""
    segments: list[Segments] = []
    held: list[PageSources] = []
    missing: list[dict[str, object]] = []
    counts: dict[str, int] = {}
    reach = 0
    size = kernel.arch.page_size
    for row in range(len(regions.rows)):
        flags = _flags(int(regions.rows.flags[row]), int(regions.rows.allow[row]), run=not regions.rows.vma[row])
        for start, end, state, pages in _runs(kernel, views, regions, row):
            low = max(start, reach)
            if low >= end:
                continue
            written = pages is not None
            count = (end - low) // size
            counts[_NAMES[state]] = counts.get(_NAMES[state], 0) + count
            if pages is not None:
                held.append(pages.take(slice((low - start) // size, None)))
            elif state != UNTOUCHED:
                missing.append({"start": hex(low), "pages": count, "state": _NAMES[state]})
            segments.append(Segments.of(start=[low], end=[end], flags=[flags], has_bytes=[int(written)], region=[row]))
        reach = max(reach, int(regions.rows.end[row]))
    return Layout(
        segments=_joined(Segments.concatenate(segments)),
        pages=PageSources.concatenate(held),
        missing=missing,
        counts=counts,
    )


def _runs(
    kernel: Kernel, views: Views, regions: KnownRegions, row: int
) -> Iterator[tuple[int, int, int, PageSources | None]]:
    """Runs ``(start, end, state, pages)`` of a region; ``pages`` are None where the file has no bytes of them."""
    size = kernel.arch.page_size
    for piece in region_pages(kernel, views, regions, row):
        if piece.pages is None:
            yield piece.start, piece.end, piece.state, None
            continue
        first = run_starts(begins_run(piece.pages.state))
        for low, last in zip(first.tolist(), run_lasts(first, len(piece.pages)).tolist(), strict=True):
            state = int(piece.pages.state[low])
            pages = piece.pages.take(slice(low, last + 1))
            written = bool(pages.known[0]) and not (state == UNTOUCHED and len(pages) >= _LONG)
            start = piece.start + low * size
            yield start, start + len(pages) * size, state, pages if written else None


def _joined(segments: Segments) -> Segments:
    """Neighbours of one region that are alike, as one."""
    if not len(segments):
        return segments
    begins = begins_run(segments.region, segments.has_bytes)
    begins[1:] |= segments.start[1:] != segments.end[:-1]
    first = run_starts(begins)
    found = segments.take(first)
    found.end[:] = segments.end[run_lasts(first, len(segments))]
    return found


def _flags(vm_flags: int, allow: int, *, run: bool) -> int:
    """PF_* of a VMA, or of a run of entries."""
    words = (allow & ALLOW_USER, allow & ALLOW_WRITE, allow & ALLOW_EXECUTE)
    if not run:
        words = (vm_flags & VM_READ, vm_flags & VM_WRITE, vm_flags & VM_EXEC)
    return sum(flag for flag, word in zip((4, 2, 1), words, strict=True) if word)


def total(segments: Segments) -> int:
    """Bytes that the file has of all segments."""
    return int((segments.end - segments.start)[np.asarray(segments.has_bytes, np.bool_)].sum())
