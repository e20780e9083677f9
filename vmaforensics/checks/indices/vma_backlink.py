"""VMA-BACKLINK: backward link of the list disagrees.

Kernels up to 6.0.

*Compared:* `vm_prev` of each area with the element before it in the list; `mm->highest_vm_end` with the end of the last
area.

*Guaranteed by:* `__vma_link_list` and `__vma_unlink_list` (mm/util.c); `validate_mm` checks `highest_vm_end`
(`vm_end_gap` of the last area; on x86 no area grows up).
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="VMA-BACKLINK",
    title="backward link of the list disagrees",
    severity=Severity.HIGH,
    why="vm_prev leads back along the list. Unlinking an area by hand has to mend it, and often is not complete.",
    compares="vm_prev of each area with the element before it in the list; mm->highest_vm_end with the end of the last "
    "area (kernels up to 6.0)",
    views=(View.LIST, View.VMA),
    transient="any change of the map, under the mmap write lock",
    by_hand=(hand.LIST,),
    steps=("area", "list"),
    part=Part.TRACE,
    rank=310,
)
