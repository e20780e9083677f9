"""VMA-SLAB-STATE: area in the memory map was never allocated, or has been freed.

*Compared:* the areas of all indices with the slab cache: does each lie in it, on an object that is allocated?

*Guaranteed by:* `vm_area_alloc` and `vm_area_dup` (kernel/fork.c, later mm/vma_init.c).
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import INDICES, Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="VMA-SLAB-STATE",
    title="area in the memory map was never allocated, or has been freed",
    severity=Severity.HIGH,
    why="The kernel takes every vm_area_struct from one slab cache. One that lies elsewhere was made by hand; one "
    "that is free there shows what the area has been, not what it is.",
    compares="every area of the index with the slab cache of such structures: it lies there and is allocated",
    views=(View.SLAB, *INDICES),
    transient="exit frees the areas while the tree still leads to them; such an mm_struct has no users",
    by_hand=(hand.SLAB,),
    steps=("slab", "area", "word", "index"),
    part=Part.CAUSE,
    rank=70,
)
