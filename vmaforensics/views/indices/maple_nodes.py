"""Maple nodes taken apart (lib/maple_tree.c, include/linux/maple_tree.h).

An *enode* is ``node | type << 3 | 0x4``; a root enode also has bit 1 set. A slot covers the indices from its left
neighbour's pivot + 1 to its own pivot, inclusive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I32, I64, U8, U64, Bools, U64Wide
from vmaforensics.errors import KernelNotFoundError

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

MAX_INDEX = np.uint64((1 << 64) - 1)
ROOT_NODE = np.uint64(0x2)  # in ma_root: this is a node, not a direct entry

_WORD = 8
_TYPE_SHIFT, _TYPE_MASK = np.uint64(3), np.uint64(0xF)
_ENODE_NULL = np.uint64(0x4)  # always set by mt_mk_node


@table()
class MapleNodes(Table):
    """Every maple node reached, level by level; slot-wise columns have as many values as the widest type has slots."""

    mm: U64  # address of the mm_struct whose tree it is
    address: U64  # of the maple_node
    kind: U8  # enum maple_type
    leaf: Bools
    gapped: Bools  # of the type that records gaps
    parent: I64  # row of the parent, -1 for a root
    parent_slot: I64  # slot of the parent that points here, -1 for a root
    parent_word: U64  # what the node says of its parent
    expected_parent: U64  # what it should say
    depth: I64  # 1 for a root
    low: U64  # first index that the parent gives the node
    high: U64  # last index that the parent gives the node
    end: I64  # last slot in use
    capacity: I64  # slots a node of this kind has
    slots: U64Wide
    pivots: U64Wide  # inclusive maximum of each slot, that of the node for the last
    gaps: U64Wide  # as they are stored; 0 in nodes of a type without
    gap_slot: I64  # meta.gap
    slot_offset: I64  # of the first slot, bytes into the node


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLayout:
    """Where one node type keeps its words: words from the node's start, except for the bytes of the metadata."""

    slots: int
    capacity: int  # slots
    pivots: int
    gaps: int | None
    end: int  # byte offset of meta.end
    gap: int  # byte offset of meta.gap

    @classmethod
    def of(cls, kernel: Kernel, struct: str, size: int) -> NodeLayout:
        """The layout of ``maple_range_64`` or ``maple_arange_64`` in a node of ``size`` bytes.

        Raises :class:`KernelNotFoundError` if a node has no room for it: the types are damaged.
        """
        slot = kernel.member(struct, "slot")
        found = cls(
            slots=slot.offset // _WORD,
            capacity=slot.count or 0,
            pivots=kernel.offset(struct, "pivot") // _WORD,
            gaps=kernel.offset(struct, "gap") // _WORD if kernel.has(struct, "gap") else None,
            end=kernel.offset(struct, "meta.end"),
            gap=kernel.offset(struct, "meta.gap"),
        )
        words = max(found.slots, found.gaps or 0, found.pivots - 1) + found.capacity
        if found.capacity < 2 or words > size // _WORD or max(found.end, found.gap) >= size:
            raise KernelNotFoundError(f"a maple_node has no room for what the kernel's types say of struct {struct}")
        return found


class Decoded(NamedTuple):
    """What enodes say."""

    node: U64  # address of the maple_node
    kind: U8  # enum maple_type
    valid: Bools  # the type occurs in trees of ranges, and no bit is set that never is


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTypes:
    """The node types of this kernel, from its own type information."""

    size: int  # bytes of a node, which is also its alignment
    leaf_64: int
    range_64: int
    arange_64: int
    plain: NodeLayout  # maple_range_64, for leaves and ranges
    gapped: NodeLayout  # maple_arange_64

    @classmethod
    def of(cls, kernel: Kernel) -> NodeTypes:
        """Ask the kernel's types. Raises :class:`KernelNotFoundError` if they describe no maple tree."""
        leaf, plain, gapped = (kernel.types.constant(f"maple_{name}") for name in ("leaf_64", "range_64", "arange_64"))
        if leaf is None or plain is None or gapped is None:
            raise KernelNotFoundError("the kernel's type information has no enum maple_type")
        size = kernel.sizeof("maple_node")
        if size & (size - 1) or size < _WORD:
            raise KernelNotFoundError("struct maple_node has a size in the kernel's types that no node can have")
        return cls(
            size=size,
            leaf_64=leaf,
            range_64=plain,
            arange_64=gapped,
            plain=NodeLayout.of(kernel, "maple_range_64", size),
            gapped=NodeLayout.of(kernel, "maple_arange_64", size),
        )

    def decode(self, enodes: U64) -> Decoded:
        """mte_to_node and mte_node_type of each enode."""
        low = np.uint64(self.size - 1)
        kind = ((enodes >> _TYPE_SHIFT) & _TYPE_MASK).astype(np.uint8)
        known = np.isin(kind, (self.leaf_64, self.range_64, self.arange_64))
        # mt_mk_node sets bit 2; only ma_root has bit 1, and it is taken off first. Above the type nothing is set.
        clean = (enodes & low & ~(_TYPE_MASK << _TYPE_SHIFT)) == _ENODE_NULL
        return Decoded(node=enodes & ~low, kind=kind, valid=known & clean)

    def is_dead(self, nodes: MapleNodes) -> Bools:
        """ma_dead_node: which nodes bear their own address as parent, as those do that were replaced."""
        dead: Bools = (nodes.parent_word & ~np.uint64(self.size - 1)) == nodes.address
        return dead


