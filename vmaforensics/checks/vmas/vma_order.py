"""VMA-ORDER: areas overlap or are out of order.

*Compared:* `vm_start` of each area with `vm_end` of the one before it, in each view's own order.

*Guaranteed by:* `validate_mm` and `browse_rb` (mm/mmap.c, up to 6.0); the maple tree's order is that of its pivots, so
that there it follows from VMA-RANGE.
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import INDICES, Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="VMA-ORDER",
    title="areas overlap or are out of order",
    severity=Severity.HIGH,
    why="The kernel keeps areas in ascending order and never lets two overlap; look-ups go wrong otherwise.",
    compares="vm_start of each area with vm_end of the one before it, in each view's own order",
    views=(*INDICES, View.VMA),
    transient="any change of the map, under the mmap write lock",
    by_hand=(hand.VM, hand.VMAS),
    steps=("index", "tree", "list", "area"),
    part=Part.TRACE,
    rank=300,
)
