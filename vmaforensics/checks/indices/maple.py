"""The maple tree against its own rules: mt_validate of lib/maple_tree.c, on every node at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import rules
from vmaforensics.checks.finding import Evidence
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding, Rule
    from vmaforensics.views.indices.maple_nodes import MapleNodes

_HEIGHT_SHIFT, _HEIGHT_MASK = 2, 0x1F  # MT_FLAGS_HEIGHT_OFFSET, MT_FLAGS_HEIGHT_MASK >> 2
_NODE_MASK = np.uint64(0xFF)  # MAPLE_NODE_MASK


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafSlots:
    """Every used slot of every leaf, sorted by mm and index: parallel arrays."""

    mm: NDArray[np.uint64]
    node: NDArray[np.int64]  # row of the node table
    slot: NDArray[np.int64]
    low: NDArray[np.uint64]  # inclusive index range
    high: NDArray[np.uint64]
    empty: NDArray[np.bool_]
    where: NDArray[np.uint64]  # address of the slot


def leaf_slots(nodes: MapleNodes) -> LeafSlots:
    """Take the leaves apart."""
    used = (np.arange(nodes.slots.shape[1])[None, :] <= nodes.end[:, None]) & nodes.leaf[:, None]
    node, slot = np.nonzero(used)
    low = lower_bounds(nodes)[node, slot]
    sort = np.lexsort((slot, low, nodes.mm[node]))
    node, slot = node[sort], slot[sort]
    return LeafSlots(
        mm=nodes.mm[node],
        node=node,
        slot=slot,
        low=low[sort],
        high=nodes.pivots[node, slot],
        empty=nodes.slots[node, slot] == 0,
        where=nodes.address[node] + (nodes.slot_offset[node] + 8 * slot).astype(np.uint64),
    )


def lower_bounds(nodes: MapleNodes) -> NDArray[np.uint64]:
    """First index of every slot of every node."""
    low = np.empty_like(nodes.pivots)
    low[:, :1] = nodes.low[:, None]
    with np.errstate(over="ignore"):
        low[:, 1:] = nodes.pivots[:, :-1] + np.uint64(1)
    return low


def largest_gaps(nodes: MapleNodes) -> NDArray[np.uint64]:
    """The largest empty range below each node, in indices: recomputed for leaves (mas_leaf_max_gap), the
    largest recorded one for inner nodes."""
    size = nodes.pivots - lower_bounds(nodes) + np.uint64(1)  # wraps to 0 for all of an empty tree only
    used = np.arange(nodes.slots.shape[1])[None, :] <= nodes.end[:, None]
    gap = np.where(nodes.leaf[:, None], np.where(nodes.slots == 0, size, np.uint64(0)), nodes.gaps)
    answer: NDArray[np.uint64] = np.where(used, gap, np.uint64(0)).max(axis=1, initial=0)
    return answer


def check_maple(context: Context) -> Iterator[Finding]:
    """MT-NODE, MT-PIVOT, MT-NULL and MT-GAP for every node reached."""
    nodes = context.views.maple_nodes
    if not len(nodes):
        return
    yield from _parents(context, nodes)
    yield from _heights(context, nodes)
    yield from _kinds(context, nodes)
    yield from _pivots(context, nodes)
    yield from _behind_end(context, nodes)
    slots = leaf_slots(nodes)
    yield from _null_pairs(context, slots)
    yield from _gaps(context, nodes)


def _span(nodes: MapleNodes, row: int) -> tuple[int, int]:
    return int(nodes.low[row]), min(int(nodes.high[row]) + 1, (1 << 64) - 1)


def _node_findings(
    context: Context,
    rule: Rule,
    nodes: MapleNodes,
    wrong: NDArray[np.intp],
    what: str,
    title: str,
    found: NDArray[np.uint64],
    expected: NDArray[np.uint64],
) -> Iterator[Finding]:
    def evidence(row: int) -> Evidence:
        at = int(wrong[row])
        return Evidence(
            what=what.format(node=f"{int(nodes.address[at]):#x}"),
            view=View.MAPLE.label,
            address=int(nodes.address[at]),
            found=f"{int(found[at]):#x}",
            expected=f"{int(expected[at]):#x}",
        )

    yield from context.per_mm(
        rule,
        nodes.mm[wrong],
        evidence,
        lambda row: title.format(node=f"{int(nodes.address[wrong[row]]):#x}"),
        lambda row: _span(nodes, int(wrong[row])),
    )


def _parents(context: Context, nodes: MapleNodes) -> Iterator[Finding]:
    # A node that was replaced bears its own address as parent (mte_set_node_dead).
    dead = (nodes.parent_word & ~_NODE_MASK) == nodes.address
    yield from _node_findings(
        context,
        rules.MT_NODE,
        nodes,
        np.flatnonzero(dead),
        "node {node} is marked dead, as one that was replaced, and its parent still leads to it",
        "dead maple node {node} is still part of the tree",
        nodes.parent_word,
        nodes.expected_parent,
    )
    wrong = np.flatnonzero((nodes.parent_word != nodes.expected_parent) & ~dead)
    yield from _node_findings(
        context,
        rules.MT_NODE,
        nodes,
        wrong,
        "the parent word of node {node} does not name the place it hangs in",
        "maple node {node} does not lead back to its parent",
        nodes.parent_word,
        nodes.expected_parent,
    )


def _heights(context: Context, nodes: MapleNodes) -> Iterator[Finding]:
    flags = context.views.mms["ma_flags"][context.views.mm_rows(nodes.mm)]
    height = ((flags >> np.uint32(_HEIGHT_SHIFT)) & np.uint32(_HEIGHT_MASK)).astype(np.int64)
    wrong = np.flatnonzero(nodes.leaf & (nodes.depth != height))
    yield from _node_findings(
        context,
        rules.MT_NODE,
        nodes,
        wrong,
        "leaf {node} lies at another depth than the height in ma_flags",
        "leaf {node} lies at the wrong depth of the maple tree",
        nodes.depth.astype(np.uint64),
        height.astype(np.uint64),
    )


def _kinds(context: Context, nodes: MapleNodes) -> Iterator[Finding]:
    """Inner nodes of a tree that keeps gaps (MT_FLAGS_ALLOC_RANGE) are arange_64; see mas_parent_type."""
    wrong = np.flatnonzero(~nodes.leaf & ~nodes.gapped)
    zero = np.zeros(len(nodes), np.uint64)
    yield from _node_findings(
        context,
        rules.MT_NODE,
        nodes,
        wrong,
        "inner node {node} records no gaps, though its tree keeps them",
        "maple node {node} is of a type this tree does not use",
        nodes.kind.astype(np.uint64),
        zero,
    )


def _pivots(context: Context, nodes: MapleNodes) -> Iterator[Finding]:
    column = np.arange(nodes.pivots.shape[1])[None, :]
    used = column <= nodes.end[:, None]
    low = lower_bounds(nodes)
    outside = used & ((nodes.pivots < low) | (nodes.pivots > nodes.high[:, None]))
    # A slot before the last that already reaches the node's end leaves nothing for those behind it.
    early = (column < nodes.end[:, None]) & (nodes.pivots >= nodes.high[:, None])
    rows = np.arange(len(nodes))
    short = nodes.pivots[rows, nodes.end] != nodes.high
    wrong = np.flatnonzero(outside.any(axis=1) | early.any(axis=1) | short)
    first = np.where(outside | early, column, nodes.end[:, None]).min(axis=1)
    yield from _node_findings(
        context,
        rules.MT_PIVOT,
        nodes,
        wrong,
        "the pivots of node {node} do not rise to the end of its range",
        "pivots of maple node {node} do not fit its range",
        nodes.pivots[rows, first],
        nodes.high,
    )


def _behind_end(context: Context, nodes: MapleNodes) -> Iterator[Finding]:
    """Slots behind the last used one are NULL; a leaf's last slot may hold the metadata instead."""
    column = np.arange(nodes.slots.shape[1])[None, :]
    metadata = nodes.leaf[:, None] & (column == nodes.capacity[:, None] - 1)
    behind = (column > nodes.end[:, None]) & (column < nodes.capacity[:, None]) & ~metadata
    stale = behind & (nodes.slots != 0)
    node, slot = np.nonzero(stale)
    where = nodes.address[node] + (nodes.slot_offset[node] + 8 * slot).astype(np.uint64)

    def evidence(row: int) -> Evidence:
        return Evidence(
            what=f"slot {int(slot[row])} of node {int(nodes.address[node[row]]):#x} lies behind its end, slot "
            f"{int(nodes.end[node[row]])}, and is in use",
            view=View.MAPLE.label,
            address=int(where[row]),
            found=f"{int(nodes.slots[node[row], slot[row]]):#x}",
            expected="0",
        )

    yield from context.per_mm(
        rules.MT_NULL,
        nodes.mm[node],
        evidence,
        lambda row: f"maple node {int(nodes.address[node[row]]):#x} holds an entry behind its end",
        lambda row: _span(nodes, int(node[row])),
    )


