"""The maple tree of VMAs, ``mm->mm_mt``, from 6.1 on: all trees at once, a level per gather.

Encodings are those of lib/maple_tree.c: an *enode* is ``node | type << 3 | 0x4``, a root enode also has
bit 1 set; a slot covers the indices from its left neighbour's pivot + 1 to its own pivot, inclusive.
Nothing is judged here but what stops the walk; every word a check may want is kept in the node table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import KernelNotFoundError
from vmaforensics.kernel.space.pointers import kernel_pointer
from vmaforensics.views.indices.regions import REGIONS
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel

MAX_INDEX = np.uint64((1 << 64) - 1)

_TYPE_SHIFT, _TYPE_MASK = 3, 0xF
_ENODE_NULL = 0x4  # always set by mt_mk_node
_ROOT_NODE = 0x2  # in ma_root: this is a node, not a direct entry
_PARENT_ROOT = 0x1
_PARENT_RANGE64 = 0x6
_PARENT_SLOT_SHIFT = 3
_RESERVED = 4096  # entries below it with the low bits 10 are the xarray's own (include/linux/xarray.h)
_DEPTH = 31  # MAPLE_HEIGHT_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class MapleNodes:
    """Every maple node reached, one row each; slot-wise arrays have as many columns as the widest type.

    ``low`` and ``high`` are the inclusive index range the parent gives the node. ``end`` is the last used
    slot. ``pivots[i]`` is the inclusive maximum of slot i (the node's own maximum for the last).
    """

    mm: NDArray[np.uint64]
    address: NDArray[np.uint64]
    kind: NDArray[np.uint8]  # enum maple_type
    leaf: NDArray[np.bool_]
    gapped: NDArray[np.bool_]  # of the type that records gaps
    parent: NDArray[np.int64]  # row of the parent, -1 for a root
    parent_slot: NDArray[np.int64]
    parent_word: NDArray[np.uint64]
    expected_parent: NDArray[np.uint64]
    depth: NDArray[np.int64]  # 1 for a root
    low: NDArray[np.uint64]
    high: NDArray[np.uint64]
    end: NDArray[np.int64]
    capacity: NDArray[np.int64]  # slots a node of this kind has
    slots: NDArray[np.uint64]
    pivots: NDArray[np.uint64]  # logical: what bounds the slots
    raw_pivots: NDArray[np.uint64]
    gaps: NDArray[np.uint64]  # arange nodes only
    gap_slot: NDArray[np.int64]  # meta.gap
    slot_offset: NDArray[np.int64]  # bytes into the node

    @classmethod
    def empty(cls) -> MapleNodes:
        """No nodes."""
        u, i = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        wide = np.zeros((0, 1), np.uint64)
        return cls(
            mm=u,
            address=u,
            kind=np.zeros(0, np.uint8),
            leaf=np.zeros(0, np.bool_),
            gapped=np.zeros(0, np.bool_),
            parent=i,
            parent_slot=i,
            parent_word=u,
            expected_parent=u,
            depth=i,
            low=u,
            high=u,
            end=i,
            capacity=i,
            slots=wide,
            pivots=wide,
            raw_pivots=wide,
            gaps=wide,
            gap_slot=i,
            slot_offset=i,
        )

    def __len__(self) -> int:
        return len(self.address)


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


def walk_maple(kernel: Kernel, mms: NDArray[np.void], log: ProblemLog) -> tuple[NDArray[np.void], MapleNodes] | None:
    """Every VMA of every tree, and every node.

    The regions (dtype ``REGIONS``) carry the index range of their entry. None where the kernel has no
    ``mm_mt``. A node is visited once: what leads to it again is a problem, and its rows are not repeated.
    """
    if not kernel.has("mm_struct", "mm_mt"):
        return None
    form = Format.of(kernel)
    frontier = _roots(kernel, mms, log)
    seen = np.zeros(0, np.uint64)
    nodes: list[dict[str, NDArray[np.generic]]] = []
    regions: list[NDArray[np.void]] = []
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
        regions.append(found)
        total += len(level["mm"])
    else:
        log.add(View.MAPLE, Problem.CUT_SHORT, frontier.mm, frontier.slot, frontier.enode)
    rows = np.concatenate(regions) if regions else np.zeros(0, REGIONS)
    rows = rows[np.lexsort((rows["slot"], rows["start"], rows["mm"]))]
    if len(rows):
        first = np.concatenate([[True], rows["mm"][1:] != rows["mm"][:-1]])
        begin = np.maximum.accumulate(np.where(first, np.arange(len(rows)), 0))
        rows["order"] = np.arange(len(rows)) - begin
    return rows, _table(nodes)


def _table(levels: list[dict[str, NDArray[np.generic]]]) -> MapleNodes:
    if not levels:
        return MapleNodes.empty()
    return MapleNodes(**{name: np.concatenate([one[name] for one in levels]) for name in levels[0]})


def _roots(kernel: Kernel, mms: NDArray[np.void], log: ProblemLog) -> _Frontier:
    live = mms["ok"] & (mms["ma_root"] != 0)
    root, mm = mms["ma_root"][live], mms["mm"][live]
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
    _, first = np.unique(node, return_index=True)
    once = np.zeros(len(node), np.bool_)
    once[first] = True
    again = keep & (~once | np.isin(node, seen))
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
) -> tuple[dict[str, NDArray[np.generic]], _Frontier]:
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
    level: dict[str, NDArray[np.generic]] = {
        "mm": frontier.mm,
        "address": node,
        "kind": kind,
        "leaf": kind == form.leaf_64,
        "gapped": gapped,
        "parent": frontier.parent,
        "parent_slot": frontier.parent_slot,
        "parent_word": words[:, 0],
        "expected_parent": frontier.expected,
        "depth": np.full(count, depth, np.int64),
        "low": frontier.low,
        "high": frontier.high,
        "end": end,
        "capacity": capacity,
        "slots": slots,
        "pivots": logical,
        "raw_pivots": pivots,
        "gaps": gaps,
        "gap_slot": gap_slot,
        "slot_offset": offset,
    }
    # A dead node bears its own address as parent; it is kept, for what it leads to may be all there is.
    dead = (words[:, 0] & ~np.uint64(form.size - 1)) == node
    log.add(View.MAPLE, Problem.DEAD, *_told(frontier, dead))
    return level, frontier


def _descend(
    form: Format, level: dict[str, NDArray[np.generic]], frontier: _Frontier, base: int, log: ProblemLog
) -> tuple[NDArray[np.void], _Frontier]:
    """Entries of the leaves among a level's nodes, and the children of the others."""
    slots = level["slots"].astype(np.uint64)
    pivots = level["pivots"].astype(np.uint64)
    end, leaf = level["end"].astype(np.int64), level["leaf"].astype(np.bool_)
    low = np.empty_like(pivots)
    low[:, 0] = frontier.low
    with np.errstate(over="ignore"):
        low[:, 1:] = pivots[:, :-1] + np.uint64(1)
    used = np.arange(slots.shape[1])[None, :] <= end[:, None]
    address = level["address"].astype(np.uint64) + level["slot_offset"].astype(np.uint64)

    row, slot = np.nonzero(used & leaf[:, None] & (slots != 0))
    where = address[row] + np.uint64(8) * slot.astype(np.uint64)
    entry = slots[row, slot]
    reserved = (entry < np.uint64(_RESERVED)) & ((entry & np.uint64(3)) == np.uint64(2))
    log.add(View.MAPLE, Problem.RESERVED, frontier.mm[row[reserved]], where[reserved], entry[reserved])
    wild = ~reserved & ~kernel_pointer(entry)
    log.add(View.MAPLE, Problem.NON_CANONICAL, frontier.mm[row[wild]], where[wild], entry[wild])
    crooked = ~reserved & ~wild & ((entry & np.uint64(7)) != 0)
    log.add(View.MAPLE, Problem.MISALIGNED, frontier.mm[row[crooked]], where[crooked], entry[crooked])
    regions = np.zeros(int((~reserved).sum()), REGIONS)
    regions["mm"], regions["vma"] = frontier.mm[row[~reserved]], entry[~reserved]
    regions["start"] = low[row, slot][~reserved]
    with np.errstate(over="ignore"):
        regions["end"] = pivots[row, slot][~reserved] + np.uint64(1)
    regions["slot"] = where[~reserved]

    row, slot = np.nonzero(used & ~leaf[:, None])
    child = slots[row, slot]
    where = address[row] + np.uint64(8) * slot.astype(np.uint64)
    empty = child == 0
    log.add(View.MAPLE, Problem.NULL_CHILD, frontier.mm[row[empty]], where[empty])
    row, slot, child, where = row[~empty], slot[~empty], child[~empty], where[~empty]
    node = level["address"].astype(np.uint64)[row]
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
    return regions, below
