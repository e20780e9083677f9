"""What kinds of memory are scanned, and the pages of each kind in the order in which programs see them."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import last_rows_of, sort_order, values_at
from vmaforensics.columns.ragged import expand, expand_ranges
from vmaforensics.columns.table import Table, column, table
from vmaforensics.columns.types import I64, U8, U64
from vmaforensics.views.pages.frame_kinds import ANON_KINDS, FREE_KINDS, FrameKind
from vmaforensics.views.pages.mapped_pages import read_pages
from vmaforensics.views.pages.ptes import place_keys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.compare.known_regions import KnownRegions
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.entries import Entries
    from vmaforensics.views.views import Views

_MOST_FRAMES = 1 << 28  # 1 TiB
_FREE_AT_ONCE = 1 << 22  # 16 GiB; to plan so many takes a few hundred MiB
_MOST_SHARED = 64  # times as many pages as the image has frames: what large entries may map altogether


class PlaceKind(IntEnum):
    """Where memory is, for what finds something in it."""

    FILE = 0  # page cache, memory files too: in the order of the file
    REGION = 1  # of a process, in the order of addresses
    TASKLESS = 2  # through page tables of an mm that is no process's
    UNMAPPED = 3  # anonymous memory and buffers that no page table leads to
    UNOWNED = 4  # frames in use that nobody accounts for
    FREE = 5  # free frames: what was there before

    @property
    def label(self) -> str:
        """The kind in words."""
        return (
            "page cache",
            "process memory",
            "memory of an mm without a task",
            "memory that no page table leads to",
            "frames that nobody accounts for",
            "free frames",
        )[self]

    @property
    def word(self) -> str:
        """What options call it."""
        return ("files", "processes", "taskless", "unmapped", "unowned", "free")[self]


@table()
class PlacePages(Table):
    """Pages to scan, in the order in which they lie one behind the other: what follows in ``at`` of one ``owner`` is
    scanned together."""

    kind: U8  # PlaceKind
    owner: I64 = column(fill=-1)  # of regions the row; of files the address_space; else 0
    at: U64  # page of the address space, of the file, or of memory
    pfn: U64


class Mapped(NamedTuple):
    """Every page that page tables of processes lead to, by frame: who has it, and where."""

    pfn: U64
    va: U64
    mm_row: I64
    region: I64  # row of the regions, -1 for none
    left_out: int  # large entries, beyond the most that is looked at


def mapped_pages_of(kernel: Kernel, views: Views, regions: KnownRegions) -> Mapped:
    """The pages of all processes, by process and address. Pages of zeros and raw frames of devices are left out."""
    view = views.page_tables
    if view is None:
        none = np.zeros(0, np.uint64)
        return Mapped(none, none, none.astype(np.int64), none.astype(np.int64), 0)
    mm_row, va, pfn, left_out = _expanded(kernel, view.entries)
    rows = regions.rows
    keys = place_keys(kernel.arch, rows.mm_row, rows.start)
    order = np.argsort(keys, kind="stable")
    near = last_rows_of(keys[order], place_keys(kernel.arch, mm_row, va))
    region = values_at(order, near, -1)
    fits = (region >= 0) & (values_at(rows.mm_row, region, -1) == mm_row) & (va < values_at(rows.end, region))
    return Mapped(pfn, va, mm_row, np.where(fits, region, -1), left_out)


class _Expanded(NamedTuple):
    """Every page that entries map and somebody counts."""

    mm_row: I64
    va: U64
    pfn: U64
    left_out: int  # large entries


def _expanded(kernel: Kernel, entries: Entries) -> _Expanded:
    """The pages of ``entries``. One word maps a GiB, so that a table of them would be more than any memory has room
    for: of large entries as many are taken as a machine of this size could share out."""
    mm_rows, vas, pfns = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    room, left_out = _MOST_SHARED * kernel.memory.most_held(), 0
    for _, ptes in entries.batches():
        kept = ptes.take(ptes.maps_frames() & ~ptes.special)
        large = np.where(kept.level > 1, kept.pages(kernel.arch), 0)
        fits = (large == 0) | (np.cumsum(large) <= room)
        room -= int(large[fits].sum())
        left_out += int((~fits).sum())
        kept = kept.take(fits)
        row, place = expand(kept.pages(kernel.arch))
        number = place.astype(np.uint64)
        mm_rows.append(kept.mm_row[row].astype(np.int64))
        vas.append(kept.va[row] + kernel.arch.bytes_of(number))
        pfns.append(kept.pfn[row] + number)
    return _Expanded(np.concatenate(mm_rows), np.concatenate(vas), np.concatenate(pfns), left_out)


def file_pages(kernel: Kernel, views: Views) -> PlacePages:
    """The page cache of every file, by file; without the account of all frames, what processes map of it."""
    if views.frames is not None:
        kinds = views.frames.kinds
        pfns = kinds.all_of(FrameKind.PAGE_CACHE)[:_MOST_FRAMES]
        pages = read_pages(kernel, pfns)
    elif views.page_tables is not None:
        pages = views.page_tables.pages
    else:
        return PlacePages.zeros(0)
    pages = pages.take(pages.ok & ~pages.anon & (pages.mapping != 0))
    order = sort_order(pages.mapping, pages.index, pages.pfn)
    return PlacePages.of(
        kind=np.full(len(pages), PlaceKind.FILE),
        owner=pages.mapping[order].view(np.int64),
        at=pages.index[order],
        pfn=pages.pfn[order],
    )


def region_pages_of(kernel: Kernel, mapped: Mapped) -> PlacePages:
    """The memory of processes by region and address."""
    return PlacePages.of(
        kind=np.full(len(mapped.pfn), PlaceKind.REGION),
        owner=np.where(mapped.region >= 0, mapped.region, -2 - mapped.mm_row),
        at=kernel.arch.pages(mapped.va),
        pfn=mapped.pfn,
    )


def taskless_pages(kernel: Kernel, views: Views) -> PlacePages:
    """The memory of address spaces that are no process's, by address space and address."""
    if views.page_tables is None:
        return PlacePages.zeros(0)
    row, va, pfn, _ = _expanded(kernel, views.page_tables.taskless)
    return PlacePages.of(kind=np.full(len(pfn), PlaceKind.TASKLESS), owner=row, at=kernel.arch.pages(va), pfn=pfn)


