"""The maple tree taken apart: slots of the leaves, gaps there are and gaps recorded.

What mt_validate, mas_validate_gaps and mt_validate_nulls (lib/maple_tree.c) go by, for every node at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.columns.lookup import sort_order
from vmaforensics.columns.runs import begins_run
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I32, I64, U8, U64, Bools
from vmaforensics.views.indices.maple_nodes import lower_bounds, used_slots
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.checks.rule import Rule
    from vmaforensics.views.indices.maple_nodes import MapleNodes


@table()
class LeafSlots(Table):
    """Every used slot of every leaf: a row is a slot. Sorted by mm and index."""

    node: I32  # row of the node table
    slot: U8
    low: U64  # first index
    high: U64  # last index
    empty: Bools


def leaf_slots(context: Context) -> LeafSlots:
    """The slots of all leaves up to each leaf's end; ask for it with ``context.shared``."""
    nodes = context.views.maple_nodes
    node, slot = np.nonzero(used_slots(nodes) & nodes.leaf[:, None])
    low = lower_bounds(nodes)[node, slot]
    order = sort_order(nodes.mm[node], low, slot)
    node, slot = node[order], slot[order]
    return LeafSlots(
        node=node.astype(np.int32),
        slot=slot.astype(np.uint8),
        low=low[order],
        high=nodes.pivots[node, slot],
        empty=nodes.slots[node, slot] == 0,
    )


def firm(nodes: MapleNodes, node: I64 | I32, slot: I64 | U8) -> Bools:
    """Are both bounds of each slot pivots of its own node, and is that where its parent says? They were read at one
    moment then, at which the tree led there."""
    held: Bools = (nodes.parent_word == nodes.expected_parent)[node] & (slot > 0) & (slot < nodes.end[node])
    return held


def node_range(nodes: MapleNodes, row: int) -> tuple[int, int]:
    """The range of addresses a node covers, its end exclusive."""
    return int(nodes.low[row]), min(int(nodes.high[row]) + 1, (1 << 64) - 1)


def null_pairs(context: Context) -> I64:
    """Rows of the leaf slots that are empty and follow an empty one in the same tree (mt_validate_nulls)."""
    slots = context.shared(leaf_slots)
    mm = context.views.maple_nodes.mm[slots.node]
    pairs = slots.empty[1:] & slots.empty[:-1] & ~begins_run(mm)[1:]
    return np.flatnonzero(pairs).astype(np.int64) + 1


class Gaps(NamedTuple):
    """The largest empty range below each node, in indices: a row per node."""

    real: U64
    recorded: U64  # by its parent; for a root, that there is

    @property
    def wrong(self) -> I64:
        """Rows of nodes whose parent records another gap than there is."""
        return np.flatnonzero(self.recorded != self.real).astype(np.int64)


def node_gaps(context: Context) -> Gaps:
    """Gaps of all nodes; ask for it with ``context.shared``.

    Recomputed for leaves (mas_leaf_max_gap); for inner nodes the largest that they record of their children.
    """
    nodes = context.views.maple_nodes
    size = nodes.pivots - lower_bounds(nodes) + np.uint64(1)  # wraps to 0 for all of an empty tree only
    gap = np.where(nodes.leaf[:, None], np.where(nodes.slots == 0, size, np.uint64(0)), nodes.gaps)
    real = np.where(used_slots(nodes), gap, np.uint64(0)).max(axis=1, initial=0)
    recorded = np.where(nodes.parent >= 0, nodes.gaps[nodes.parent, nodes.parent_slot], real)
    return Gaps(real=real, recorded=recorded)


class Wording(NamedTuple):
    """Sentences about a node; ``{node}`` stands for its address."""

    what: str  # of the evidence
    title: str


def node_findings(
    context: Context, rule: Rule, wrong: I64, wording: Wording, found: U64, expected: U64
) -> Iterator[Finding]:
    """One finding per address space for nodes that are wrong in the same way.

    ``wrong`` are rows of the node table; ``found`` and ``expected`` have a value for every node.
    """
    nodes = context.views.maple_nodes

    def evidence(row: int) -> Evidence:
        at = int(wrong[row])
        return Evidence(
            what=wording.what.format(node=f"{int(nodes.address[at]):#x}"),
            view=View.MAPLE.label,
            address=int(nodes.address[at]),
            found=f"{int(found[at]):#x}",
            expected=f"{int(expected[at]):#x}",
        )

    yield from context.per_mm(
        rule,
        nodes.mm[wrong],
        evidence,
        lambda row: wording.title.format(node=f"{int(nodes.address[wrong[row]]):#x}"),
        lambda row: node_range(nodes, int(wrong[row])),
    )
