"""MT-PIVOT: pivots of a maple tree node are impossible.

Kernels with a maple tree.

*Compared:* the pivots of each node up to its end: rising, inside the range the parent gives it, not reaching the node's
maximum before the last slot, and reaching it there.

*Guaranteed by:* `mas_validate_limits` (lib/maple_tree.c). A pivot of 0 behind the first stands for the node's maximum
(`mas_logical_pivot`).
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import Part, Rule, Severity
from vmaforensics.views.view import View

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
)
