"""VMA-OWNER: area belongs to another address space.

*Compared:* `vm_mm` of every area with the `mm_struct` whose index led to it, in every index.

*Guaranteed by:* `vm_mm` is set when an area is allocated (`vm_area_alloc`) or copied by `dup_mmap`.
"""

from __future__ import annotations

from vmaforensics.checks.rule import BUG, BUSY, INDICES, SMEAR, Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="VMA-OWNER",
    title="area belongs to another address space",
    severity=Severity.HIGH,
    why="Every area points back to the mm_struct whose index holds it. A foreign area in an index was put there "
    "by hand or by corruption.",
    benign=(SMEAR, BUSY, "a fork that failed half-way (6.8 and later leave the parent's areas behind)", BUG),
    compares="vm_mm of every area with the mm_struct whose index led to it",
    views=(*INDICES, View.VMA),
    transient="dup_mmap of 6.8 and later fills the child's tree with the parent's areas first, under the write lock",
    by_hand=("crash: struct vm_area_struct.vm_mm VMA", 'drgn: Object(prog, "struct vm_area_struct *", VMA).vm_mm'),
    steps=("area", "index", "tree", "list"),
    part=Part.CAUSE,
    rank=40,
)
