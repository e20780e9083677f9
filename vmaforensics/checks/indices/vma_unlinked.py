"""VMA-UNLINKED: area in one index of the memory map and not in another.

Kernels up to 6.0.

*Compared:* every (mm, VMA) of the `vm_next` list with those of the red-black tree, both ways.

*Guaranteed by:* `__vma_link` (mm/mmap.c) puts an area into both; `validate_mm` checks that the list and the tree have
`map_count` areas each.
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="VMA-UNLINKED",
    title="area in one index of the memory map and not in another",
    severity=Severity.HIGH,
    why="The kernel adds an area to the list and to the tree under one lock. Tools that read only one of them do "
    "not see this area.",
    compares="every area of the vm_next list with those of the red-black tree, both ways (kernels up to 6.0)",
    views=(View.LIST, View.RBTREE),
    transient="fork has an area in the list before it is in the tree, under the write lock",
    by_hand=(hand.LIST, hand.RBTREE),
    steps=("area", "index", "list", "rbtree"),
    part=Part.CAUSE,
    rank=10,
    hides=True,
    explains_counts=True,
)
