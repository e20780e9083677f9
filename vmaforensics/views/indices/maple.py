"""The maple tree of VMAs, ``mm->mm_mt``, from 6.1 on: all trees at once, a level per gather.

Encodings are those of lib/maple_tree.c: an *enode* is ``node | type << 3 | 0x4``, a root enode also has
bit 1 set; a slot covers the indices from its left neighbour's pivot + 1 to its own pivot, inclusive.
Nothing is judged here but what stops the walk; every word a check may want is kept in the node table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import is_first
from vmaforensics.columns.runs import begins_run, places_in_run
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I64, U8, U64, Bools, U64Wide
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.kernel.space.pointers import kernel_pointer
from vmaforensics.views.indices.entries import IndexEntries
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.mms import Mms

MAX_INDEX = np.uint64((1 << 64) - 1)

_TYPE_SHIFT, _TYPE_MASK = 3, 0xF
_ENODE_NULL = 0x4  # always set by mt_mk_node
_ROOT_NODE = 0x2  # in ma_root: this is a node, not a direct entry
_PARENT_ROOT = 0x1
_PARENT_RANGE64 = 0x6
_PARENT_SLOT_SHIFT = 3
_RESERVED = 4096  # entries below it with the low bits 10 are the xarray's own (include/linux/xarray.h)
_DEPTH = 31  # MAPLE_HEIGHT_MAX


@table()
class MapleNodes(Table):
    """Every maple node reached, one row each; slot-wise arrays have as many columns as the widest type.

    ``low`` and ``high`` are the inclusive index range the parent gives the node. ``end`` is the last used
    slot. ``pivots[i]`` is the inclusive maximum of slot i (the node's own maximum for the last).
    """

    mm: U64  # address of the mm_struct whose tree it is
    address: U64
    kind: U8  # enum maple_type
    leaf: Bools
    gapped: Bools  # of the type that records gaps
    parent: I64  # row of the parent, -1 for a root
    parent_slot: I64
    parent_word: U64
    expected_parent: U64
    depth: I64  # 1 for a root
    low: U64
    high: U64
    end: I64
    capacity: I64  # slots a node of this kind has
    slots: U64Wide
    pivots: U64Wide  # logical: what bounds the slots
    raw_pivots: U64Wide
    gaps: U64Wide  # arange nodes only
    gap_slot: I64  # meta.gap
    slot_offset: I64  # bytes into the node


class MapleTree(NamedTuple):
    """The maple tree as an index: its entries in order, and its nodes."""

    entries: IndexEntries
    nodes: MapleNodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Where one node type keeps its words, in words from the node's start."""

    slots: int
    capacity: int
    pivots: int
    gaps: int | None
    end: int  # byte offset of meta.end
    gap: int  # byte offset of meta.gap


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """The node types of this kernel, from its own type information."""

    size: int
    leaf_64: int
    range_64: int
    arange_64: int
    plain: Shape  # maple_range_64, for leaves and ranges
    gapped: Shape  # maple_arange_64

    @classmethod
    def of(cls, kernel: Kernel) -> Format:
        """Ask the kernel's types. Raises :class:`KernelNotFoundError` if they describe no maple tree."""

        def shape(struct: str, gapped: bool) -> Shape:
            slot = kernel.member(struct, "slot")
            return Shape(
                slots=slot.offset // 8,
                capacity=slot.count or 0,
                pivots=kernel.offset(struct, "pivot") // 8,
                gaps=kernel.offset(struct, "gap") // 8 if gapped else None,
                end=kernel.offset(struct, "meta.end"),
                gap=kernel.offset(struct, "meta.gap"),
            )

        kinds = [kernel.types.constant(f"maple_{name}") for name in ("leaf_64", "range_64", "arange_64")]
        leaf, plain, gapped = kinds
        if leaf is None or plain is None or gapped is None:
            raise KernelNotFoundError("the kernel's type information has no enum maple_type")
        return cls(
            size=kernel.sizeof("maple_node"),
            leaf_64=leaf,
            range_64=plain,
            arange_64=gapped,
            plain=shape("maple_range_64", False),
            gapped=shape("maple_arange_64", True),
        )


@dataclass(slots=True)
class _Frontier:
    """Nodes to be read next: parallel arrays."""

    mm: NDArray[np.uint64]
    enode: NDArray[np.uint64]
    slot: NDArray[np.uint64]  # address of the word that held it
    low: NDArray[np.uint64]
    high: NDArray[np.uint64]
    parent: NDArray[np.int64]
    parent_slot: NDArray[np.int64]
    expected: NDArray[np.uint64]  # what the node's parent word should be

    def where(self, keep: NDArray[np.bool_]) -> _Frontier:
        return _Frontier(*(getattr(self, name)[keep] for name in self.__slots__))


def walk_maple(kernel: Kernel, mms: Mms, log: ProblemLog) -> MapleTree | None:
    """Every VMA of every tree, and every node.

    ``start`` and ``end`` of an entry are the index range its node gives it. None where the kernel has no
    ``mm_mt``. A node is visited once: what leads to it again is a problem, and its rows are not repeated.
    """
    if not kernel.has("mm_struct", "mm_mt"):
        return None
    form = Format.of(kernel)
    frontier = _roots(kernel, mms, log)
    seen = np.zeros(0, np.uint64)
    nodes: list[MapleNodes] = []
    entries: list[IndexEntries] = []
    total = 0
    for depth in range(1, _DEPTH + 1):
        frontier, seen = _admit(frontier, seen, form, log)
        if not len(frontier.mm):
            break
        level, frontier = _read(kernel, form, frontier, depth, log)
        if not len(frontier.mm):
            break
        nodes.append(level)
        found, frontier = _descend(form, level, frontier, total, log)
        entries.append(found)
        total += len(level)
    else:
        log.add(View.MAPLE, Problem.CUT_SHORT, frontier.mm, frontier.slot, frontier.enode)
    rows = IndexEntries.concatenate(entries)
    rows = rows.sort_by(rows.mm, rows.start, rows.slot)
    rows.order[:] = places_in_run(begins_run(rows.mm))
    return MapleTree(rows, MapleNodes.concatenate(nodes))


def _roots(kernel: Kernel, mms: Mms, log: ProblemLog) -> _Frontier:
    live = mms.ok & (mms.ma_root != 0)
    root, mm = mms.ma_root[live], mms.mm[live]
    tree = mm + np.uint64(kernel.offset("mm_struct", "mm_mt"))
    slot = mm + np.uint64(kernel.offset("mm_struct", "mm_mt.ma_root"))
    # A direct entry, for index 0 only, cannot occur: an area is at least a page.
    node = ((root & np.uint64(3)) == np.uint64(_ROOT_NODE)) & (root > np.uint64(_RESERVED))
    log.add(View.MAPLE, Problem.BAD_TAG, mm[~node], slot[~node], root[~node])
    none = np.full(len(mm), -1, np.int64)
    everything = np.full(len(mm), MAX_INDEX, np.uint64)
    return _Frontier(
        mm,
        root & ~np.uint64(_ROOT_NODE),
        slot,
        np.zeros(len(mm), np.uint64),
        everything,
        none,
        none,
        tree | np.uint64(_PARENT_ROOT),
    ).where(node)


def _admit(
    frontier: _Frontier, seen: NDArray[np.uint64], form: Format, log: ProblemLog
) -> tuple[_Frontier, NDArray[np.uint64]]:
    """Drop what cannot be a node pointer or was visited before, each as a problem."""
    node, kind = _decode(frontier.enode, form)
    wild = ~kernel_pointer(node)
    log.add(View.MAPLE, Problem.NON_CANONICAL, *_told(frontier, wild))
    tag = ~wild & (
        ~np.isin(kind, (form.leaf_64, form.range_64, form.arange_64))
        | ((frontier.enode & np.uint64(_ENODE_NULL | _ROOT_NODE | 1)) != np.uint64(_ENODE_NULL))
        | ((frontier.enode & np.uint64(form.size - 1) & ~np.uint64(_TYPE_MASK << _TYPE_SHIFT | 7)) != 0)
    )
    log.add(View.MAPLE, Problem.BAD_TAG, *_told(frontier, tag))
    keep = ~wild & ~tag
    again = keep & (~is_first(node) | np.isin(node, seen))
    log.add(View.MAPLE, Problem.CYCLE, *_told(frontier, again))
    keep &= ~again
    return frontier.where(keep), np.union1d(seen, node[keep])


def _told(
    frontier: _Frontier, which: NDArray[np.bool_]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
    return frontier.mm[which], frontier.slot[which], frontier.enode[which]


def _decode(enode: NDArray[np.uint64], form: Format) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    node = enode & ~np.uint64(form.size - 1)
    return node, ((enode >> np.uint64(_TYPE_SHIFT)) & np.uint64(_TYPE_MASK)).astype(np.uint8)


def _read(
    kernel: Kernel, form: Format, frontier: _Frontier, depth: int, log: ProblemLog
) -> tuple[MapleNodes, _Frontier]:
    """Read one level of nodes and take them apart; unreadable ones are dropped as problems."""
    node, _ = _decode(frontier.enode, form)
    words, ok = kernel.words(node, form.size // 8)
    log.add(View.MAPLE, Problem.UNREADABLE, *_told(frontier, ~ok))
    frontier, words = frontier.where(ok), words[ok]
    node, kind = _decode(frontier.enode, form)
    count = len(node)
    width = max(form.plain.capacity, form.gapped.capacity)
    raw = words.view(np.uint8).reshape(count, form.size)
    slots, pivots = np.zeros((count, width), np.uint64), np.zeros((count, width), np.uint64)
    gaps = np.zeros((count, width), np.uint64)
    end, gap_slot = np.zeros(count, np.int64), np.zeros(count, np.int64)
    capacity, offset = np.zeros(count, np.int64), np.zeros(count, np.int64)
    gapped = kind == form.arange_64
    for shape, rows in ((form.plain, np.flatnonzero(~gapped)), (form.gapped, np.flatnonzero(gapped))):
        size = shape.capacity
        slots[rows, :size] = words[rows, shape.slots : shape.slots + size]
        pivots[rows, : size - 1] = words[rows, shape.pivots : shape.pivots + size - 1]
        if shape.gaps is not None:
            gaps[rows, :size] = words[rows, shape.gaps : shape.gaps + size]
            end[rows] = raw[rows, shape.end]
        else:
            # ma_data_end: the metadata share the last slot, and are there only if that is not needed.
            last = pivots[rows, size - 2]
            end[rows] = np.where(
                last == 0, raw[rows, shape.end], np.where(last == frontier.high[rows], size - 2, size - 1)
            )
        gap_slot[rows] = raw[rows, shape.gap]
        capacity[rows], offset[rows] = size, shape.slots * 8
    end = np.minimum(end, capacity - 1)
    column = np.arange(width)[None, :]
    logical = pivots.copy()
    # mas_logical_pivot: the last slot, and one whose pivot is 0, reaches to the node's maximum.
    to_end = (column >= end[:, None]) & (column < capacity[:, None])
    open_ended = (column >= capacity[:, None] - 1) | ((pivots == 0) & (column > 0))
    logical = np.where(to_end & open_ended, frontier.high[:, None], logical)
    level = MapleNodes(
        mm=frontier.mm,
        address=node,
        kind=kind,
        leaf=kind == form.leaf_64,
        gapped=gapped,
        parent=frontier.parent,
        parent_slot=frontier.parent_slot,
        parent_word=words[:, 0],
        expected_parent=frontier.expected,
        depth=np.full(count, depth, np.int64),
        low=frontier.low,
        high=frontier.high,
        end=end,
        capacity=capacity,
        slots=slots,
        pivots=logical,
        raw_pivots=pivots,
        gaps=gaps,
        gap_slot=gap_slot,
        slot_offset=offset,
    )
    # A dead node bears its own address as parent; it is kept, for what it leads to may be all there is.
    dead = (words[:, 0] & ~np.uint64(form.size - 1)) == node
    log.add(View.MAPLE, Problem.DEAD, *_told(frontier, dead))
    return level, frontier


def _descend(
    form: Format, level: MapleNodes, frontier: _Frontier, base: int, log: ProblemLog
) -> tuple[IndexEntries, _Frontier]:
    """Entries of the leaves among a level's nodes, and the children of the others."""
    slots, pivots, end, leaf = level.slots, level.pivots, level.end, level.leaf
    low = np.empty_like(pivots)
    low[:, 0] = frontier.low
    with np.errstate(over="ignore"):
        low[:, 1:] = pivots[:, :-1] + np.uint64(1)
    used = np.arange(slots.shape[1])[None, :] <= end[:, None]
    address = level.address + level.slot_offset.astype(np.uint64)

    row, slot = np.nonzero(used & leaf[:, None] & (slots != 0))
    where = address[row] + np.uint64(8) * slot.astype(np.uint64)
    entry = slots[row, slot]
    reserved = (entry < np.uint64(_RESERVED)) & ((entry & np.uint64(3)) == np.uint64(2))
    log.add(View.MAPLE, Problem.RESERVED, frontier.mm[row[reserved]], where[reserved], entry[reserved])
    wild = ~reserved & ~kernel_pointer(entry)
    log.add(View.MAPLE, Problem.NON_CANONICAL, frontier.mm[row[wild]], where[wild], entry[wild])
    crooked = ~reserved & ~wild & ((entry & np.uint64(7)) != 0)
    log.add(View.MAPLE, Problem.MISALIGNED, frontier.mm[row[crooked]], where[crooked], entry[crooked])
    entries = IndexEntries.zeros(int((~reserved).sum()))
    entries.mm[:], entries.vma[:] = frontier.mm[row[~reserved]], entry[~reserved]
    entries.start[:] = low[row, slot][~reserved]
    with np.errstate(over="ignore"):
        entries.end[:] = pivots[row, slot][~reserved] + np.uint64(1)
    entries.slot[:] = where[~reserved]

    row, slot = np.nonzero(used & ~leaf[:, None])
    child = slots[row, slot]
    where = address[row] + np.uint64(8) * slot.astype(np.uint64)
    empty = child == 0
    log.add(View.MAPLE, Problem.NULL_CHILD, frontier.mm[row[empty]], where[empty])
    row, slot, child, where = row[~empty], slot[~empty], child[~empty], where[~empty]
    node = level.address[row]
    below = _Frontier(
        frontier.mm[row],
        child,
        where,
        low[row, slot],
        pivots[row, slot],
        base + row.astype(np.int64),
        slot.astype(np.int64),
        node | slot.astype(np.uint64) << np.uint64(_PARENT_SLOT_SHIFT) | np.uint64(_PARENT_RANGE64),
    )
    return entries, below
