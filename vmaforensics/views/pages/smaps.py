"""What ``/proc/PID/smaps`` adds up over the page tables of every VMA: mem_size_stats of fs/proc/task_mmu.c.

The entries of all processes are weighed a batch at a time; what a batch adds to the figures of a VMA are differences of
running sums.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.arch.page_tables import PteState
from vmaforensics.columns.lookup import rows_of, values_at
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I64, U64, Bools
from vmaforensics.views.pages.entry_ranges import in_ranges
from vmaforensics.views.pages.map_counts import MapCounts
from vmaforensics.views.pages.page_types import bit_set
from vmaforensics.views.pages.swap import shmem_swapped, swap_counts, swap_holders
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.arch.interface import Architecture
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.indices.entries import IndexEntries
    from vmaforensics.views.pages.mapped_pages import Pages
    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.pages.ptes import Ptes
    from vmaforensics.views.processes.mms import Mms
    from vmaforensics.views.vmas.files import Files
    from vmaforensics.views.vmas.vmas import Vmas

PSS_SHIFT = 12  # fs/proc/task_mmu.c: proportional sizes are kept in 1/4096 of a byte
_PMD = 2  # the level of entries that map huge pages

# From a VMA's file to the order of its pages (hstate_vma, include/linux/hugetlb.h).
_HSTATE = (
    ("file", "f_inode"),
    ("inode", "i_sb"),
    ("super_block", "s_fs_info"),
    ("hugetlbfs_sb_info", "hstate"),
    ("hstate", "order"),
)


@table()
class Smaps(Table):
    """The figures of a VMA of a process; a row is an entry of the index that the kernel itself uses.

    From ``resident`` on the members of struct mem_size_stats: bytes, and where the name has "pss", 1/4096 of a byte.
    """

    mm: U64  # address of the mm_struct
    vma_row: I64  # row of Views.vmas
    page_size: U64  # KernelPageSize, bytes; 0 where it could not be read
    known: Bools  # every table, page and struct page that matters could be read
    resident: I64
    pss: I64
    pss_dirty: I64
    shared_clean: I64
    shared_dirty: I64
    private_clean: I64
    private_dirty: I64
    referenced: I64
    anonymous: I64
    ksm: I64
    lazyfree: I64
    anonymous_thp: I64
    shmem_thp: I64
    file_thp: I64
    shared_hugetlb: I64
    private_hugetlb: I64
    swap: I64
    swap_pss: I64
    pss_locked: I64


class _Weight(NamedTuple):
    """What some entries add to a figure."""

    column: I64  # of the table that is being made
    rows: NDArray[np.intp]  # of the entries
    amounts: I64
    hugetlb: bool = False  # counts in VMAs of huge pages, and in no others


def read_smaps(
    kernel: Kernel, index: IndexEntries, mms: Mms, vmas: Vmas, files: Files, view: PageTablesView | None
) -> Smaps:
    """The figures of every VMA of every process, in the order of ``index``, so sorted by mm.

    ``index`` is the one that the kernel itself uses. Rows of VMAs that could not be decoded are zero, as all are
    without page tables. What an entry counts as follows smaps_account as of 5.10 to 7.3. Migration and device-private
    entries, which no image at rest has, count nothing.
    """
    rows = Smaps.of(mm=index.mm, vma_row=rows_of(vmas.vma, index.vma))
    shown = vmas.take(rows.vma_row)  # every entry of an index has a row
    decoded = shown.ok & (rows.vma_row >= 0)
    rows.page_size[:] = page_sizes(kernel, shown)
    if view is None or not len(index):
        return rows
    mm_row = rows_of(mms.mm, index.mm)
    huge = (shown.flags & np.uint64(flags.VM_HUGETLB)) != 0
    # walk_page_test (mm/pagewalk.c) passes over raw page frames, whatever was copied into their place.
    raw = (shown.flags & np.uint64(flags.VM_PFNMAP)) != 0
    rows.known[:] = decoded & (mm_row >= 0) & view.whole[mm_row]
    weigher = _Weigher(kernel, view, rows)
    for part in in_ranges(view.entries, mm_row, shown.start, shown.end):
        in_huge, counted = huge[part.ranges], (decoded & ~raw)[part.ranges]
        for weight in weigher.weights(part.ptes):
            total = np.zeros(len(part.ptes) + 1, np.int64)
            total[weight.rows + 1] = weight.amounts
            np.cumsum(total, out=total)
            counts = counted & (in_huge if weight.hugetlb else ~in_huge)
            weight.column[part.ranges] += np.where(counts, total[part.high] - total[part.low], 0)
        unsure = np.concatenate([[0], np.cumsum(weigher.unread)])
        rows.known[part.ranges] &= unsure[part.high] == unsure[part.low]
    rows.file_thp[values_at(files.dax, shown.file_row)] = 0  # smaps_pmd_entry passes over memory of a device
    swapped = shmem_swapped(kernel, view.entries, files, shown, mm_row)
    rows.swap[:] += np.where(decoded & ~huge, swapped.sizes, 0)
    rows.known[:] &= swapped.known
    locked = (shown.flags & np.uint64(flags.VM_LOCKED)) != 0
    rows.pss_locked[:] = np.where(locked, rows.pss, 0)
    return rows


def page_sizes(kernel: Kernel, vmas: Vmas) -> U64:
    """vma_kernel_pagesize: bytes of a page of each VMA, which for huge pages their file system says.

    0 where it could not be read.
    """
    sizes = np.full(len(vmas), kernel.arch.page_size, np.uint64)
    at = np.flatnonzero(vmas.ok & ((vmas.flags & np.uint64(flags.VM_HUGETLB)) != 0))
    sizes[at] = 0
    if not len(at) or not all(kernel.has(struct, path) for struct, path in _HSTATE):
        return sizes
    address = vmas.file[at]
    ok = address != 0
    for struct, path in _HSTATE:
        address, readable = kernel.gather_member(struct, path, address)
        ok &= readable
    ok &= address < 32  # an order: 18 is 1 GiB
    sizes[at[ok]] = np.uint64(kernel.arch.page_size) << address[ok]
    return sizes


class _Weigher:
    """What every entry adds to each figure."""

    def __init__(self, kernel: Kernel, view: PageTablesView, rows: Smaps) -> None:
        self._kernel, self._view, self._rows = kernel, view, rows
        self._counts = MapCounts(kernel, view.pages)
        self._holders = swap_holders(kernel, view.entries)
        self._at = np.zeros(0, np.intp)  # entries of pages of normal memory
        self.unread = np.zeros(0, np.bool_)  # entries whose page or map count is not in the image

    def weights(self, ptes: Ptes) -> Iterator[_Weight]:
        """What some entries add, one figure after the other."""
        view, rows = self._view, self._rows
        ok = values_at(view.pages.ok, ptes.page_row)
        self._at, self.unread = np.flatnonzero(ok), (ptes.page_row >= 0) & ~ok
        swapped = np.flatnonzero((ptes.state == PteState.SWAP) & (ptes.level == 1))
        kernel_page = self._kernel.arch.page_size
        yield _Weight(rows.swap, swapped, np.full(len(swapped), kernel_page))
        holders = np.maximum(swap_counts(self._kernel, ptes.entry[swapped], self._holders), 1)
        yield _Weight(rows.swap_pss, swapped, (kernel_page << PSS_SHIFT) // holders)
        entries = ptes.take(self._at)
        pages = view.pages.take(entries.page_row)
        self.unread[self._at] |= ~self._counts.ok[entries.page_row]
        yield from self._accounted(entries, pages)
        shared = self._counts.of_pages(entries.page_row) >= 2
        shared |= _in_shared_tables(self._kernel.arch, view, entries)
        size = entries.sizes(self._kernel.arch).astype(np.int64)
        yield _Weight(rows.shared_hugetlb, self._at, np.where(shared, size, 0), hugetlb=True)
        yield _Weight(rows.private_hugetlb, self._at, np.where(shared, 0, size), hugetlb=True)

    def _accounted(self, ptes: Ptes, pages: Pages) -> Iterator[_Weight]:
        """smaps_account, smaps_page_accumulate and smaps_pmd_entry for ``ptes``, each of the page beside it."""
        kernel, rows = self._kernel, self._rows
        size = ptes.sizes(kernel.arch).astype(np.int64)
        is_dirty = kernel.arch.dirty(ptes.entry) | _flagged(kernel, pages, "PG_dirty")
        young = kernel.arch.accessed(ptes.entry) | _flagged(kernel, pages, "PG_young", "PG_referenced")
        lazy = pages.anon & ~pages.swapbacked & ~is_dirty
        huge = ptes.level == _PMD
        shares = self._counts.shares(ptes, pages.refcount == 1, PSS_SHIFT)
        yield _Weight(rows.resident, self._at, size)
        yield _Weight(rows.pss, self._at, shares.pss)
        yield _Weight(rows.pss_dirty, self._at, np.where(is_dirty, shares.pss, 0))
        for column, amount, which in (
            (rows.referenced, size, young),
            (rows.anonymous, size, pages.anon),
            (rows.lazyfree, size, lazy),
            (rows.ksm, size, pages.ksm),
            (rows.anonymous_thp, size, huge & pages.anon),
            (rows.shmem_thp, size, huge & ~pages.anon & pages.swapbacked),
            (rows.file_thp, size, huge & ~pages.anon & ~pages.swapbacked),
            (rows.private_clean, shares.private, ~is_dirty),
            (rows.private_dirty, shares.private, is_dirty),
            (rows.shared_clean, size - shares.private, ~is_dirty),
            (rows.shared_dirty, size - shares.private, is_dirty),
        ):
            yield _Weight(column, self._at, np.where(which, amount, 0))


def _flagged(kernel: Kernel, pages: Pages, *names: str) -> Bools:
    """Which pages have one of the flags ``names`` set."""
    found = np.zeros(len(pages), np.bool_)
    for bit in map(kernel.types.constant, names):
        if bit is not None and bit < 64:
            found |= bit_set(pages.flags, bit)
    return found


def _in_shared_tables(arch: Architecture, view: PageTablesView, ptes: Ptes) -> Bools:
    """hugetlb_pmd_shared: which of ``ptes`` lie in a table of huge pages that several processes use."""
    tables, count = np.unique(view.tables.pa, return_counts=True)
    inside: Bools = np.isin(arch.page_bases(ptes.where), tables[count > 1]) & (ptes.level == _PMD)
    return inside
