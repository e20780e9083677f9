"""RB-SHAPE: red-black tree violates its own rules.

Kernels up to 6.0.

*Compared:* `__rb_parent_color` of each node with the node that led to it; where the whole tree and its areas could be
read, also colours: no red child of a red node, a black root, the same number of black nodes on every way down.

*Guaranteed by:* lib/rbtree.c; `browse_rb` (mm/mmap.c) checks order.
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="RB-SHAPE",
    title="red-black tree violates its own rules",
    severity=Severity.HIGH,
    why="Parent pointers, order and colours follow from each other; only a write that bypassed the kernel's tree "
    "code breaks them.",
    compares="__rb_parent_color of each node with the node that led to it, and the colours with each other: no red "
    "child of a red node, a black root, as many black nodes on every way down",
    views=(View.RBTREE,),
    transient="rebalancing, under the mmap write lock",
    by_hand=(
        hand.RBTREE,
        'drgn: validate_rbtree("struct vm_area_struct", mm.mm_rb.address_of_(), "vm_rb", cmp, allow_equal=False)',
    ),
    steps=("area", "rbtree"),
    part=Part.TRACE,
    rank=320,
)
