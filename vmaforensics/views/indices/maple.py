"""The maple tree of VMAs, ``mm->mm_mt``, from 6.1 on: all trees at once, a level per gather.

Nothing is judged here but what stops the walk; every word a check may want is kept in the node table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import distinct, is_first, is_in
from vmaforensics.columns.runs import begins_run, places_in_run
from vmaforensics.columns.table import Table, column, table
from vmaforensics.columns.types import I64, U64, Bools
from vmaforensics.views.indices.entries import IndexEntries
from vmaforensics.views.indices.maple_nodes import (
    MAX_INDEX,
    ROOT_NODE,
    MapleNodes,
    NodeTypes,
    lower_bounds,
    slot_addresses,
    take_apart,
    used_slots,
)
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.slab.homes import MAPLE_NODE, VMA, Homes
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.mms import Mms

_PARENT_ROOT = np.uint64(0x1)  # MA_ROOT_PARENT
_PARENT_RANGE64 = np.uint64(0x6)  # MAPLE_PARENT_RANGE64
_PARENT_SLOT_SHIFT = np.uint64(3)
_RESERVED = np.uint64(4096)  # entries below it with the low bits 10 are the xarray's own (include/linux/xarray.h)
_DEPTH = 31  # MAPLE_HEIGHT_MAX


class MapleTree(NamedTuple):
    """The maple tree as an index: its entries in order, and its nodes."""

    entries: IndexEntries
    nodes: MapleNodes


@table()
class _Pointers(Table):
    """Pointers to nodes that are to be read next."""

    mm: U64
    enode: U64
    slot: U64  # address of the word that holds it
    low: U64  # first index below it
    high: U64  # last index below it
    parent: I64 = column(fill=-1)  # row of the node it is in
    parent_slot: I64 = column(fill=-1)
    expected: U64  # what the parent word of the node it leads to should be
    stranger: Bools  # it leads to where no node lives


class _Below(NamedTuple):
    """What one level of nodes holds."""

    entries: IndexEntries
    pointers: _Pointers


def walk_maple(kernel: Kernel, mms: Mms, log: ProblemLog) -> MapleTree | None:
    """Every VMA of every tree, and every node.

    ``start`` and ``end`` of an entry are the index range its node gives it. None where the kernel has no
    ``mm_mt``. A node is visited once: what leads to it again is a problem, and its rows are not repeated. Nodes and
    VMAs that lie elsewhere than the allocator says are problems, and rows only where they know whose they are.
    """
    if not kernel.has("mm_struct", "mm_mt"):
        return None
    types = NodeTypes.of(kernel)
    pointers = _roots(kernel, mms, log)
    homes = kernel.shared(Homes)
    seen = np.zeros(0, np.uint64)
    levels: list[MapleNodes] = []
    entries: list[IndexEntries] = []
    total = 0
    for depth in range(1, _DEPTH + 1):
        pointers = _admit(kernel, types, pointers, seen, log)
        pointers.stranger[:] = homes.strangers(MAPLE_NODE, types.decode(pointers.enode).node)
        _report(log, Problem.STALE, pointers, pointers.stranger)
        seen = distinct(seen, types.decode(pointers.enode).node)
        nodes = _read(kernel, types, pointers, depth, log)
        if not len(nodes):
            break
        found, pointers = _descend(kernel, nodes, total, log)
        levels.append(nodes)
        entries.append(_at_home(kernel, found, log))
        total += len(nodes)
    else:
        log.add(View.MAPLE, Problem.CUT_SHORT, pointers.mm, pointers.slot, pointers.enode)
    rows = IndexEntries.concatenate(entries)
    rows = rows.sort_by(rows.mm, rows.start, rows.slot)
    rows.order[:] = places_in_run(begins_run(rows.mm))
    return MapleTree(rows, MapleNodes.concatenate(levels))


def _roots(kernel: Kernel, mms: Mms, log: ProblemLog) -> _Pointers:
    """``mm_mt.ma_root`` of every mm that has one."""
    live = mms.ok & (mms.ma_root != 0)
    root, mm = mms.ma_root[live], mms.mm[live]
    slot = mm + np.uint64(kernel.offset("mm_struct", "mm_mt.ma_root"))
    # A direct entry, for index 0 only, cannot occur: a VMA is at least a page.
    node = ((root & np.uint64(3)) == ROOT_NODE) & (root > _RESERVED)
    log.add(View.MAPLE, Problem.BAD_TAG, mm[~node], slot[~node], root[~node])
    pointers = _Pointers.of(mm=mm[node], enode=root[node] & ~ROOT_NODE, slot=slot[node])
    pointers.high[:] = MAX_INDEX
    pointers.expected[:] = (pointers.mm + np.uint64(kernel.offset("mm_struct", "mm_mt"))) | _PARENT_ROOT
    return pointers


def _admit(kernel: Kernel, types: NodeTypes, pointers: _Pointers, seen: U64, log: ProblemLog) -> _Pointers:
    """Those that can lead to a node, and to none that was visited before; each of the others is a problem."""
    node, _, valid = types.decode(pointers.enode)
    wild = ~kernel.arch.kernel_pointer(node)
    again = ~wild & valid & (~is_first(node) | is_in(node, seen))
    _report(log, Problem.NON_CANONICAL, pointers, wild)
    _report(log, Problem.BAD_TAG, pointers, ~wild & ~valid)
    _report(log, Problem.CYCLE, pointers, again)
    return pointers.take(~wild & valid & ~again)


def _report(log: ProblemLog, problem: Problem, pointers: _Pointers, which: Bools) -> None:
    log.add(View.MAPLE, problem, pointers.mm[which], pointers.slot[which], pointers.enode[which])


def _read(kernel: Kernel, types: NodeTypes, pointers: _Pointers, depth: int, log: ProblemLog) -> MapleNodes:
    """Read one level of nodes and take them apart; unreadable ones are left out as problems."""
    words, ok = kernel.words(types.decode(pointers.enode).node, types.size // 8)
    _report(log, Problem.UNREADABLE, pointers, ~ok)
    # A node made by hand, or a copy of one, names its parent; foreign memory does not.
    ok &= ~pointers.stranger | (words[:, 0] == pointers.expected)
    pointers, words = pointers.take(ok), words[ok]
    node, kind, _ = types.decode(pointers.enode)
    parts = take_apart(types, kind, words, pointers.high)
    nodes = MapleNodes(
        mm=pointers.mm,
        address=node,
        kind=kind,
        leaf=kind == types.leaf_64,
        gapped=kind == types.arange_64,
        parent=pointers.parent,
        parent_slot=pointers.parent_slot,
        parent_word=words[:, 0],
        expected_parent=pointers.expected,
        depth=np.full(len(node), depth, np.int64),
        low=pointers.low,
        high=pointers.high,
        **parts._asdict(),
    )
    # A dead node is kept, for what it leads to may be all there is.
    _report(log, Problem.DEAD, pointers, types.is_dead(nodes))
    return nodes


def _at_home(kernel: Kernel, entries: IndexEntries, log: ProblemLog) -> IndexEntries:
    """Those of ``entries`` that lead to a VMA, or to what says that it is one of this mm."""
    stranger = kernel.shared(Homes).strangers(VMA, entries.vma)
    log.add(View.MAPLE, Problem.STALE, entries.mm[stranger], entries.slot[stranger], entries.vma[stranger])
    if not stranger.any():
        return entries
    mm, ok = kernel.gather_member("vm_area_struct", "vm_mm", entries.vma)
    return entries.take(~stranger | (ok & (mm == entries.mm)))


def _descend(kernel: Kernel, nodes: MapleNodes, base: int, log: ProblemLog) -> _Below:
    """Entries of the leaves among one level's nodes, and the pointers in the others.

    ``base`` is the row of the first of them among the nodes of all levels.
    """
    low, used = lower_bounds(nodes), used_slots(nodes)
    row, slot = np.nonzero(used & nodes.leaf[:, None] & (nodes.slots != 0))
    entry, where = nodes.slots[row, slot], slot_addresses(nodes, row, slot)
    reserved = (entry < _RESERVED) & ((entry & np.uint64(3)) == np.uint64(2))
    wild = ~reserved & ~kernel.arch.kernel_pointer(entry)
    misaligned = ~reserved & ~wild & ((entry & np.uint64(7)) != 0)
    for problem, which in (
        (Problem.RESERVED, reserved),
        (Problem.NON_CANONICAL, wild),
        (Problem.MISALIGNED, misaligned),
    ):
        log.add(View.MAPLE, problem, nodes.mm[row[which]], where[which], entry[which])
    row, slot, entry, where = row[~reserved], slot[~reserved], entry[~reserved], where[~reserved]
    with np.errstate(over="ignore"):
        end = nodes.pivots[row, slot] + np.uint64(1)
    entries = IndexEntries.of(mm=nodes.mm[row], vma=entry, start=low[row, slot], end=end, slot=where)

    row, slot = np.nonzero(used & ~nodes.leaf[:, None])
    child, where = nodes.slots[row, slot], slot_addresses(nodes, row, slot)
    empty = child == 0
    log.add(View.MAPLE, Problem.NULL_CHILD, nodes.mm[row[empty]], where[empty])
    row, slot, child, where = row[~empty], slot[~empty], child[~empty], where[~empty]
    return _Below(
        entries,
        _Pointers(
            mm=nodes.mm[row],
            enode=child,
            slot=where,
            low=low[row, slot],
            high=nodes.pivots[row, slot],
            parent=base + row,
            parent_slot=slot,
            stranger=np.zeros(len(row), np.bool_),
            expected=nodes.address[row] | slot.astype(np.uint64) << _PARENT_SLOT_SHIFT | _PARENT_RANGE64,
        ),
    )
