"""VMA-SURPLUS: area in the memory map that the kernel never counted in.

*Compared:* as VMA-MISSING, the other way: more areas, or as many areas with more pages, than the counters say.

*Guaranteed by:* as VMA-MISSING.
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import INDICES, Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="VMA-SURPLUS",
    title="area in the memory map that the kernel never counted in",
    severity=Severity.HIGH,
    why="The index holds more areas or pages than the kernel's counters. An area that was put in by hand, or one "
    "that was made larger, looks like this.",
    compares="as VMA-MISSING, the other way: more areas or pages than the counters say",
    views=(View.COUNTERS, *INDICES, View.VMA),
    transient="an insertion, before map_count or total_vm follows, under the write lock",
    by_hand=(hand.COUNTERS, hand.VM, hand.VMAS),
    steps=("counters", "index", "tree", "list", "area"),
    part=Part.CAUSE,
    rank=50,
    count=True,
)