def null_pairs(slots: LeafSlots) -> NDArray[np.intp]:
    """Rows of ``slots`` that are empty and follow an empty one in the same tree (mt_validate_nulls)."""
    same = slots.mm[1:] == slots.mm[:-1]
    return np.flatnonzero(same & slots.empty[1:] & slots.empty[:-1]) + 1


def _null_pairs(context: Context, slots: LeafSlots) -> Iterator[Finding]:
    wrong = null_pairs(slots)
    wrong = wrong[context.whole(View.MAPLE, slots.mm[wrong])]

    def evidence(row: int) -> Evidence:
        at = int(wrong[row])
        return Evidence(
            what=f"two empty ranges side by side: {int(slots.low[at - 1]):#x}-{int(slots.high[at - 1]) + 1:#x} and "
            f"{int(slots.low[at]):#x}-{int(slots.high[at]) + 1:#x}; the kernel would have joined them",
            view=View.MAPLE.label,
            address=int(slots.where[at]),
        )

    def bounds(row: int) -> tuple[int, int]:
        at = int(wrong[row])
        return int(slots.low[at - 1]), int(slots.high[at]) + 1

    yield from context.per_mm(
        rules.MT_NULL,
        slots.mm[wrong],
        evidence,
        lambda row: f"two empty ranges side by side in the maple tree at {int(slots.low[wrong[row]]):#x}",
        bounds,
    )


