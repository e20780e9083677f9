"""VMA-MISSING: area has been taken out of the memory map.

*Severity:* high, confidence medium where the size of the place found is not just what the counters lack, or where the
counters agree.

*Compared:* `map_count`, `total_vm`, `exec_vm`, `stack_vm` and `data_vm` with the areas of all indices together, where
all of them could be read. Fewer areas, or as many areas with fewer pages, and no fewer pages counted than there are.
Address spaces with an area under another index range than its own are left to VMA-RANGE and MM-COUNTER. The place is
looked for among the empty ranges of just that size (`checks/indices/holes.py`): first one that the maple tree's own
records do not allow, then one between two areas of one file whose offsets leave that room. With agreeing counters, a
single empty slot below 1 TiB that makes the recorded gap of its leaf wrong is told as *counters repaired*.

*Guaranteed by:* `vm_stat_account` and the changes of `map_count` beside each insertion and removal (mm/mmap.c;
mm/vma.c).
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import INDICES, LAGS, Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="VMA-MISSING",
    title="area has been taken out of the memory map",
    severity=Severity.HIGH,
    why="The index of the memory map holds fewer areas or pages than the kernel counted in. The area's pages stay "
    "mapped and usable, while /proc/PID/maps and every tool that walks the index leave it out.",
    compares="map_count, total_vm, exec_vm, stack_vm and data_vm with the areas of all indices together: fewer areas "
    "or pages than counted. The place is looked for among the empty ranges of just that size",
    views=(View.COUNTERS, *INDICES, View.VMA),
    transient="munmap has emptied the index before total_vm follows: under the write lock, then the read lock. "
    "expand_downwards raises total_vm first, in 5.10 under the read lock",
    by_hand=(hand.COUNTERS, hand.VM, hand.VMAS),
    steps=("counters", "index", "tree", "list", "area", "memory"),
    part=Part.CAUSE,
    rank=20,
    hides=True,
    count=True,
    excused_by=LAGS,
)