class NodeWords(NamedTuple):
    """The words of nodes, taken apart by type; as the columns of :class:`MapleNodes`."""

    slots: U64
    pivots: U64
    gaps: U64
    end: I64
    capacity: I64
    gap_slot: I64
    slot_offset: I64


def take_apart(types: NodeTypes, kind: U8, words: U64, high: U64) -> NodeWords:
    """Slots, pivots, gaps and metadata of nodes.

    ``words`` has shape (nodes, words of a node); ``high`` is the last index of each node.
    """
    count, width = len(kind), max(types.plain.capacity, types.gapped.capacity)
    raw = words.view(np.uint8).reshape(count, types.size)
    slots, pivots, gaps = (np.zeros((count, width), np.uint64) for _ in range(3))
    end, gap_slot, capacity, offset = (np.zeros(count, np.int64) for _ in range(4))
    gapped = kind == types.arange_64
    for layout, rows in ((types.plain, np.flatnonzero(~gapped)), (types.gapped, np.flatnonzero(gapped))):
        size = layout.capacity
        slots[rows, :size] = words[rows, layout.slots : layout.slots + size]
        pivots[rows, : size - 1] = words[rows, layout.pivots : layout.pivots + size - 1]
        if layout.gaps is not None:
            gaps[rows, :size] = words[rows, layout.gaps : layout.gaps + size]
            end[rows] = raw[rows, layout.end]
        else:
            # ma_data_end: the metadata share the last slot, and are there only if that is not needed.
            last = pivots[rows, size - 2]
            full = np.where(last == high[rows], size - 2, size - 1)
            end[rows] = np.where(last == 0, raw[rows, layout.end], full)
        gap_slot[rows] = raw[rows, layout.gap]
        capacity[rows], offset[rows] = size, layout.slots * _WORD
    end = np.minimum(end, capacity - 1)
    column = np.arange(width)[None, :]
    # mas_logical_pivot: the last slot, and one whose pivot is 0, reaches to the node's maximum.
    to_end = (column >= end[:, None]) & (column < capacity[:, None])
    open_ended = (column >= capacity[:, None] - 1) | ((pivots == 0) & (column > 0))
    logical = np.where(to_end & open_ended, high[:, None], pivots)
    return NodeWords(slots, logical, gaps, end, capacity, gap_slot, offset)


def lower_bounds(nodes: MapleNodes) -> U64Wide:
    """First index of every slot of every node; as many columns as ``nodes.slots``."""
    low = np.empty_like(nodes.pivots)
    low[:, :1] = nodes.low[:, None]
    with np.errstate(over="ignore"):
        low[:, 1:] = nodes.pivots[:, :-1] + np.uint64(1)
    return low


def used_slots(nodes: MapleNodes) -> Bools:
    """Which slots of each node are used: those up to its end; as many columns as ``nodes.slots``."""
    used: Bools = np.arange(nodes.slots.shape[1])[None, :] <= nodes.end[:, None]
    return used


def slot_addresses(nodes: MapleNodes, node: I64 | I32, slot: I64 | U8) -> U64:
    """Address of each slot, given the row of its node and its number."""
    offset = nodes.slot_offset[node].astype(np.uint64) + np.uint64(_WORD) * slot.astype(np.uint64)
    return nodes.address[node] + offset
