"""Labelled edits that leave an index as the kernel's own code would, or nearly so."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from support import row_at, rows_in

from tamper.edits import Label, executable_file, labelled, pick, repair_counters, vma_of
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from support import Edit, Row

    from vmaforensics.views.indices.entries import IndexEntries
    from vmaforensics.views.vmas.vmas import Vmas

_WORD = 1 << 64
_LEAST = 7  # slots of a leaf from which one or two may be taken: mt_min_slots is 6
_RED = 0  # lowest bit of __rb_parent_color


def _index(edit: Edit) -> View:
    return View.MAPLE if View.MAPLE in edit.views.indices() else View.LIST


def _leaf_of(edit: Edit, row: Row) -> tuple[int, int]:
    """(row of the leaf, slot) that a region of the maple tree was found in."""
    nodes = edit.views.maple_nodes
    base = nodes.address + nodes.slot_offset.astype(np.uint64)
    within = nodes.leaf & (row.slot >= base) & (row.slot < base + np.uint64(128))
    leaf = int(np.flatnonzero(within)[0])
    return leaf, (int(row.slot) - int(base[leaf])) // 8


def _in_leaf(edit: Edit, fits: Callable[[int, int, list[int]], bool]) -> tuple[Row, int, int]:
    """The first executable VMA of a file, the leaf and the slot that ``fits(leaf, slot, slots)`` accepts."""
    nodes, rows = edit.views.maple_nodes, edit.views.indices()[View.MAPLE]
    vmas = edit.views.vmas.take(edit.views.vma_rows(rows.vma))
    for row in rows_in(rows.take(executable_file(rows, vmas))):
        leaf, slot = _leaf_of(edit, row)
        if fits(leaf, slot, nodes.slots[leaf].tolist()):
            return row, leaf, slot
    raise AssertionError("no area fits this edit")


def _write_leaf(edit: Edit, leaf: int, entries: list[tuple[int, int]]) -> None:
    """Make (slot, inclusive maximum) pairs the contents of a leaf, metadata included."""
    nodes, kernel = edit.views.maple_nodes, edit.kernel
    node, count = int(nodes.address[leaf]), int(nodes.capacity[leaf])
    pivot, slot = (kernel.offset("maple_range_64", name) for name in ("pivot", "slot"))
    for at in range(count):
        used = at < len(entries)
        edit.put(node + slot + 8 * at, entries[at][0] if used else 0)
        if at < count - 1:
            edit.put(node + pivot + 8 * at, entries[at][1] if used else 0)
    if len(entries) < count:  # the metadata share the last slot (ma_data_end)
        edit.put(node + kernel.offset("maple_range_64", "meta.end"), len(entries) - 1, 1)


def _mend_gaps(edit: Edit, leaf: int, entries: list[tuple[int, int]]) -> None:
    """mas_update_gap: the largest empty range of the leaf in its parent, and so on up to the root."""
    nodes, kernel = edit.views.maple_nodes, edit.kernel
    low = [int(nodes.low[leaf]), *(pivot + 1 for _, pivot in entries[:-1])]
    gap = max((pivot - first + 1 for first, (slot, pivot) in zip(low, entries, strict=True) if not slot), default=0)
    gap %= _WORD
    gaps = kernel.offset("maple_arange_64", "gap")
    row = leaf
    while int(nodes.parent[row]) >= 0:
        slot, row = int(nodes.parent_slot[row]), int(nodes.parent[row])
        node = int(nodes.address[row])
        edit.put(node + gaps + 8 * slot, gap)
        recorded = [edit.get(node + gaps + 8 * at) for at in range(int(nodes.end[row]) + 1)]
        gap = max(recorded)
        edit.put(node + kernel.offset("maple_arange_64", "meta.gap"), recorded.index(gap), 1)


def maple_erased(edit: Edit, *, repaired: bool = False) -> Label:
    """A VMA erased as mas_erase would: neighbouring empty ranges joined, slots and pivots moved up, the
    metadata and every recorded gap corrected. With ``repaired`` the counters too."""
    nodes = edit.views.maple_nodes

    def fits(leaf: int, slot: int, slots: list[int]) -> bool:
        end = int(nodes.end[leaf])
        roomy = end >= _LEAST + 1 or nodes.parent[leaf] < 0
        beside = slots[slot - 1] == 0 or slots[slot + 1] == 0 if 0 < slot < end else False
        return roomy and 0 < slot < end and (beside or nodes.parent[leaf] >= 0)

    row, leaf, slot = _in_leaf(edit, fits)
    end = int(nodes.end[leaf])
    entries: list[tuple[int, int]] = []
    for at in range(end + 1):
        entry = 0 if at == slot else int(nodes.slots[leaf, at])
        if entries and not entry and not entries[-1][0]:
            entries.pop()
        entries.append((entry, int(nodes.pivots[leaf, at])))
    _write_leaf(edit, leaf, entries)
    _mend_gaps(edit, leaf, entries)
    if repaired:
        repair_counters(edit, row)
    return labelled(edit, "erased, gaps and pivots repaired" + (", counters repaired" if repaired else ""), row)


def maple_pivot_to_end(edit: Edit) -> Label:
    """A pivot set to its node's maximum: what the slots behind it hold is out of reach."""
    nodes = edit.views.maple_nodes
    row, leaf, slot = _in_leaf(edit, lambda leaf, slot, slots: 0 < slot < int(nodes.end[leaf]) and slots[slot - 1] != 0)
    node = int(nodes.address[leaf])
    pivot = edit.at("maple_range_64", node, "pivot") + 8 * (slot - 1)
    edit.put(pivot, int(nodes.high[leaf]))
    last = min(int(nodes.high[leaf]) + 1, 1 << 56)
    return replace(labelled(edit, "early end pivot", row), end=last)


