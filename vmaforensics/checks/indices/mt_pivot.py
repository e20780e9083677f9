"""MT-PIVOT: pivots of a maple tree node are impossible.

Kernels with a maple tree.

*Compared:* the pivots of each node up to its end: rising, inside the range the parent gives it, not reaching the node's
maximum before the last slot, and reaching it there.

*Guaranteed by:* `mas_validate_limits` (lib/maple_tree.c). A pivot of 0 behind the first stands for the node's maximum
(`mas_logical_pivot`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.indices.maple_slots import Wording, node_findings
from vmaforensics.checks.rule import REINDEXES, Part, Rule, Severity
from vmaforensics.views.indices.maple_nodes import lower_bounds, used_slots
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

_WORDING = Wording(
    "the pivots of node {node} do not rise to the end of its range", "pivots of maple node {node} do not fit its range"
)

RULE = Rule(
    id="MT-PIVOT",
    title="pivots of a maple tree node are impossible",
    severity=Severity.HIGH,
    why="Pivots rise from slot to slot within the node's own range and end with it. A moved or cut pivot hides or "
    "resizes what its slot holds.",
    compares="the pivots of each node up to its end: rising, inside the node's range, ending with it and not before",
    views=(View.MAPLE,),
    transient="a slot store writes a slot and then its pivot, under the write lock",
    by_hand=(hand.NODE,),
    steps=("node", "tree"),
    part=Part.TRACE,
    rank=350,
    changed_by=REINDEXES,
)


def check(context: Context) -> Iterator[Finding]:
    """Nodes whose pivots do not rise within their range to its very end."""
    nodes = context.views.maple_nodes
    if not len(nodes):
        return
    column, rows = np.arange(nodes.pivots.shape[1])[None, :], np.arange(len(nodes))
    high = nodes.high[:, None]
    outside = used_slots(nodes) & ((nodes.pivots < lower_bounds(nodes)) | (nodes.pivots > high))
    # A slot before the last that already reaches the node's end leaves nothing for those behind it.
    early = (column < nodes.end[:, None]) & (nodes.pivots >= high)
    short = nodes.pivots[rows, nodes.end] != nodes.high
    wrong = np.flatnonzero(outside.any(axis=1) | early.any(axis=1) | short)
    first = np.where(outside | early, column, nodes.end[:, None]).min(axis=1)
    yield from node_findings(context, RULE, wrong, _WORDING, nodes.pivots[rows, first], nodes.high)
