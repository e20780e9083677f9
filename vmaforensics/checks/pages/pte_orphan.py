"""PTE-ORPHAN: memory mapped by the page tables outside every area.

*Compared:* the entries of the user half of every process's page tables with the areas of all indices. Only where every
index of that `mm_struct` was read whole.

*Guaranteed by:* `free_pgtables` and `zap_pte_range` (mm/memory.c): entries go when their area goes. Empty page-table
pages may stay; leaf entries may not.
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import INDICES, LAGS, Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="PTE-ORPHAN",
    title="memory mapped by the page tables outside every area",
    severity=Severity.HIGH,
    why="The CPU goes by the page tables alone. Memory mapped there without an area is usable and is shown by no "
    "tool that lists areas; the kernel never leaves such entries behind.",
    attack=("T1014", "T1564", "T1055"),
    compares="the entries of the user half of every process's page tables with the areas of all indices",
    views=(View.PAGE_TABLES, *INDICES),
    transient="munmap has emptied the index before the entries are cleared, under the write lock, then the read lock; "
    "a driver's mmap may fill entries before its area is inserted",
    by_hand=(hand.VTOP, hand.VM),
    steps=("index", "memory", "entry", "frame", "area"),
    part=Part.CAUSE,
    rank=130,
    hides=True,
    excused_by=LAGS,
)
