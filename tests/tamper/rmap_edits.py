"""Labelled edits of the reverse maps, and of VMAs in ways that only the reverse maps contradict."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from support import row_at

from tamper.edits import Label, executable_file, labelled, pick, repair_counters, vma_of
from vmaforensics.checks.finding import Severity
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from support import Edit, Row

    from tamper.edits import Fits
    from vmaforensics.views.indices.entries import IndexEntries
    from vmaforensics.views.reverse_maps.reverse_maps import RmapView
    from vmaforensics.views.structures.interval_tree import IntervalNodes
    from vmaforensics.views.vmas.vmas import Vmas


def _rmap(edit: Edit) -> RmapView:
    assert edit.views.rmap is not None
    return edit.views.rmap


def _index(edit: Edit) -> View:
    return View.MAPLE if View.MAPLE in edit.views.indices() else View.LIST


def _region_of(edit: Edit, vma: int) -> Row:
    rows = edit.views.indices()[_index(edit)]
    return row_at(rows, int(np.flatnonzero(rows.vma == np.uint64(vma))[0]))


def _hide(edit: Edit, technique: str, fits: Fits) -> Label:
    """The first VMA of ``fits`` taken out of every index, counters repaired."""
    if View.MAPLE in edit.views.indices():
        row = pick(edit, View.MAPLE, fits)
    else:
        nodes = edit.views.rb_nodes
        assert nodes is not None
        childless = ~nodes.has_left & ~nodes.has_right & (nodes.parent >= 0)
        row = pick(
            edit,
            View.RBTREE,
            lambda rows, vmas: childless & (vmas.prev != 0) & (vmas.next != 0) & fits(rows, vmas),
        )
        vma = vma_of(edit, row)
        edit.put(edit.at("vm_area_struct", int(vma.prev), "vm_next"), int(vma.next))
        edit.put(edit.at("vm_area_struct", int(vma.next), "vm_prev"), int(vma.prev))
    edit.put(int(row.slot), 0)
    repair_counters(edit, row)
    return labelled(edit, technique, row)


def file_area_hidden(edit: Edit) -> Label:
    """An executable VMA of a file taken out of every index, counters repaired."""
    return _hide(edit, "file area out of the index, counters repaired", executable_file)


def anon_area_hidden(edit: Edit) -> Label:
    """An anonymous VMA whose pages another VMA may map too, taken out of every index, counters repaired."""
    rmap = _rmap(edit)
    trees, count = np.unique(rmap.anon_nodes.tree, return_counts=True)
    shared = np.isin(rmap.anon_nodes.tree, trees[count > 1])
    others = rmap.anon_nodes.vma[shared]

    def fits(rows: IndexEntries, vmas: Vmas) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = np.isin(vmas.vma, others) & (vmas.file == 0)
        return found

    return _hide(edit, "anonymous area out of the index, counters repaired", fits)


def _cut(edit: Edit, nodes: IntervalNodes, last: str, struct: str, choice: NDArray[np.bool_], mend: bool) -> int:
    """Cut the first childless node of ``choice`` off its parent; returns its VMA."""
    rmap = _rmap(edit)
    alone = (nodes.left < 0) & (nodes.right < 0) & (nodes.parent >= 0)
    row = int(np.flatnonzero(alone & choice)[0])
    vma = int(nodes.vma[row])
    edit.put(int(nodes.slot[row]), 0)
    if mend:
        area = rmap.vma_rows(nodes.vma)
        key = (rmap.vmas.pgoff if struct == "vm_area_struct" else rmap.vmas.anon_pgoff)[area]
        pages = (rmap.vmas.end[area] - rmap.vmas.start[area]) >> np.uint64(12)
        stored = nodes.last.astype(np.uint64)
        stored[row] = 0
        up = int(nodes.parent[row])
        while up >= 0:
            below = [int(stored[one]) for one in (nodes.left[up], nodes.right[up]) if one >= 0]
            stored[up] = max([int(key[up] + pages[up]) - 1, *below])
            edit.put(edit.at(struct, int(nodes.item[up]), last), int(stored[up]))
            up = int(nodes.parent[up])
    return vma


def file_link_cut(edit: Edit, *, mend: bool = False) -> Label:
    """A VMA taken out of its file's i_mmap; with ``mend`` its ancestors' rb_subtree_last too."""
    nodes = _rmap(edit).file_nodes
    listed = np.isin(nodes.vma, edit.views.indices()[_index(edit)].vma)
    vma = _cut(edit, nodes, "shared.rb_subtree_last", "vm_area_struct", listed, mend)
    return labelled(edit, "out of i_mmap" + (", last pages mended" if mend else ""), _region_of(edit, vma))


def anon_link_cut(edit: Edit, *, mend: bool = False) -> Label:
    """A VMA taken out of the tree of its own anon_vma."""
    rmap = _rmap(edit)
    nodes = rmap.anon_nodes
    own = rmap.vmas.anon_vma[rmap.vma_rows(nodes.vma)] == nodes.tree
    vma = _cut(edit, nodes, "rb_subtree_last", "anon_vma_chain", own, mend)
    return labelled(edit, "out of the anon_vma tree" + (", last pages mended" if mend else ""), _region_of(edit, vma))


def anon_vma_cleared(edit: Edit) -> Label:
    """``vma->anon_vma`` set to NULL; the chain stays."""
    row = pick(edit, _index(edit), lambda rows, vmas: vmas.anon_vma != 0)
    edit.put(edit.at("vm_area_struct", int(row.vma), "anon_vma"), 0)
    return labelled(edit, "anon_vma cleared", row)


def file_swapped(edit: Edit) -> Label:
    """``vm_file`` of an executable VMA replaced by a file that another process maps."""
    row = pick(edit, _index(edit), executable_file)
    rmap = _rmap(edit)
    own = rmap.mapping[rmap.vma_rows(np.array([row.vma], np.uint64))[0]]
    others = (rmap.vmas.mm != row.mm) & (rmap.mapping != 0) & (rmap.mapping != own)
    edit.put(edit.at("vm_area_struct", int(row.vma), "vm_file"), int(rmap.vmas.file[others][0]))
    return labelled(edit, "vm_file swapped", row)


def file_cleared(edit: Edit) -> Label:
    """``vm_file`` of an executable VMA set to NULL: it looks anonymous."""
    row = pick(edit, _index(edit), executable_file)
    edit.put(edit.at("vm_area_struct", int(row.vma), "vm_file"), 0)
    return labelled(edit, "vm_file cleared", row)


def pgoff_moved(edit: Edit) -> Label:
    """``vm_pgoff`` of an executable VMA moved on by 16 pages."""
    row = pick(edit, _index(edit), executable_file)
    where = edit.at("vm_area_struct", int(row.vma), "vm_pgoff")
    edit.put(where, edit.get(where) + 16)
    return labelled(edit, "vm_pgoff moved", row)


def pgoff_moved_writable(edit: Edit) -> Label:
    """``vm_pgoff`` of a written VMA of a file moved on by 16 pages."""
    row = pick(
        edit,
        _index(edit),
        lambda rows, vmas: (vmas.file != 0) & (vmas.anon_vma != 0) & ((vmas.flags & np.uint64(flags.VM_WRITE)) != 0),
    )
    where = edit.at("vm_area_struct", int(row.vma), "vm_pgoff")
    edit.put(where, edit.get(where) + 16)
    return labelled(edit, "vm_pgoff of data moved", row)


def file_link_self_pointing(edit: Edit) -> Label:
    """A childless node of an i_mmap whose left pointer leads to itself."""
    nodes = _rmap(edit).file_nodes
    row = int(np.flatnonzero((nodes.left < 0) & (nodes.right < 0) & (nodes.parent >= 0))[0])
    vma = int(nodes.vma[row])
    edit.put(edit.at("vm_area_struct", vma, "shared.rb.rb_left"), int(nodes.node[row]))
    return labelled(edit, "self-pointing i_mmap node", _region_of(edit, vma))


def file_tree_begins_later(edit: Edit) -> Label:
    """``rb_leftmost`` of an i_mmap set to its second node: what lies before that is not found."""
    nodes = _rmap(edit).file_nodes
    index = edit.views.indices()[_index(edit)]
    row = int(np.flatnonzero((nodes.order[:-1] == 0) & (nodes.order[1:] == 1) & np.isin(nodes.vma[:-1], index.vma))[0])
    leftmost = edit.at("address_space", int(nodes.tree[row]), "i_mmap.rb_leftmost")
    edit.put(leftmost, int(nodes.node[row + 1]))
    label = labelled(edit, "i_mmap that begins later", _region_of(edit, int(nodes.vma[row])))
    return replace(label, rank=Severity.MEDIUM)


def _mended(technique: Callable[..., Label]) -> Callable[[Edit], Label]:
    def mended(edit: Edit) -> Label:
        return technique(edit, mend=True)

    mended.__name__ = f"{technique.__name__}_mended"
    return mended


RMAP_EDITS: tuple[tuple[Callable[[Edit], Label], str], ...] = (
    (file_area_hidden, "RMAP-FILE-HIDDEN"),
    (anon_area_hidden, "RMAP-ANON-HIDDEN"),
    (file_link_cut, "RMAP-FILE-MISSING"),
    (_mended(file_link_cut), "RMAP-FILE-MISSING"),
    (anon_link_cut, "RMAP-ANON-MISSING"),
    (_mended(anon_link_cut), "RMAP-ANON-MISSING"),
    (anon_vma_cleared, "RMAP-ANON-MISSING"),
    (file_swapped, "RMAP-FILE-MISMATCH"),
    (file_cleared, "RMAP-FILE-MISMATCH"),
    (pgoff_moved, "RMAP-FILE-MISMATCH"),
    (pgoff_moved_writable, "RMAP-FILE-MISMATCH"),
    (file_link_self_pointing, "VMA-LINK"),
    (file_tree_begins_later, "RMAP-TREE"),
)
