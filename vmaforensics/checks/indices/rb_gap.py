"""RB-GAP: gap recorded in the red-black tree is not the gap there is.

Kernels up to 6.0.

*Compared:* `rb_subtree_gap` of each area with the largest gap before an area of its subtree, recomputed: from the end
of the area before to its start, less `stack_guard_gap` where it grows down. Only where the whole tree could be read.

*Guaranteed by:* `vma_compute_gap` and the augmented callbacks (mm/mmap.c); `validate_mm_rb` checks it.
"""

from __future__ import annotations

from vmaforensics.checks.rule import LAGS, Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="RB-GAP",
    title="gap recorded in the red-black tree is not the gap there is",
    severity=Severity.HIGH,
    why="Each node records the largest free gap below it. Cutting an area out by hand leaves that record as it was.",
    compares="rb_subtree_gap of each area with the largest gap before an area of its subtree, recomputed",
    views=(View.RBTREE, View.VMA),
    transient="expand_downwards of 5.10, under the read lock and page_table_lock",
    by_hand=("crash: struct vm_area_struct.rb_subtree_gap,vm_start,vm_prev VMA",),
    steps=("area", "rbtree"),
    part=Part.TRACE,
    rank=330,
    excused_by=LAGS,
)
