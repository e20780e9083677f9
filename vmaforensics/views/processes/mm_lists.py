"""Lists of the kernel that every address space is on, beside the processes: page directories, MGLRU, trees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import KernelNotFoundError
from vmaforensics.views.pages.page_types import PageReader
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.slab.objects import State
from vmaforensics.views.slab.slab_pages import ObjectKind
from vmaforensics.views.structures.circular_lists import walk_rings
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.slab.objects import SlabView

_NODE = ~np.uint64(0xFF)  # MAPLE_NODE_MASK, include/linux/maple_tree.h

ROOTS = np.dtype(
    [
        ("node", np.uint64),
        ("mm", np.uint64),  # the mm_struct that its parent word names
        ("current", np.bool_),  # ma_root of that mm leads to it
    ]
)


def on_pgd_list(kernel: Kernel, mms: NDArray[np.uint64], log: ProblemLog) -> tuple[NDArray[np.uint64], bool] | None:
    """``(mms that pages on pgd_list name, was all of it read)``; None without the list.

    Every page directory that pgd_alloc made is on it (pgd_ctor, arch/x86/mm/pgtable.c); the struct page (or
    ptdesc, 6.7) points back to the mm. ``mms`` only help to read the list faster.
    """
    head = kernel.symbols.get("pgd_list")
    struct, link = ("ptdesc", "pt_list") if kernel.has("ptdesc", "pt_list") else ("page", "lru")
    if head is None or not kernel.has(struct, "pt_mm"):
        kernel.identity.problems.append("no pgd_list with pt_mm: page directories are not looked up")
        return None
    try:
        reader = PageReader(kernel)
    except KernelNotFoundError as error:
        kernel.identity.problems.append(f"{error}: page directories are not looked up")
        return None
    got, ok = kernel.gather("mm_struct", mms, ("pgd",))
    pas, _, mapped = kernel.space.translate(got["pgd"])
    fine = ok & mapped
    offset = np.uint64(kernel.offset(struct, link))
    with np.errstate(over="ignore"):
        guesses = reader.base + (pas[fine] >> np.uint64(12)) * np.uint64(reader.size) + offset
    ring = walk_rings(kernel, np.append(guesses, np.uint64(head)), log)
    nodes = ring.node[ring.linked & (ring.node != np.uint64(head))]
    rows, fine = kernel.gather(struct, nodes - offset, ("pt_mm",))
    log.add(View.SOURCES, Problem.UNREADABLE, 0, nodes[~fine])
    return np.unique(rows["pt_mm"][fine]), ring.whole and bool(fine.all())


def on_lru_lists(kernel: Kernel, mms: NDArray[np.uint64], log: ProblemLog) -> tuple[NDArray[np.uint64], bool] | None:
    """``(which of mms are on a list of MGLRU, was all of it read)``; None without CONFIG_LRU_GEN.

    lru_gen_add_mm (mm/vmscan.c) puts every mm of a process on that of its memory cgroup.
    """
    if not kernel.has("mm_struct", "lru_gen.list"):
        return None
    offset = np.uint64(kernel.offset("mm_struct", "lru_gen.list"))
    ring = walk_rings(kernel, mms + offset, log)
    return mms[ring.has(mms + offset)], ring.whole


def tree_roots(kernel: Kernel, slab: SlabView | None, mms: NDArray[np.uint64]) -> NDArray[np.void]:
    """Allocated maple nodes that say they are the root of the tree of one of ``mms``; dtype ``ROOTS``.

    A root's parent word is the tree's address with bit 0 set (lib/maple_tree.c ``mte_set_parent``,
    ``ma_is_root``); that of a dead node is the node itself. Other trees' roots are left out.
    """
    if slab is None or not kernel.has("mm_struct", "mm_mt"):
        return np.zeros(0, ROOTS)
    nodes = slab.of(ObjectKind.MAPLE_NODE)
    nodes = nodes["address"][(nodes["state"] == State.ALLOCATED) & (nodes["address"] & ~_NODE == 0)]
    parent = np.uint64(kernel.offset("maple_node", "parent"))
    words, ok = kernel.words(nodes + parent, 1)
    root = ok & ((words[:, 0] & np.uint64(1)) != 0)
    tree = np.uint64(kernel.offset("mm_struct", "mm_mt"))
    with np.errstate(over="ignore"):
        owner = (words[:, 0] & ~np.uint64(1)) - tree
    root &= np.isin(owner, mms)
    rows = np.zeros(int(root.sum()), ROOTS)
    rows["node"], rows["mm"] = nodes[root], owner[root]
    got, ok = kernel.gather("mm_struct", rows["mm"], ("mm_mt.ma_root",))
    rows["current"] = ok & (got["mm_mt.ma_root"] & _NODE == rows["node"])
    return rows