def bounds_of_neighbour(edit: Edit) -> Label:
    """``vm_start`` and ``vm_end`` of an executable VMA made those of the VMA before it."""
    rows = edit.views.indices()[_index(edit)]
    row = pick(edit, _index(edit), executable_file)
    before = vma_of(edit, row_at(rows, int(np.flatnonzero(rows.vma == row.vma)[0]) - 1))
    for member, value in (("vm_start", before.start), ("vm_end", before.end)):
        edit.put(edit.at("vm_area_struct", int(row.vma), member), value)
    return labelled(edit, "bounds of a neighbour", row)


def list_and_tree(edit: Edit, *, repaired: bool = False) -> Label:
    """A VMA taken out of both the list and the red-black tree (up to 6.0), as rb_erase leaves it: a red leaf,
    after which nothing needs balancing. With ``repaired`` the recorded gaps and the counters too."""
    nodes, rows = edit.views.rb_nodes, edit.views.indices()[View.RBTREE]
    assert nodes is not None
    red = (nodes.parent_word & np.uint64(1)) == _RED
    alone = (nodes.left < 0) & (nodes.right < 0) & (nodes.parent >= 0) & red

    def fits(rows: IndexEntries, vmas: Vmas) -> NDArray[np.bool_]:
        chosen: NDArray[np.bool_] = alone & (vmas.prev != 0) & (vmas.next != 0) & (vmas.file != 0)
        chosen &= (vmas.flags & np.uint64(flags.VM_EXEC)) != 0
        return chosen

    row = pick(edit, View.RBTREE, fits)
    vma = vma_of(edit, row)
    edit.put(int(row.slot), 0)
    edit.put(edit.at("vm_area_struct", int(vma.prev), "vm_next"), int(vma.next))
    edit.put(edit.at("vm_area_struct", int(vma.next), "vm_prev"), int(vma.prev))
    if repaired:
        repair_counters(edit, row)
        _mend_subtree_gaps(edit, int(np.flatnonzero(rows.vma == row.vma)[0]))
    return labelled(edit, "list and tree" + (", gaps and counters repaired" if repaired else ""), row)


def _mend_subtree_gaps(edit: Edit, gone: int) -> None:
    """vma_compute_gap and its maxima (mm/mmap.c), for the tree of row ``gone`` without that row."""
    nodes, rows = edit.views.rb_nodes, edit.views.indices()[View.RBTREE]
    assert nodes is not None
    mine = [at for at in np.flatnonzero(rows.mm == rows.mm[gone]).tolist() if at != gone]
    vmas = edit.views.vmas.take(edit.views.vma_rows(rows.vma))
    gap, floor = {}, 0
    for at in mine:  # in order of addresses
        start, end = int(vmas.start[at]), int(vmas.end[at])
        if int(vmas.flags[at]) & flags.VM_GROWSDOWN:
            start = max(start - edit.views.stack_guard_gap, 0)
        gap[at] = max(start - floor, 0)
        floor = end
    for at in sorted(mine, key=lambda at: -int(nodes.depth[at])):
        children = [int(one) for one in (nodes.left[at], nodes.right[at]) if one >= 0 and one != gone]
        gap[at] = max([gap[at], *(gap[child] for child in children)])
        edit.put(edit.at("vm_area_struct", int(rows.vma[at]), "rb_subtree_gap"), gap[at])


MAPLE_TREE_EDITS: tuple[Callable[..., Label], ...] = (maple_erased, maple_pivot_to_end, bounds_of_neighbour)
LIST_TREE_EDITS: tuple[Callable[..., Label], ...] = (bounds_of_neighbour, list_and_tree)
REPAIRABLE: tuple[Callable[..., Label], ...] = (maple_erased, list_and_tree)