def frame_pages_of(views: Views, mapped: Mapped) -> PlacePages:
    """Frames in use, by number, that none of the others has: unmapped and unowned ones."""
    if views.frames is None:
        return PlacePages.zeros(0)
    kinds = views.frames.kinds
    lost = kinds.are(*ANON_KINDS, FrameKind.HUGETLB, FrameKind.KEPT, FrameKind.MAPPED)
    at = kinds.rows(mapped.pfn)
    lost[at[at >= 0]] = False
    parts = []
    for kind, every in (
        (PlaceKind.UNMAPPED, kinds.pfns(np.flatnonzero(lost).astype(np.int64))),
        (PlaceKind.UNOWNED, kinds.all_of(FrameKind.KERNEL)),
    ):
        pfns = every[:_MOST_FRAMES]
        parts.append(PlacePages.of(kind=np.full(len(pfns), kind), owner=np.zeros(len(pfns)), at=pfns, pfn=pfns))
    return PlacePages.concatenate(parts)


def free_pages_of(views: Views, most: int = _FREE_AT_ONCE) -> Iterator[PlacePages]:
    """Free frames by number, at most so many at a time: of most of a large machine's there may be nothing else."""
    if views.frames is None:
        return
    starts, ends = views.frames.kinds.ranges_of(*FREE_KINDS).astype(np.int64).T
    upto = np.cumsum(ends - starts)
    for low in range(0, min(int(upto[-1]) if len(upto) else 0, _MOST_FRAMES), most):
        first, last = np.searchsorted(upto, [low, low + most], "right").tolist()
        some = slice(first, last + 1)
        before = upto[some] - (ends[some] - starts[some])
        begin = starts[some] + np.maximum(low - before, 0)
        end = np.minimum(ends[some], starts[some] + (low + most - before))
        pfns = expand_ranges(begin, end)[1].astype(np.uint64)
        yield PlacePages.of(kind=np.full(len(pfns), PlaceKind.FREE), owner=np.zeros(len(pfns)), at=pfns, pfn=pfns)


def kinds_named(words: str) -> tuple[PlaceKind, ...]:
    """The kinds that a comma-separated list names. Raises :class:`ValueError` for a word that is none."""
    by_word = {kind.word: kind for kind in PlaceKind}
    named = [word.strip() for word in words.split(",") if word.strip()]
    for word in named:
        if word not in by_word:
            raise ValueError(f"there is no kind of memory {word!r}; known are {', '.join(by_word)}")
    return tuple(by_word[word] for word in named)
