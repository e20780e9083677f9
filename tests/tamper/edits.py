"""Labelled edits: each changes words of a clean image's memory as one technique would, and says what it did.

Edits are made on an :class:`Overlay`; the image file is never changed. They work on any kernel that has the
structures, by member name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from support import row_at

from vmaforensics.checks.finding import Severity
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from support import Edit, Row

    from vmaforensics.views.indices.entries import IndexEntries
    from vmaforensics.views.vmas.vmas import Vmas

    Fits = Callable[[IndexEntries, Vmas], NDArray[np.bool_]]

WORD = 1 << 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What an edit did, to be compared with what is found."""

    technique: str
    pid: int
    start: int
    end: int
    rank: Severity = Severity.HIGH  # that a finding must have at least; lower for what leaves a legal state


def pick(edit: Edit, view: View, fits: Fits) -> Row:
    """The first row of an index ``view`` that ``fits(rows, their vmas)`` chooses."""
    rows = edit.views.indices()[view]
    vmas = edit.views.vmas.take(edit.views.vma_rows(rows.vma))
    found = np.flatnonzero(fits(rows, vmas))
    assert len(found), "no VMA fits this edit"
    return row_at(rows, int(found[0]))


def vma_of(edit: Edit, row: Row) -> Row:
    """The decoded VMA of a row of an index."""
    return row_at(edit.views.vmas, int(edit.views.vma_rows(np.array([row.vma], np.uint64))[0]))


def labelled(edit: Edit, technique: str, row: Row) -> Label:
    """The label of an edit of ``row``."""
    mm = row_at(edit.views.mms, int(edit.views.mm_rows(np.array([row.mm], np.uint64))[0]))
    vma = vma_of(edit, row)
    return Label(technique=technique, pid=int(mm.pid), start=int(vma.start), end=int(vma.end))


def repair_counters(edit: Edit, row: Row) -> None:
    """Take a VMA out of every counter, as the kernel's own unmapping would."""
    vma, mm = vma_of(edit, row), int(row.mm)
    pages = int(vma.end - vma.start) >> 12
    vm_flags = int(vma.flags)
    amounts = {"map_count|vma_count": 1, "total_vm": pages}
    if vm_flags & (flags.VM_EXEC | flags.VM_WRITE | flags.VM_GROWSDOWN) == flags.VM_EXEC:
        amounts["exec_vm"] = pages
    elif vm_flags & flags.VM_GROWSDOWN:
        amounts["stack_vm"] = pages
    elif vm_flags & (flags.VM_WRITE | flags.VM_SHARED) == flags.VM_WRITE:
        amounts["data_vm"] = pages
    for name, amount in amounts.items():
        size = edit.kernel.member("mm_struct", name).size
        where = edit.at("mm_struct", mm, name)
        old = edit.get(where) % (1 << 8 * size)
        edit.put(where, old - amount, size)


def executable_file(rows: IndexEntries, vmas: Vmas) -> NDArray[np.bool_]:
    """Executable VMAs of files that have a VMA before and after them in the same address space."""
    fits: NDArray[np.bool_] = (vmas.file != 0) & ((vmas.flags & np.uint64(flags.VM_EXEC)) != 0)
    inside = np.zeros(len(rows), np.bool_)
    inside[1:-1] = (rows.mm[:-2] == rows.mm[1:-1]) & (rows.mm[2:] == rows.mm[1:-1])
    between = np.zeros(len(rows), np.bool_)
    between[1:-1] = (vmas.end[:-2] == vmas.start[1:-1]) & (vmas.start[2:] == vmas.end[1:-1])
    return fits & inside & between


# Maple tree, 6.1 and later --------------------------------------------------------------------------


def maple_slot_zeroed(edit: Edit, *, repaired: bool = False) -> Label:
    """The leaf slot of an executable VMA set to NULL, nothing else."""
    row = pick(edit, View.MAPLE, executable_file)
    edit.put(int(row.slot), 0)
    if repaired:
        repair_counters(edit, row)
    return labelled(edit, "slot zeroed" + (", counters repaired" if repaired else ""), row)


def maple_root_emptied(edit: Edit) -> Label:
    """``ma_root`` set to NULL."""
    row = pick(edit, View.MAPLE, executable_file)
    edit.put(edit.at("mm_struct", int(row.mm), "mm_mt.ma_root"), 0)
    return labelled(edit, "root emptied", row)


