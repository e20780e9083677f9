"""VMA-RANGE: index range and bounds of an area differ.

Kernels with a maple tree.

*Compared:* the index range of the leaf slot with `[vm_start, vm_end)` of the area in it. Not for an area that belongs
to another address space (VMA-OWNER).

*Guaranteed by:* areas are stored over the range `[vm_start, vm_end - 1]`; `validate_mm` (mm/mmap.c, later mm/vma.c)
checks it in debug kernels.
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="VMA-RANGE",
    title="index range and bounds of an area differ",
    severity=Severity.HIGH,
    why="A page fault finds an area by its index range, /proc and most tools print vm_start and vm_end. Memory "
    "between the two bounds is usable and not shown, or shown and not usable.",
    compares="the index range of each leaf slot with vm_start and vm_end of the area in it",
    views=(View.MAPLE, View.VMA),
    transient="split, merge, expand_downwards and the moving of the stack by exec change one before the other, under "
    "the write lock",
    by_hand=(
        hand.MAPLE,
        "drgn: for first, last, entry in mt_for_each(mm.mm_mt.address_of_()): print(hex(first), hex(last), entry)",
    ),
    steps=("area", "tree", "index"),
    part=Part.CAUSE,
    rank=30,
)
