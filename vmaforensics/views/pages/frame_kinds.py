"""What every page frame is used for, as ``struct page`` tells (include/linux/mm_types.h, page-flags.h).

This decides what may go into an excerpt, so a doubt is resolved towards user data.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import covering_rows, distinct, values_at
from vmaforensics.columns.ragged import expand_ranges
from vmaforensics.columns.runs import run_lasts, run_starts, true_ranges
from vmaforensics.views.pages.frame_ranges import LARGEST_ORDER, batches, described, free_runs
from vmaforensics.views.pages.free_lists import listed_free, per_cpu_free
from vmaforensics.views.pages.page_types import PageReader, type_code

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64, U8, U64, Bools
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.page_types import TypeCode

_FLAG_BITS = 32  # page flags lie in the lower half of the word
_TYPED, _UNMAPPED = np.uint32(1 << 31), np.uint32(0xFFFFFFFF)  # set in every page type; a map count of none


class FrameKind(IntEnum):
    """What a page frame is used for."""

    UNKNOWN = 0  # its struct page is not in the image, or there is none
    FREE = 1  # in the buddy allocator, or given back to the hypervisor
    PER_CPU_FREE = 2  # free, on the list of a CPU
    ANONYMOUS = 3  # user memory without a file
    KSM = 4  # the same, one page for equal ones
    SWAP_CACHE = 5
    MOVABLE = 6  # compressed swap (zsmalloc), or a balloon's: moved about by their drivers
    PAGE_CACHE = 7  # of files and block devices, and shared memory
    HUGETLB = 8  # used or not
    SLAB = 9
    LARGE_KMALLOC = 10  # too large for a slab; marked since 6.14
    PAGE_TABLE = 11
    RESERVED = 12  # the kernel image, vmemmap and whatever was allocated at boot; firmware's memory
    KERNEL = 13  # everything else: stacks, vmalloc, per-CPU memory, buffers of drivers
    # Parts of KERNEL that struct page does not tell apart: see views/frames.
    VMALLOC = 14  # mapped by the kernel's page tables outside of the direct map: vmalloc, modules, stacks
    KERNEL_TABLE = 15  # the kernel's own page tables
    MAPPED = 16  # of drivers that map them into processes
    KEPT = 17  # buffers of pipes and sockets, BPF maps and the like
    SWAP_TABLE = 18  # what counts slots of swap, in kernels without swap_map

    @property
    def label(self) -> str:
        """The kind in words."""
        return (
            "unknown",
            "free",
            "free per CPU",
            "anonymous",
            "KSM",
            "swap cache",
            "movable",
            "page cache",
            "hugetlb",
            "slab",
            "large kmalloc",
            "page tables",
            "reserved",
            "kernel",
            "vmalloc",
            "kernel page tables",
            "mapped by drivers",
            "kept by files",
            "tables of swap",
        )[self]


FREE_KINDS = (FrameKind.FREE, FrameKind.PER_CPU_FREE)
ANON_KINDS = (FrameKind.ANONYMOUS, FrameKind.KSM, FrameKind.SWAP_CACHE)
USER_KINDS = (*ANON_KINDS, FrameKind.MOVABLE, FrameKind.PAGE_CACHE, FrameKind.HUGETLB)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameKinds:
    """The kind of every frame, a byte each; of those that are free in large blocks, a range together."""

    ranges: U64  # ``(n, 2)`` ranges ``[first, end)`` of frames, ascending and disjoint
    kinds: U8  # FrameKind of every frame of the ranges, in their order
    free: U64 = field(default_factory=lambda: np.zeros((0, 2), np.uint64))  # further ranges: all their frames are FREE
    listed: bool = True  # the lists of free pages of every CPU could be read

    def rows(self, pfns: U64) -> I64:
        """Place in ``kinds`` of each of some frames, -1 where it is in none of ``ranges``."""
        row = covering_rows(self.ranges[:, 0], self.ranges[:, 1], pfns)
        before = np.concatenate([[0], np.cumsum(self.ranges[:, 1] - self.ranges[:, 0])]).astype(np.int64)
        into = pfns.astype(np.int64) - values_at(self.ranges[:, 0], row).astype(np.int64)
        return np.where(row >= 0, values_at(before, row) + into, -1)

    def pfns(self, rows: I64) -> U64:
        """Frame number at each place in ``kinds``."""
        ends = np.cumsum(self.ranges[:, 1] - self.ranges[:, 0]).astype(np.int64)
        at = np.searchsorted(ends, rows, "right")
        found: U64 = (self.ranges[at, 1].astype(np.int64) - ends[at] + rows).astype(np.uint64)
        return found

    def are(self, *kinds: FrameKind) -> Bools:
        """Which frames are of one of these kinds, as ``kinds``. Many times as fast as :func:`numpy.isin`, and without
        anything larger than the answer."""
        found = np.zeros(len(self.kinds), np.bool_)
        for kind in kinds:
            found |= self.kinds == kind
        return found

    def all_of(self, *kinds: FrameKind) -> U64:
        """The frames of these kinds, ascending."""
        found = self.pfns(np.flatnonzero(self.are(*kinds)).astype(np.int64))
        if FrameKind.FREE in kinds and len(self.free):
            found = np.sort(np.concatenate([found, expand_ranges(*self.free.T)[1].astype(np.uint64)]))
        return found

    def ranges_of(self, *kinds: FrameKind) -> U64:
        """``(n, 2)`` ranges ``[first, end)`` of the frames of these kinds, ascending; neighbours may touch."""
        are, row = self.are(*kinds), 0
        found = [self.free] if FrameKind.FREE in kinds else [self.free[:0]]
        for first, end in self.ranges.tolist():
            found.append(true_ranges(are[row : row + end - first]).astype(np.uint64) + np.uint64(first))
            row += end - first
        every = np.concatenate(found)
        return every[np.argsort(every[:, 0], kind="stable")]

    def count(self, kind: FrameKind) -> int:
        """How many frames are of a kind."""
        found = int(np.count_nonzero(self.are(kind)))
        return found + int((self.free[:, 1] - self.free[:, 0]).sum()) if kind is FrameKind.FREE else found

    def of(self, pfns: U64) -> U8:
        """The kind of each of some frames; UNKNOWN where the kernel has none such."""
        found = values_at(self.kinds, self.rows(pfns), FrameKind.UNKNOWN)
        found[covering_rows(self.free[:, 0], self.free[:, 1], pfns) >= 0] = FrameKind.FREE
        return found


def classify_frames(kernel: Kernel) -> FrameKinds:
    """The kind of all page frames of RAM.

    Tail pages of a compound page are what its head is. Frames of which the kernel has no struct page are left
    out (see :func:`described`). Raises
    :class:`KernelNotFoundError` if the kernel's types do not have ``struct page`` as we know it.

    >>> kinds = classify_frames(kernel)
    >>> kinds.pfns(np.flatnonzero(kinds.kinds == FrameKind.PAGE_TABLE))
    """
    reader = PageReader(kernel)
    codes = _Codes.of(kernel)
    bounds = list(batches(kernel, described(reader)))
    kinds = [np.zeros(0, np.uint8), *(_classify(reader, codes, first, end - first) for first, end in bounds)]
    found = FrameKinds(
        ranges=np.array(bounds, np.uint64).reshape(-1, 2), kinds=np.concatenate(kinds), free=kernel.shared(free_runs)
    )
    free = listed_free(kernel, reader, found.all_of(FrameKind.KERNEL))
    _free_blocks(found.kinds, found.rows(free.pfns), free.orders, FrameKind.PER_CPU_FREE)
    return replace(found, listed=free.whole)


def kinds_of_frames(kernel: Kernel, pfns: U64) -> U8:
    """The kind of each of a few frames ``pfns``; only what lies near them is read.

    Raises :class:`KernelNotFoundError` as :func:`classify_frames` does.
    """
    reader = PageReader(kernel)
    codes = _Codes.of(kernel)
    size = 1 << kernel.arch.max_order
    firsts = distinct(pfns & ~np.uint64(size - 1))
    kinds = [np.zeros(0, np.uint8), *(_classify(reader, codes, first, size) for first in firsts.tolist())]
    near = FrameKinds(ranges=np.stack([firsts, firsts + np.uint64(size)], axis=1), kinds=np.concatenate(kinds))
    if (near.kinds == FrameKind.KERNEL).any():
        free, orders = per_cpu_free(kernel, reader)
        at = near.rows(free)
        _free_blocks(near.kinds, at[at >= 0], orders[at >= 0], FrameKind.PER_CPU_FREE)
    return near.of(pfns)


def _by_marks() -> U8:
    """The kind for each combination of marks: two low bits of mapping, whether it is there, then PG_lru, PG_swapcache
    with PG_swapbacked, PG_reserved, PG_slab."""
    kinds = np.zeros(1 << 7, np.uint8)
    for marks in range(len(kinds)):
        low, there, lru, swap_cache, reserved, slab = marks & 3, *(marks >> bit & 1 for bit in range(2, 7))
        # From the weakest evidence to the strongest. The low bits: 1 anonymous, 3 KSM, and up to 6.16 2 for movable
        # pages, which are zsmalloc's (compressed user data) and the balloon's (nothing).
        kind = FrameKind.KERNEL
        if there or lru:  # on an LRU list without a mapping: truncated, or shared memory in the swap cache
            kind = FrameKind.PAGE_CACHE
        if low:
            kind = (FrameKind.ANONYMOUS, FrameKind.MOVABLE, FrameKind.KSM)[low - 1]
        if swap_cache:
            kind = FrameKind.SWAP_CACHE
        if reserved:
            kind = FrameKind.RESERVED
        if slab:  # slab_cache lies where mapping would
            kind = FrameKind.SLAB
        kinds[marks] = kind
    return kinds


_BY_MARKS = _by_marks()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Codes:
    """How this kernel says what a frame is: page flags as masks (0 for those it does not have), and page types."""

    lru: int
    head: int
    slab: int  # 0 where it is a page type
    reserved: int
    swap_cache: int  # with PG_swapbacked, both have to be set
    types: tuple[tuple[FrameKind, TypeCode], ...]  # from the weakest to the strongest
    offline: TypeCode | None
    buddy: TypeCode | None

    @classmethod
    def of(cls, kernel: Kernel) -> _Codes:
        """Those of a kernel."""

        def flag(name: str) -> int:
            bit = kernel.types.constant(name)
            return 1 << bit if bit is not None and 0 <= bit < _FLAG_BITS else 0

        types = (
            (FrameKind.MOVABLE, "zsmalloc"),
            (FrameKind.PAGE_TABLE, "table"),
            (FrameKind.SLAB, "slab"),
            (FrameKind.LARGE_KMALLOC, "large_kmalloc"),
        )
        coded = ((kind, type_code(kernel, name)) for kind, name in types)
        both = flag("PG_swapcache"), flag("PG_swapbacked")
        return cls(
            lru=flag("PG_lru"),
            head=flag("PG_head"),
            slab=0 if type_code(kernel, "slab") else flag("PG_slab"),
            reserved=flag("PG_reserved"),
            swap_cache=both[0] | both[1] if all(both) else 0,
            types=tuple((kind, code) for kind, code in coded if code is not None),
            offline=type_code(kernel, "offline"),
            buddy=type_code(kernel, "buddy"),
        )


def _classify(reader: PageReader, codes: _Codes, first: int, count: int) -> U8:
    """Kinds of ``count`` frames from ``first`` on, by page_type, flags and mapping (include/linux/page-flags.h)."""
    rows, ok = reader.read_run(first, count)
    flags = rows.flags.astype(np.uint32)  # page flags lie in the lower half, zone and node above
    # A look-up in a small table of all combinations takes the place of a mask for each kind.
    marks = rows.mapping.astype(np.uint8) & np.uint8(3)
    marks |= (rows.mapping != 0).view(np.uint8) << np.uint8(2)
    for bit, mask in enumerate((codes.lru, codes.swap_cache, codes.reserved, codes.slab), 3):
        if mask:
            marks |= ((flags & np.uint32(mask)) == np.uint32(mask)).view(np.uint8) << np.uint8(bit)
    kinds: U8 = _BY_MARKS[marks]

    typed = np.flatnonzero((rows.page_type >= _TYPED) & (rows.page_type != _UNMAPPED))
    words = rows.page_type[typed]
    for kind, code in codes.types:
        kinds[typed[code.matches(words)]] = kind
    pfns = np.uint64(first) + np.arange(count, dtype=np.uint64)
    may_be = np.flatnonzero(flags & np.uint32(codes.head) if codes.head else rows.page_type >= _TYPED)
    huge = reader.hugetlb_heads(rows.take(may_be), reader.tail_words(pfns[may_be]))
    kinds[may_be[huge]] = FrameKind.HUGETLB
    kinds[~ok] = FrameKind.UNKNOWN

    tail = np.flatnonzero(ok & ((rows.head & np.uint64(1)) != 0))
    heads = reader.heads(pfns[tail], rows.take(tail)) - np.uint64(first)
    known = heads < np.uint64(count)  # a head elsewhere is no head: it lies in the same block of memory
    kinds[tail] = np.where(known, kinds[np.where(known, heads, 0).astype(np.int64)], FrameKind.UNKNOWN)

    typed = typed[ok[typed]]
    words = rows.page_type[typed]
    if codes.offline is not None:
        kinds[typed[codes.offline.matches(words)]] = FrameKind.FREE
    if codes.buddy is not None:
        free = typed[codes.buddy.matches(words)]
        _free_blocks(kinds, free, rows.private[free].astype(np.int64), FrameKind.FREE)
    return kinds


def _free_blocks(kinds: U8, firsts: I64, orders: I64, kind: FrameKind) -> None:
    """Mark the ``2**order`` frames from the row of each of ``firsts`` on as free: only a block's first page says so.

    Blocks that touch or overlap, as forged ones may, are written once.
    """
    possible = (orders >= 0) & (orders <= LARGEST_ORDER)
    firsts, orders = firsts[possible], orders[possible]
    order = np.argsort(firsts, kind="stable")
    firsts, ends = firsts[order], np.maximum.accumulate(firsts[order] + (1 << orders[order]))
    begins = np.ones(len(firsts), np.bool_)
    begins[1:] = firsts[1:] > ends[:-1]
    at = run_starts(begins)
    for first, end in zip(firsts[at].tolist(), ends[run_lasts(at, len(ends))].tolist(), strict=True):
        kinds[first:end] = kind
