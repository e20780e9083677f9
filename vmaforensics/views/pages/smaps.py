"""What ``/proc/PID/smaps`` adds up over the page tables of every area: mem_size_stats of fs/proc/task_mmu.c.

All entries of all processes are weighed at once; an area's figures are then differences of running sums.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.kernel.space import paging
from vmaforensics.views.pages.map_counts import MapCounts
from vmaforensics.views.pages.page_tables import PteState
from vmaforensics.views.pages.page_types import bit_set
from vmaforensics.views.pages.swap import shmem_swapped, swap_counts
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.views import Views

PSS_SHIFT = 12  # fs/proc/task_mmu.c: proportional sizes are kept in 1/4096 of a byte
_PAGE = 4096
_ACCESSED, _DIRTY = 1 << 5, 1 << 6  # Intel SDM vol. 3, 4.5
_SAVED_DIRTY = 1 << 58  # _PAGE_SAVED_DIRTY: where a read-only entry keeps its dirty bit (6.6)
_PMD = 2

# The members of struct mem_size_stats, in bytes; those that begin with pss or end in pss, in 1/4096 of a byte.
STATS = (
    "resident",
    "pss",
    "pss_dirty",
    "shared_clean",
    "shared_dirty",
    "private_clean",
    "private_dirty",
    "referenced",
    "anonymous",
    "ksm",
    "lazyfree",
    "anonymous_thp",
    "shmem_thp",
    "file_thp",
    "shared_hugetlb",
    "private_hugetlb",
    "swap",
    "swap_pss",
)
_HUGETLB = ("shared_hugetlb", "private_hugetlb")
# From an area's file to the order of its pages (hstate_vma, include/linux/hugetlb.h).
_HSTATE = (
    ("file", "f_inode"),
    ("inode", "i_sb"),
    ("super_block", "s_fs_info"),
    ("hugetlbfs_sb_info", "hstate"),
    ("hstate", "order"),
)

SMAPS = np.dtype(
    [
        ("mm", np.uint64),
        ("vma_row", np.int64),  # row of views.vmas
        ("page_size", np.uint64),  # KernelPageSize, bytes; 0 where it could not be read
        ("known", np.bool_),  # every table, page and struct page that matters could be read
        *((name, np.int64) for name in (*STATS, "pss_locked")),
    ]
)


def read_smaps(kernel: Kernel, views: Views) -> NDArray[np.void]:
    """The figures of every area of every process; dtype ``SMAPS``.

    One row per row of the index that the kernel itself goes by (the maple tree, or the list before), in its
    order, so sorted by mm. Rows of areas that could not be decoded are zero. What an entry counts as follows
    smaps_account as of 5.10 to 7.3. Migration and device-private entries, which no image at rest has, count
    nothing.
    """
    indices = views.regions()
    table = indices[next(one for one in (View.MAPLE, View.LIST, View.RBTREE) if one in indices)]
    rows = np.zeros(len(table), SMAPS)
    rows["mm"], rows["vma_row"] = table["mm"], views.vma_rows(table["vma"])
    vmas = views.vmas[rows["vma_row"]]
    decoded = vmas["ok"] & (rows["vma_row"] >= 0)
    rows["page_size"] = page_sizes(kernel, vmas)
    view = views.page_tables
    if view is None or not len(table):
        return rows
    mm_row = views.mm_rows(table["mm"])
    low, high = _extent(view, mm_row, vmas)
    huge = (vmas["flags"] & np.uint64(flags.VM_HUGETLB)) != 0
    # walk_page_test (mm/pagewalk.c) passes over raw page frames, whatever was copied into their place.
    raw = (vmas["flags"] & np.uint64(flags.VM_PFNMAP)) != 0
    weights, unread = _weigh(kernel, views, view)
    for name in STATS:
        total = np.concatenate([[0], np.cumsum(weights[name])])
        counts = decoded & ~raw & (huge if name in _HUGETLB else ~huge)
        rows[name] = np.where(counts, total[high] - total[low], 0)
    unsure = np.concatenate([[0], np.cumsum(unread)])
    rows["known"] = decoded & (mm_row >= 0) & view.whole[mm_row] & (unsure[high] == unsure[low])
    more, told = shmem_swapped(kernel, views, vmas, mm_row)
    rows["swap"] += np.where(decoded & ~huge, more, 0)
    rows["known"] &= told
    locked = (vmas["flags"] & np.uint64(flags.VM_LOCKED)) != 0
    rows["pss_locked"] = np.where(locked, rows["pss"], 0)
    return rows


def page_sizes(kernel: Kernel, vmas: NDArray[np.void]) -> NDArray[np.uint64]:
    """vma_kernel_pagesize: bytes of a page of each area, which for huge pages their file system says.

    0 where it could not be read.
    """
    sizes = np.full(len(vmas), _PAGE, np.uint64)
    at = np.flatnonzero(vmas["ok"] & ((vmas["flags"] & np.uint64(flags.VM_HUGETLB)) != 0))
    sizes[at] = 0
    if not len(at) or not all(kernel.has(*one) for one in _HSTATE):
        return sizes
    address = vmas["file"][at]
    ok = address != 0
    for struct, name in _HSTATE:
        got, fine = kernel.gather(struct, address, [name])
        address, ok = got[name].astype(np.uint64), ok & fine
    ok &= address < 32  # an order: 18 is 1 GiB
    sizes[at[ok]] = np.uint64(_PAGE) << address[ok]
    return sizes


def _extent(
    view: PageTablesView, mm_row: NDArray[np.int64], vmas: NDArray[np.void]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last (exclusive) row of ``view.ptes`` within each area."""

    def key(row: NDArray[np.signedinteger], va: NDArray[np.uint64]) -> NDArray[np.uint64]:
        page = np.minimum(va >> np.uint64(12), np.uint64((1 << 45) - 1))
        joined: NDArray[np.uint64] = np.maximum(row, 0).astype(np.uint64) << np.uint64(45) | page
        return joined

    known = key(view.ptes["mm_row"], view.ptes["va"])
    low = np.searchsorted(known, key(mm_row, vmas["start"]))
    high = np.searchsorted(known, key(mm_row, vmas["end"]))
    empty = mm_row < 0
    return np.where(empty, 0, low), np.where(empty, 0, np.maximum(low, high))


