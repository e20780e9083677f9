"""MT-GAP: gap recorded in the maple tree is not the gap there is.

Kernels with a maple tree.

*Compared:* `gap[i]` of each `arange_64` node with the largest empty range below slot *i*: recomputed for a leaf, the
largest recorded one for an inner node. `meta.gap` with the slot of the largest gap (6.1 writes 15 where there is no gap
at all). A tree of height 1 records no gaps.

*Guaranteed by:* `mas_update_gap`, `mas_leaf_max_gap` (later `ma_leaf_max_gap`); checked by `mas_validate_gaps`
(lib/maple_tree.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.indices.maple_slots import Wording, node_findings, node_gaps
from vmaforensics.checks.rule import REINDEXES, Part, Rule, Severity
from vmaforensics.views.indices.maple_nodes import used_slots
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

_RECORDED = Wording(
    "the largest empty range below node {node} is not what its parent records",
    "the gap recorded for maple node {node} is not the gap there is",
)
_NAMED = Wording(
    "the slot that node {node} names as that of its largest gap has a smaller one",
    "maple node {node} names the wrong slot as that of its largest gap",
)

RULE = Rule(
    id="MT-GAP",
    title="gap recorded in the maple tree is not the gap there is",
    severity=Severity.HIGH,
    why="Inner nodes record the largest empty range below them. Emptying a slot by hand leaves that record as it was.",
    compares="gap[i] of each inner node with the largest empty range below slot i, and meta.gap with the slot of the "
    "largest",
    views=(View.MAPLE,),
    transient="gaps are written last, under the write lock",
    by_hand=(hand.NODE,),
    steps=("node", "tree"),
    part=Part.TRACE,
    rank=370,
    changed_by=REINDEXES,
)


def check(context: Context) -> Iterator[Finding]:
    """Nodes whose parent records another gap than there is, and nodes that name the wrong slot as the largest."""
    nodes = context.views.maple_nodes
    if not len(nodes):
        return
    gaps = context.shared(node_gaps)
    wrong = gaps.wrong[context.whole(View.MAPLE, nodes.mm[gaps.wrong])]
    yield from node_findings(context, RULE, wrong, _RECORDED, gaps.recorded, gaps.real)
    largest = np.where(used_slots(nodes), nodes.gaps, np.uint64(0)).max(axis=1, initial=0)
    named = np.minimum(nodes.gap_slot, nodes.gaps.shape[1] - 1)
    at_named = nodes.gaps[np.arange(len(nodes)), named]
    # 6.1 writes MAPLE_ARANGE64_META_MAX, one past every slot, for "no gap at all".
    no_gap = (nodes.gap_slot >= nodes.capacity) & (largest == 0)
    wrong = np.flatnonzero(nodes.gapped & ~no_gap & (at_named != largest))
    yield from node_findings(context, RULE, wrong, _NAMED, at_named, largest)
