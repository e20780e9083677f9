"""MT-NULL: empty range in the maple tree that the kernel would not leave.

Kernels with a maple tree.

*Compared:* neighbouring slots of the leaves, across borders of nodes too: no two empty ones side by side, where the
whole tree could be read. Slots behind a node's end: NULL, except the last of a leaf, which may hold the metadata.

*Guaranteed by:* `mt_validate_nulls` and `mas_validate_limits` (lib/maple_tree.c).
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import Part, Rule, Severity
from vmaforensics.views.view import View

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
)