def _weigh(
    kernel: Kernel, views: Views, view: PageTablesView
) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.bool_]]:
    """What every entry adds to each figure, as parallel arrays; and which could not be told."""
    ptes = view.ptes
    weights = {name: np.zeros(len(ptes), np.int64) for name in STATS}
    swapped = np.flatnonzero((ptes["state"] == PteState.SWAP) & (ptes["level"] == 1))
    weights["swap"][swapped] = _PAGE
    weights["swap_pss"][swapped] = (_PAGE << PSS_SHIFT) // np.maximum(swap_counts(kernel, view, swapped), 1)
    unread = np.zeros(len(ptes), np.bool_)
    if not len(view.pages.rows):
        return weights, unread
    mapped = ptes["page"] >= 0
    page = view.pages.rows[ptes["page"]]
    unread = mapped & ~page["ok"]
    at = np.flatnonzero(mapped & page["ok"])
    counts = MapCounts(kernel, view.pages.rows)
    unread[at] |= ~counts.ok[ptes["page"][at]]
    _account(kernel, ptes, at, page[at], counts, weights)
    shared = counts.of_entries(ptes[at]) >= 2
    shared |= _in_shared_tables(view, ptes[at])
    size = paging.span(ptes["level"][at]).astype(np.int64)
    weights["shared_hugetlb"][at], weights["private_hugetlb"][at] = np.where(shared, size, 0), np.where(shared, 0, size)
    return weights, unread


def _account(
    kernel: Kernel,
    ptes: NDArray[np.void],
    at: NDArray[np.intp],
    page: NDArray[np.void],
    counts: MapCounts,
    weights: dict[str, NDArray[np.int64]],
) -> None:
    """smaps_account, smaps_page_accumulate and smaps_pmd_entry for entries ``at``, each of a page of normal memory."""
    entry, level = ptes["entry"][at], ptes["level"][at]
    size = paging.span(level).astype(np.int64)
    words = page["flags"]

    def flag(*names: str) -> NDArray[np.bool_]:
        found = np.zeros(len(words), np.bool_)
        for bit in map(kernel.types.constant, names):
            if bit is not None and bit < 64:
                found |= bit_set(words, bit)
        return found

    # struct ptdesc and shadow stacks, for which dirty bits are moved, both came with 6.6.
    moved = _SAVED_DIRTY if kernel.types.struct("ptdesc") is not None else 0
    dirty = ((entry & np.uint64(_DIRTY | moved)) != 0) | flag("PG_dirty")
    young = ((entry & np.uint64(_ACCESSED)) != 0) | flag("PG_young", "PG_referenced")
    anon, backed = page["anon"], page["swapbacked"]
    weights["resident"][at] = size
    weights["referenced"][at] = np.where(young, size, 0)
    weights["anonymous"][at] = np.where(anon, size, 0)
    weights["lazyfree"][at] = np.where(anon & ~backed & ~dirty, size, 0)
    weights["ksm"][at] = np.where(page["ksm"], size, 0)
    huge = level == _PMD
    weights["anonymous_thp"][at] = np.where(huge & anon, size, 0)
    weights["shmem_thp"][at] = np.where(huge & ~anon & backed, size, 0)
    weights["file_thp"][at] = np.where(huge & ~anon & ~backed, size, 0)

    private, pss = counts.shares(ptes[at], page["refcount"] == 1, PSS_SHIFT)
    weights["pss"][at] = pss
    weights["pss_dirty"][at] = np.where(dirty, pss, 0)
    for name, amount, which in (
        ("private_clean", private, ~dirty),
        ("private_dirty", private, dirty),
        ("shared_clean", size - private, ~dirty),
        ("shared_dirty", size - private, dirty),
    ):
        weights[name][at] = np.where(which, amount, 0)


def _in_shared_tables(view: PageTablesView, ptes: NDArray[np.void]) -> NDArray[np.bool_]:
    """hugetlb_pmd_shared: which entries lie in a table of huge pages that several processes use."""
    _, first, count = np.unique(view.tables["pa"], return_index=True, return_counts=True)
    shared = np.sort(view.tables["pa"][first[count > 1]])
    inside: NDArray[np.bool_] = np.isin(ptes["where"] & ~np.uint64(_PAGE - 1), shared)
    large: NDArray[np.bool_] = ptes["level"] == _PMD
    return large & inside