def bounds_shrunk(edit: Edit) -> Label:
    """``vm_end`` of an executable VMA moved down by a page."""
    index = View.MAPLE if View.MAPLE in edit.views.indices() else View.LIST
    row = pick(edit, index, lambda rows, vmas: executable_file(rows, vmas) & (vmas.end - vmas.start > 8192))
    end = edit.at("vm_area_struct", int(row.vma), "vm_end")
    edit.put(end, edit.get(end) - 4096)
    return labelled(edit, "bounds shrunk", row)


def _node_of(edit: Edit, *, leaf: bool) -> int:
    """Row of a maple node that is not a root, in the tree of the process with most VMAs."""
    nodes = edit.views.maple_nodes
    mm = np.bincount(edit.views.mm_rows(nodes.mm)).argmax()
    mine = nodes.mm == edit.views.mms.mm[mm]
    found = np.flatnonzero(mine & (nodes.leaf == leaf) & (nodes.parent >= 0))
    return int(found[len(found) // 2])


def _node_label(edit: Edit, technique: str, node: int) -> Label:
    nodes = edit.views.maple_nodes
    mm = row_at(edit.views.mms, int(edit.views.mm_rows(nodes.mm[node : node + 1])[0]))
    return Label(technique=technique, pid=int(mm.pid), start=int(nodes.low[node]), end=int(nodes.high[node]) + 1)


def maple_node_self_pointing(edit: Edit) -> Label:
    """A slot of an inner node that leads to the node itself."""
    nodes = edit.views.maple_nodes
    node = _node_of(edit, leaf=False)
    own = int(nodes.slots[nodes.parent[node], nodes.parent_slot[node]])
    edit.put(int(nodes.address[node]) + int(nodes.slot_offset[node]), own)
    return _node_label(edit, "self-pointing node", node)


def maple_parent_junk(edit: Edit) -> Label:
    """The parent word of a leaf overwritten."""
    node = _node_of(edit, leaf=True)
    edit.put(int(edit.views.maple_nodes.address[node]), 0xFFFF_8880_DEAD_BE06)
    return _node_label(edit, "parent junk", node)


def maple_dead_node(edit: Edit) -> Label:
    """A leaf marked dead while its parent still leads to it."""
    node = _node_of(edit, leaf=True)
    address = int(edit.views.maple_nodes.address[node])
    edit.put(address, address)
    return _node_label(edit, "dead node", node)


def maple_pivot_moved(edit: Edit) -> Label:
    """The pivot of a leaf's second slot moved up by a page."""
    node = _node_of(edit, leaf=True)
    address = int(edit.views.maple_nodes.address[node])
    pivot = edit.at("maple_range_64", address, "pivot") + 8
    edit.put(pivot, edit.get(pivot) + 4096)
    return _node_label(edit, "pivot moved", node)


def maple_gap_edited(edit: Edit) -> Label:
    """A gap recorded in an inner node set to 0."""
    nodes = edit.views.maple_nodes
    low = edit.kernel.offset("maple_arange_64", "gap")
    mine = np.flatnonzero((nodes.parent >= 0) & nodes.leaf)
    recorded = nodes.gaps[nodes.parent[mine], nodes.parent_slot[mine]]
    node = int(mine[recorded > 0][0])
    edit.put(int(nodes.address[nodes.parent[node]]) + low + 8 * int(nodes.parent_slot[node]), 0)
    return _node_label(edit, "gap edited", node)


def maple_foreign_vma(edit: Edit) -> Label:
    """A slot that leads to a VMA of another process."""
    row = pick(edit, View.MAPLE, executable_file)
    rows = edit.views.indices()[View.MAPLE]
    edit.put(int(row.slot), int(rows.vma[rows.mm != row.mm][-1]))
    return labelled(edit, "foreign VMA in a slot", row)


# List and red-black tree, up to 6.0 --------------------------------------------------------------------


def list_only(edit: Edit, *, repaired: bool = False) -> Label:
    """A VMA unlinked from the ``vm_next`` list in both directions; the tree still has it."""
    row = pick(edit, View.LIST, executable_file)
    vma = vma_of(edit, row)
    edit.put(edit.at("vm_area_struct", int(vma.prev), "vm_next"), int(vma.next))
    edit.put(edit.at("vm_area_struct", int(vma.next), "vm_prev"), int(vma.prev))
    if repaired:
        repair_counters(edit, row)
    return labelled(edit, "list only" + (", counters repaired" if repaired else ""), row)


def tree_only(edit: Edit, *, repaired: bool = False) -> Label:
    """A leaf of the red-black tree cut off; the list still has the VMA."""
    nodes = edit.views.rb_nodes
    assert nodes is not None
    childless = ~nodes.has_left & ~nodes.has_right & (nodes.parent >= 0)

    def fits(rows: IndexEntries, vmas: Vmas) -> NDArray[np.bool_]:
        code: NDArray[np.bool_] = childless & (vmas.file != 0)
        code &= (vmas.flags & np.uint64(flags.VM_EXEC)) != 0
        return code

    row = pick(edit, View.RBTREE, fits)
    edit.put(int(row.slot), 0)
    if repaired:
        repair_counters(edit, row)
    return labelled(edit, "tree only" + (", counters repaired" if repaired else ""), row)


def list_cycle(edit: Edit) -> Label:
    """The list's last element leads back to its first."""
    rows = edit.views.indices()[View.LIST]
    mine = rows.take(rows.mm == rows.mm[0])
    edit.put(edit.at("vm_area_struct", int(mine.vma[-1]), "vm_next"), int(mine.vma[0]))
    return labelled(edit, "list cycle", row_at(mine, len(mine) - 1))


def tree_cycle(edit: Edit) -> Label:
    """A childless node's left pointer leads to the root."""
    nodes, rows = edit.views.rb_nodes, edit.views.indices()[View.RBTREE]
    assert nodes is not None
    leaf = int(np.flatnonzero(~nodes.has_left & ~nodes.has_right & (nodes.parent >= 0))[0])
    mm = np.uint64(rows.mm[leaf])
    root = int(nodes.address[(nodes.parent < 0) & (rows.mm == mm)][0])
    edit.put(edit.at("vm_area_struct", int(rows.vma[leaf]), "vm_rb.rb_left"), root)
    return labelled(edit, "tree cycle", row_at(rows, leaf))


def anonymous_offset_moved(edit: Edit) -> Label:
    """``vm_pgoff`` of anonymous memory that has no pages yet moved by 16 pages; since 7.3 there is a second record."""
    assert edit.kernel.has("vm_area_struct", "__vm_anon_pgoff_lo")
    index = View.MAPLE if View.MAPLE in edit.views.indices() else View.LIST
    row = pick(edit, index, lambda _, vmas: (vmas.file == 0) & (vmas.ops == 0) & (vmas.anon_vma == 0))
    offset = edit.at("vm_area_struct", int(row.vma), "vm_pgoff")
    edit.put(offset, edit.get(offset) + 0x10)
    return labelled(edit, "anonymous offset moved", row)


def marked_detached(edit: Edit) -> Label:
    """A VMA of the index says that it is in none: ``vm_refcnt`` 0, or ``detached`` set."""
    row = pick(edit, View.MAPLE, executable_file)
    if edit.kernel.has("vm_area_struct", "vm_refcnt"):
        edit.put(edit.at("vm_area_struct", int(row.vma), "vm_refcnt"), 0, 4)
    else:
        edit.put(edit.at("vm_area_struct", int(row.vma), "detached"), 1, 1)
    return labelled(edit, "marked as taken out of the index", row)


MAPLE_EDITS: tuple[Callable[[Edit], Label], ...] = (
    maple_slot_zeroed,
    maple_root_emptied,
    bounds_shrunk,
    maple_node_self_pointing,
    maple_parent_junk,
    maple_dead_node,
    maple_pivot_moved,
    maple_gap_edited,
    maple_foreign_vma,
)
LIST_EDITS: tuple[Callable[[Edit], Label], ...] = (list_only, tree_only, list_cycle, tree_cycle, bounds_shrunk)
DETACHED_EDITS: tuple[Callable[[Edit], Label], ...] = (marked_detached,)
ANON_EDITS: tuple[Callable[[Edit], Label], ...] = (anonymous_offset_moved,)
