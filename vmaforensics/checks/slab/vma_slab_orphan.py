"""VMA-SLAB-ORPHAN: area is alive and in no index of the memory map.

*Compared:* the allocated objects of the slab cache of `vm_area_struct` with the areas of all indices.

*Guaranteed by:* an area is marked detached (`detached` in 6.4 to 6.14, `vm_refcnt` from 6.15 on) and freed by the same
code that takes it out of the index.
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import INDICES, LAGS, Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="VMA-SLAB-ORPHAN",
    title="area is alive and in no index of the memory map",
    severity=Severity.HIGH,
    why="The kernel takes an area out of the index and marks and frees its vm_area_struct under one lock. One "
    "that is allocated, unmarked and in no index was cut out by hand; its pages stay mapped and usable.",
    compares="allocated vm_area_structs whose own marks say that they are attached (vm_refcnt, detached) and whose "
    "vm_mm is that of a process, with the areas of its indices",
    views=(View.SLAB, *INDICES),
    transient="munmap up to 6.3 frees an area after it left the index, under the write lock, then the read lock; later "
    "kernels mark it first. fork, mmap and splits allocate one before they insert it",
    by_hand=(
        "crash: kmem -S vm_area_struct",
        'drgn: slab_cache_for_each_allocated_object(cache, "struct vm_area_struct")',
        hand.VM,
    ),
    steps=("slab", "area", "index", "tree", "list"),
    part=Part.CAUSE,
    rank=60,
    hides=True,
    excused_by=LAGS,
)
