"""Lists of the kernel that every address space is on, beside the processes: page directories, MGLRU, trees."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import U64, Bools
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.views.pages.page_types import PageReader
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.slab.caches import ObjectKind
from vmaforensics.views.slab.objects import State
from vmaforensics.views.structures.circular_lists import walk_rings
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.slab.objects import SlabView

_NODE = ~np.uint64(0xFF)  # MAPLE_NODE_MASK, include/linux/maple_tree.h
_ROOT_BIT = np.uint64(1)  # MA_ROOT_PARENT


class Listed(NamedTuple):
    """What a record of the kernel lists."""

    addresses: U64  # ascending
    whole: bool  # all of it was read


@table()
class TreeRoots(Table):
    """Allocated maple nodes that say they are the root of the tree of an mm; sorted by node."""

    node: U64  # address of the maple_node
    mm: U64  # the mm_struct that its parent word names
    current: Bools  # ma_root of that mm leads to it


def on_pgd_list(kernel: Kernel, mms: U64, log: ProblemLog) -> Listed | None:
    """The mms that pages on pgd_list name; None without the list.

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
    pgd, ok = kernel.gather_member("mm_struct", "pgd", mms)
    pas, _, mapped = kernel.space.translate(pgd)
    frames = kernel.arch.pages(pas[ok & mapped])
    offset = np.uint64(kernel.offset(struct, link))
    with np.errstate(over="ignore"):
        guesses = reader.base + frames * np.uint64(reader.size) + offset

    def leads_on(nodes: U64) -> Bools:
        """While a machine is read, a page directory is given back and goes to a list of pages, which may be all there
        are: what is in the place of pt_mm there is the index of the page. The heads of such lists are no pages, and
        have pointers all around."""
        owners, ok = kernel.gather_member(struct, "pt_mm", nodes - offset)
        _, of_page = reader.frames_of(nodes - offset)
        on: Bools = (nodes == np.uint64(head)) | (ok & of_page & kernel.arch.kernel_pointer(owners))
        return on

    ring = walk_rings(kernel, np.append(guesses, np.uint64(head)), log, leads_on=leads_on)
    # A page directory that was given back a moment ago is on a list of free pages.
    nodes = ring.node[ring.linked & (ring.node != np.uint64(head)) & ~ring.of_another(head)]
    owners, ok = kernel.gather_member(struct, "pt_mm", nodes - offset)
    log.add(View.SOURCES, Problem.UNREADABLE, 0, nodes[~ok])
    return Listed(distinct(owners[ok]), ring.whole and bool(ok.all()))


def on_lru_lists(kernel: Kernel, mms: U64, log: ProblemLog) -> Listed | None:
    """Which of ``mms`` are on a list of MGLRU; None without CONFIG_LRU_GEN.

    lru_gen_add_mm (mm/vmscan.c) puts every mm of a process on that of its memory cgroup.
    """
    if not kernel.has("mm_struct", "lru_gen.list"):
        return None
    nodes = mms + np.uint64(kernel.offset("mm_struct", "lru_gen.list"))
    ring = walk_rings(kernel, nodes, log)
    return Listed(mms[ring.has(nodes)], ring.whole)


def tree_roots(kernel: Kernel, slab: SlabView | None, mms: U64) -> TreeRoots:
    """Allocated maple nodes that say they are the root of the tree of one of ``mms``.

    A root's parent word is the tree's address with bit 0 set (lib/maple_tree.c ``mte_set_parent``,
    ``ma_is_root``); that of a dead node is the node itself. Other trees' roots are left out.
    """
    if slab is None or not kernel.has("mm_struct", "mm_mt"):
        return TreeRoots.zeros(0)
    objects = slab.of(ObjectKind.MAPLE_NODE)
    nodes = objects.address[(objects.state == State.ALLOCATED) & (objects.address & ~_NODE == 0)]
    words, ok = kernel.words(nodes + np.uint64(kernel.offset("maple_node", "parent")), 1)
    word = words[:, 0]
    with np.errstate(over="ignore"):
        mm = (word & ~_ROOT_BIT) - np.uint64(kernel.offset("mm_struct", "mm_mt"))
    named = ok & ((word & _ROOT_BIT) != 0) & np.isin(mm, mms)
    rows = TreeRoots.of(node=nodes[named], mm=mm[named])
    root, ok = kernel.gather_member("mm_struct", "mm_mt.ma_root", rows.mm)
    rows.current[:] = ok & (root & _NODE == rows.node)
    return rows
