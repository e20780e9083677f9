"""VMA-BOUNDS: impossible bounds of an area.

*Compared:* `vm_start` and `vm_end` of every area of the index the kernel goes by: empty or upside down, not aligned to
pages, or ending above `mm->task_size`.

*Guaranteed by:* `do_mmap` rounds lengths up to pages; `get_unmapped_area` keeps ranges below TASK_SIZE.
"""

from __future__ import annotations

from vmaforensics.checks.rule import Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="VMA-BOUNDS",
    title="impossible bounds of an area",
    severity=Severity.HIGH,
    why="Areas are never empty, are aligned to pages and end below the top of user space.",
    compares="vm_start and vm_end of every area of the index: not empty, aligned to pages, below mm->task_size",
    views=(View.VMA,),
    transient="none at rest: an area that waits to be freed has other data over its bounds, and is in no index",
    by_hand=("crash: struct vm_area_struct.vm_start,vm_end VMA",),
    steps=("area", "index"),
    rank=500,
)
