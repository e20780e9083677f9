"""Which frames have a struct page, and the batches in which all of these are looked at.

A machine has a struct page for each 4 KiB, 16 GiB of them for a TiB of RAM, and most of its RAM may never have been
used. The largest free blocks of the buddy allocator need no look at each of their frames: the first struct page of a
block stands for all, and the lists of free blocks prove that it is one (:func:`free_runs`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.ragged import expand_ranges
from vmaforensics.columns.runs import begins_range, ranges_without, run_lasts, run_starts
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U32, U64
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.views.pages.free_lists import on_lists, zones
from vmaforensics.views.pages.page_types import PageReader, type_code

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vmaforensics.kernel.kernel import Kernel

# Of compound pages and free blocks: 1 GiB of pages of 4 KiB. Heads and free blocks lie in the same batch.
LARGEST_ORDER = 18
_AT_ONCE = 1 << 12  # blocks
_LEAST = 1 << 14  # frames that are worth cutting a batch for: 64 MiB


def described(reader: PageReader) -> U64:
    """``(n, 2)`` ranges ``[first, end)`` of frames of RAM that the kernel has struct pages of; ascending and disjoint.

    A header may claim any amount of RAM, and page tables may map one page over and over: no more frames are
    given than the pages the image holds have room to describe.
    """
    page, ranges = reader.kernel.arch.page_size, reader.kernel.memory.ranges.tolist()
    return described_in(reader, [(start // page, -(-end // page)) for start, end in ranges])


def described_in(reader: PageReader, within: Iterable[tuple[int, int]]) -> U64:
    """``(n, 2)`` ranges ``[first, end)`` of frames in those of ``within``, which ascend, that the kernel has struct
    pages of; no more frames than :func:`described`. A frame that two of ``within`` share is given once."""
    kernel = reader.kernel
    runs = kernel.space.runs
    runs = runs.take(runs.end >= reader.base)
    size = np.uint64(reader.size)
    low = (np.maximum(runs.start, reader.base) - reader.base + size - np.uint64(1)) // size
    high = (runs.end - reader.base + np.uint64(1)) // size
    room = kernel.memory.most_held() * (kernel.memory.page_size // reader.size)
    found: list[tuple[int, int]] = []
    follows = 0
    for first, last in within:
        near = slice(int(np.searchsorted(high, first, "right")), int(np.searchsorted(low, last, "left")))
        for begin, stop in zip(low[near].tolist(), high[near].tolist(), strict=True):
            begin = max(begin, first, follows)
            stop = min(stop, last, begin + room)
            if begin < stop:
                found.append((begin, stop))
                room -= stop - begin
                follows = stop
    return np.array(found, np.uint64).reshape(-1, 2)


def batches(kernel: Kernel, spans: U64) -> Iterator[tuple[int, int]]:
    """``[first, end)`` of the frames in ``spans``, ascending ranges of frames, without those of :func:`free_runs`.

    They come in pieces that no naturally aligned block of the largest compound page straddles.
    """
    batch = 1 << LARGEST_ORDER
    for low, last in ranges_without(spans, kernel.shared(free_runs)).tolist():
        while low < last:
            high = min((low | (batch - 1)) + 1, last)
            yield low, high
            low = high


@table(struct="page")
class _Blocks(Table):
    """The first struct page of a block of the largest order, if it is free."""

    after: U64 = member("buddy_list.next|lru.next")  # buddy_list: 6.0, commit bf75f200569d
    before: U64 = member("buddy_list.prev|lru.prev")
    order: U64 = member("private")
    page_type: U32 = member("page_type")


def free_runs(kernel: Kernel) -> U64:
    """``(n, 2)`` ranges ``[first, end)`` of frames that are free in blocks of the largest order, 64 MiB or more at a
    time; none where this kernel's lists are not known. Ask ``kernel.shared(free_runs)``.

    The first page of each says that it is such a block, and mutual links lead from it to the head of a list of free
    blocks (``zone.free_area``, mm/page_alloc.c). What the other struct pages of a block say the allocator does not ask,
    and nobody else has a reason to.
    """
    try:
        reader = PageReader(kernel)
        heads, top = _list_heads(kernel)
        buddy = type_code(kernel, "buddy")
        link = kernel.offset("page", "buddy_list|lru")
    except KernelNotFoundError:
        return np.zeros((0, 2), np.uint64)
    if buddy is None:
        return np.zeros((0, 2), np.uint64)
    size = np.uint64(1 << top)
    spans = described(reader)
    # Blocks that lie in a range altogether.
    _, numbers = expand_ranges((spans[:, 0] + size - np.uint64(1)) // size, spans[:, 1] // size)
    pfns = numbers.astype(np.uint64) * size
    found, firsts = [_Blocks.zeros(0)], [np.zeros(0, np.uint64)]
    for low in range(0, len(pfns), _AT_ONCE):
        part = pfns[low : low + _AT_ONCE]
        rows, ok = kernel.gather(_Blocks, reader.addresses(part))
        may_be = ok & buddy.matches(rows.page_type) & (rows.order == np.uint64(top))
        found.append(rows.take(may_be))
        firsts.append(part[may_be])
        kernel.memory.release()  # each lies far from the next, and a system maps what lies around it too
    rows, pfns = _Blocks.concatenate(found), np.concatenate(firsts)
    links, read = kernel.words(heads, 2)
    links = np.concatenate([links, np.stack([rows.after, rows.before], axis=1)])
    read = np.concatenate([read, np.ones(len(rows), np.bool_)])
    listed = on_lists(len(heads), np.concatenate([heads, reader.addresses(pfns) + np.uint64(link)]), links, read) >= 0
    pfns = pfns[listed[len(heads) :]]
    at = run_starts(begins_range(pfns, pfns + size))
    runs = np.stack([pfns[at], pfns[run_lasts(at, len(pfns))] + size], axis=1)
    long: U64 = runs[runs[:, 1] - runs[:, 0] >= _LEAST]
    return long


def _list_heads(kernel: Kernel) -> tuple[U64, int]:
    """(address of the head of each list of blocks of the largest order, of every zone; that order)."""
    areas, lists = kernel.member("zone", "free_area"), kernel.member("free_area", "free_list")
    top = (areas.count or 1) - 1
    steps = np.arange(lists.count or 1, dtype=np.uint64) * np.uint64(lists.size)
    at = areas.offset + top * areas.size + lists.offset
    with np.errstate(over="ignore"):
        heads: U64 = (zones(kernel)[:, None] + (steps + np.uint64(at))[None, :]).reshape(-1)
    return heads, top
