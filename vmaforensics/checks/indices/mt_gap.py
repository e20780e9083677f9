"""MT-GAP: gap recorded in the maple tree is not the gap there is.

Kernels with a maple tree.

*Compared:* `gap[i]` of each `arange_64` node with the largest empty range below slot *i*: recomputed for a leaf, the
largest recorded one for an inner node. `meta.gap` with the slot of the largest gap (6.1 writes 15 where there is no gap
at all). A tree of height 1 records no gaps.

*Guaranteed by:* `mas_update_gap`, `mas_leaf_max_gap` (later `ma_leaf_max_gap`); checked by `mas_validate_gaps`
(lib/maple_tree.c).
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import Part, Rule, Severity
from vmaforensics.views.view import View

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
)
