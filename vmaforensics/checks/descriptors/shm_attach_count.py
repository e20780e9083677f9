"""SHM-ATTACH-COUNT: System V segment is attached more or less often than areas show.

*Severity:* high; medium where there are more areas than counted; low where some process was exiting or some mmap lock
was write-held.

*Compared:* `shm_nattch` of each segment with the number of areas that map it, over all processes. Fewer areas are told
only where every process and area could be read. If the segment's `i_mmap` leads to an area that no index has, that area
and its process are named; else the process that attached last.

*Guaranteed by:* `shm_open` and `shm_close` (ipc/shm.c).
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import BUSY, INDICES, SMEAR, Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="SHM-ATTACH-COUNT",
    title="System V segment is attached more or less often than areas show",
    severity=Severity.HIGH,
    why="shm_nattch counts the areas that map a segment, in all processes together. If areas are missing they "
    "have been hidden.",
    benign=(SMEAR, BUSY, "a process that attaches or exits at that moment", "a memory map that outlives its process"),
    compares="shm_nattch of each System V segment with the number of areas that map it, over all processes",
    views=(View.HANDLES, *INDICES),
    transient="the count changes before or after the area does; lowered where a process was exiting or a map "
    "write-held",
    by_hand=("crash: ipcs -m", hand.VM),
    steps=("segments", "word", "area"),
    part=Part.CAUSE,
    rank=220,
)
