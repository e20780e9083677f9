"""MT-NULL: empty range in the maple tree that the kernel would not leave.

Kernels with a maple tree.

*Compared:* neighbouring slots of the leaves, across borders of nodes too: no two empty ones side by side, where the
whole tree could be read. Slots behind a node's end: NULL, except the last of a leaf, which may hold the metadata.

*Guaranteed by:* `mt_validate_nulls` and `mas_validate_limits` (lib/maple_tree.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.indices.maple_slots import leaf_slots, node_range, null_pairs
from vmaforensics.checks.rule import REINDEXES, Part, Rule, Severity
from vmaforensics.views.indices.maple_nodes import slot_addresses
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="MT-NULL",
    title="empty range in the maple tree that the kernel would not leave",
    severity=Severity.HIGH,
    why="The kernel joins neighbouring empty ranges and uses no slot behind a node's end. A slot emptied by hand "
    "shows as two empty ranges side by side.",
    compares="neighbouring slots of the leaves: no two empty ranges side by side, nothing behind a node's end",
    views=(View.MAPLE,),
    transient="any change of the map, under the mmap write lock",
    by_hand=(hand.NODE,),
    steps=("node", "tree"),
    part=Part.TRACE,
    rank=360,
    changed_by=REINDEXES,
)


def check(context: Context) -> Iterator[Finding]:
    """Entries behind a node's end, and empty ranges side by side."""
    if len(context.views.maple_nodes):
        yield from _behind_end(context)
        yield from _side_by_side(context)


def _behind_end(context: Context) -> Iterator[Finding]:
    """Slots behind the last used one are NULL; a leaf's last slot may hold the metadata instead."""
    nodes = context.views.maple_nodes
    column = np.arange(nodes.slots.shape[1])[None, :]
    metadata = nodes.leaf[:, None] & (column == nodes.capacity[:, None] - 1)
    behind = (column > nodes.end[:, None]) & (column < nodes.capacity[:, None]) & ~metadata
    node, slot = np.nonzero(behind & (nodes.slots != 0))
    where = slot_addresses(nodes, node, slot)

    def evidence(row: int) -> Evidence:
        at = int(node[row])
        return Evidence(
            what=f"slot {int(slot[row])} of node {int(nodes.address[at]):#x} lies behind its end, slot "
            f"{int(nodes.end[at])}, and is in use",
            view=View.MAPLE.label,
            address=int(where[row]),
            found=f"{int(nodes.slots[at, slot[row]]):#x}",
            expected="0",
        )

    yield from context.per_mm(
        RULE,
        nodes.mm[node],
        evidence,
        lambda row: f"maple node {int(nodes.address[node[row]]):#x} holds an entry behind its end",
        lambda row: node_range(nodes, int(node[row])),
    )


def _side_by_side(context: Context) -> Iterator[Finding]:
    """Empty leaf slots next to one another in trees that were read whole (mt_validate_nulls, lib/maple_tree.c)."""
    nodes, slots = context.views.maple_nodes, context.shared(leaf_slots)
    wrong = null_pairs(context)
    wrong = wrong[context.whole(View.MAPLE, nodes.mm[slots.node[wrong]])]
    first, second = slots.take(wrong - 1), slots.take(wrong)
    where = slot_addresses(nodes, second.node, second.slot)

    def evidence(row: int) -> Evidence:
        return Evidence(
            what=f"two empty ranges side by side: {int(first.low[row]):#x}-{int(first.high[row]) + 1:#x} and "
            f"{int(second.low[row]):#x}-{int(second.high[row]) + 1:#x}; the kernel would have joined them",
            view=View.MAPLE.label,
            address=int(where[row]),
        )

    yield from context.per_mm(
        RULE,
        nodes.mm[second.node],
        evidence,
        lambda row: f"two empty ranges side by side in the maple tree at {int(second.low[row]):#x}",
        lambda row: (int(first.low[row]), int(second.high[row]) + 1),
    )
