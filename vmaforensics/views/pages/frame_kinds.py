"""What every page frame is used for, as ``struct page`` tells (include/linux/mm_types.h, page-flags.h).

This decides what may go into an excerpt, so a doubt is resolved towards user data.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import rows_of, values_at
from vmaforensics.image.memory import PageState
from vmaforensics.views.pages.free_lists import per_cpu_free
from vmaforensics.views.pages.page_types import PageReader, bit_set, type_code

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.arch.interface import Architecture
    from vmaforensics.columns.types import I64, U8, U64, Bools
    from vmaforensics.kernel.kernel import Kernel

# Of compound pages and free blocks: 1 GiB of pages of 4 KiB. Heads and free blocks lie in the same batch.
_LARGEST_ORDER = 18


class FrameKind(IntEnum):
    """What a page frame is used for."""

    UNKNOWN = 0  # its struct page is not in the image, or there is none
    FREE = 1  # in the buddy allocator or on a per-CPU list, or given back to the hypervisor
    ANONYMOUS = 2  # user memory without a file, KSM and swap cache; also compressed swap (zsmalloc)
    PAGE_CACHE = 3  # of files and block devices, and shared memory
    HUGETLB = 4  # used or not
    SLAB = 5
    PAGE_TABLE = 6
    RESERVED = 7  # the kernel image, vmemmap and whatever was allocated at boot; firmware's memory
    KERNEL = 8  # everything else: stacks, vmalloc, per-CPU memory, buffers of drivers

    @property
    def label(self) -> str:
        """The kind in words."""
        return (
            "unknown",
            "free",
            "anonymous",
            "page cache",
            "hugetlb",
            "slab",
            "page tables",
            "reserved",
            "kernel",
        )[self]


USER_KINDS = (FrameKind.ANONYMOUS, FrameKind.PAGE_CACHE, FrameKind.HUGETLB)


def classify_frames(kernel: Kernel) -> tuple[U64, U8]:
    """``(pfns, kinds)`` of all page frames of RAM, ascending; kinds are :class:`FrameKind`.

    Tail pages of a compound page are what its head is. Frames of which the kernel has no struct page are left
    out (see :func:`described`). Raises
    :class:`KernelNotFoundError` if the kernel's types do not have ``struct page`` as we know it.

    >>> pfns, kinds = classify_frames(kernel)
    >>> pfns[kinds == FrameKind.PAGE_TABLE]
    """
    reader = PageReader(kernel)
    all_pfns, all_kinds = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint8)]
    for pfns in frame_batches(kernel.arch, described(reader)):
        all_pfns.append(pfns)
        all_kinds.append(_classify(kernel, reader, pfns))
    pfns, kinds = np.concatenate(all_pfns), np.concatenate(all_kinds)
    _free_blocks(pfns, kinds, *per_cpu_free(kernel, reader))
    return pfns, kinds


def kinds_of_frames(kernel: Kernel, pfns: U64) -> U8:
    """The kind of each of a few frames ``pfns``; only what lies near them is read.

    Raises :class:`KernelNotFoundError` as :func:`classify_frames` does.
    """
    reader = PageReader(kernel)
    block = np.uint64((1 << kernel.arch.max_order) - 1)
    all_pfns, all_kinds = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint8)]
    for first in np.unique(pfns & ~block):
        all_pfns.append(first + np.arange(block + np.uint64(1), dtype=np.uint64))
        all_kinds.append(_classify(kernel, reader, all_pfns[-1]))
    near, kinds = np.concatenate(all_pfns), np.concatenate(all_kinds)
    if len(near):
        _free_blocks(near, kinds, *per_cpu_free(kernel, reader))
    return kinds_of(pfns, near, kinds)


def kinds_of(wanted: U64, pfns: U64, kinds: U8) -> U8:
    """The kind of each of ``wanted``, by what :func:`classify_frames` returned; UNKNOWN where not RAM."""
    return values_at(kinds, rows_of(pfns, wanted), FrameKind.UNKNOWN)


def described(reader: PageReader) -> U64:
    """``(n, 2)`` ranges ``[start, end)`` of RAM, in bytes, that the kernel has struct pages of.

    A header may claim any amount of RAM, and page tables may map one page over and over: no more frames are
    given than the pages the image holds have room to describe.
    """
    kernel = reader.kernel
    page, shift = kernel.arch.page_size, kernel.arch.page_shift
    runs = kernel.space.runs
    runs = runs.take(runs.end >= reader.base)
    size = np.uint64(reader.size)
    low = (np.maximum(runs.start, reader.base) - reader.base + size - np.uint64(1)) // size
    high = (runs.end - reader.base + np.uint64(1)) // size
    counts = kernel.memory.frame_counts()
    room = int(counts[PageState.PRESENT] + counts[PageState.ZERO]) * (kernel.memory.page_size // reader.size)
    found: list[tuple[int, int]] = []
    for start, end in kernel.memory.ranges.tolist():
        first, last = start >> shift, -(-end // page)
        near = slice(int(np.searchsorted(high, first, "right")), int(np.searchsorted(low, last, "left")))
        for begin, stop in zip(low[near].tolist(), high[near].tolist(), strict=True):
            begin = max(begin, first)
            stop = min(stop, last, begin + room)
            if begin < stop:
                found.append((begin << shift, stop << shift))
                room -= stop - begin
    return np.array(found, np.uint64).reshape(-1, 2)


def frame_batches(arch: Architecture, ranges: U64) -> Iterator[U64]:
    """Frame numbers in ``ranges`` of RAM (shape ``(n, 2)``, bytes), ascending.

    They come in pieces that no naturally aligned block of the largest compound page straddles.
    """
    batch = 1 << _LARGEST_ORDER
    follows = 0
    for start, end in ranges.tolist():
        low, last = max(start >> arch.page_shift, follows), -(-end // arch.page_size)
        follows = max(last, follows)
        while low < last:
            high = min((low | (batch - 1)) + 1, last)
            yield np.arange(low, high, dtype=np.uint64)
            low = high


def _classify(kernel: Kernel, reader: PageReader, pfns: U64) -> U8:
    """Kinds of consecutive frames ``pfns``, by page_type, flags and mapping (include/linux/page-flags.h)."""
    rows, ok = reader.read(pfns)
    kinds = np.full(len(pfns), FrameKind.KERNEL, np.uint8)

    def flag(name: str) -> Bools:
        bit = kernel.types.constant(name)
        if bit is None or bit >= 64:
            return np.zeros(len(pfns), np.bool_)
        return bit_set(rows.flags, bit)

    def typed(name: str) -> Bools:
        code = type_code(kernel, name)
        return np.zeros(len(pfns), np.bool_) if code is None else code.matches(rows.page_type)

    # From the weakest evidence to the strongest. The low bits of mapping: 1 anonymous, 3 KSM, and up to 6.16
    # 2 for movable pages, which are zsmalloc's (compressed user data) and the balloon's (nothing).
    mapping = rows.mapping
    # A page on an LRU list without a mapping is a truncated one, or shared memory in the swap cache.
    kinds[(mapping != 0) | flag("PG_lru")] = FrameKind.PAGE_CACHE
    swap_cache = flag("PG_swapcache") & flag("PG_swapbacked")
    kinds[((mapping & np.uint64(3)) != 0) | swap_cache] = FrameKind.ANONYMOUS
    kinds[flag("PG_reserved")] = FrameKind.RESERVED
    kinds[typed("zsmalloc")] = FrameKind.ANONYMOUS
    kinds[typed("table")] = FrameKind.PAGE_TABLE
    # Where slab is a page flag, slab_cache lies where mapping would: this must come after.
    slab = type_code(kernel, "slab")
    kinds[flag("PG_slab") if slab is None else slab.matches(rows.page_type)] = FrameKind.SLAB
    kinds[typed("large_kmalloc")] = FrameKind.KERNEL
    kinds[reader.hugetlb_heads(rows, reader.tail_words(pfns))] = FrameKind.HUGETLB
    kinds[~ok] = FrameKind.UNKNOWN

    heads = reader.heads(pfns, rows)
    tail = ok & (heads != pfns)
    at = heads[tail] - pfns[0]
    known = at < len(pfns)  # a head elsewhere is no head: it lies in the same block of memory
    kinds[tail] = np.where(known, kinds[np.where(known, at, 0).astype(np.int64)], FrameKind.UNKNOWN)

    kinds[ok & typed("offline")] = FrameKind.FREE
    buddy = np.flatnonzero(ok & typed("buddy"))
    _free_blocks(pfns, kinds, pfns[buddy], rows.private[buddy].astype(np.int64))
    return kinds


def _free_blocks(pfns: U64, kinds: U8, firsts: U64, orders: I64) -> None:
    """Mark the ``2**order`` frames from each of ``firsts`` as free: only a block's first page says so."""
    possible = (orders >= 0) & (orders <= _LARGEST_ORDER)
    firsts, orders = firsts[possible], orders[possible]
    edges = np.zeros(len(pfns) + 1, np.int64)
    with np.errstate(over="ignore"):
        ends = firsts + (np.uint64(1) << orders.astype(np.uint64))
    np.add.at(edges, np.searchsorted(pfns, firsts), 1)
    np.add.at(edges, np.searchsorted(pfns, ends), -1)
    kinds[np.cumsum(edges[:-1]) > 0] = FrameKind.FREE