def gap_mismatches(nodes: MapleNodes) -> tuple[NDArray[np.intp], NDArray[np.uint64], NDArray[np.uint64]]:
    """(rows of nodes whose parent records another largest gap, gap there is, gap recorded); per row of the
    whole node table for the last two."""
    real = largest_gaps(nodes)
    inner = nodes.parent >= 0
    recorded = np.where(inner, nodes.gaps[nodes.parent, nodes.parent_slot], real)
    return np.flatnonzero(recorded != real), real, recorded


def _gaps(context: Context, nodes: MapleNodes) -> Iterator[Finding]:
    rows, real, recorded = gap_mismatches(nodes)
    rows = rows[context.whole(View.MAPLE, nodes.mm[rows])]
    yield from _node_findings(
        context,
        rules.MT_GAP,
        nodes,
        rows,
        "the largest empty range below node {node} is not what its parent records",
        "the gap recorded for maple node {node} is not the gap there is",
        recorded,
        real,
    )
    column = np.arange(nodes.gaps.shape[1])[None, :]
    largest = np.where(column <= nodes.end[:, None], nodes.gaps, np.uint64(0)).max(axis=1, initial=0)
    named = np.minimum(nodes.gap_slot, nodes.gaps.shape[1] - 1)
    at_named = nodes.gaps[np.arange(len(nodes)), named]
    # 6.1 writes MAPLE_ARANGE64_META_MAX, one past every slot, for "no gap at all".
    none = (nodes.gap_slot >= nodes.capacity) & (largest == 0)
    wrong = np.flatnonzero(nodes.gapped & ~none & (at_named != largest))
    yield from _node_findings(
        context,
        rules.MT_GAP,
        nodes,
        wrong,
        "the slot that node {node} names as that of its largest gap has a smaller one",
        "maple node {node} names the wrong slot as that of its largest gap",
        at_named,
        largest,
    )
