"""MM-PGTABLES: pgtables_bytes disagrees with the page tables.

*Compared:* `pgtables_bytes` with 4096 bytes for each PTE, PMD and PUD table, and for each table kept in store for an
anonymous huge page. Processes with a local descriptor table are left out: its tables lie in the kernel half and are
counted.

*Guaranteed by:* `mm_inc_nr_ptes`, `mm_inc_nr_pmds`, `mm_inc_nr_puds` (include/linux/mm.h).
"""

from __future__ import annotations

from vmaforensics.checks.rule import LAGS, Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="MM-PGTABLES",
    title="pgtables_bytes disagrees with the page tables",
    severity=Severity.MEDIUM,
    why="Every page-table page is counted. Tables that are hung in by hand are not, and hidden ones still are.",
    compares="pgtables_bytes with 4096 for each PTE, PMD and PUD table, and each kept in store for a huge page",
    views=(View.COUNTERS, View.PAGE_TABLES),
    transient="while tables are allocated or freed",
    by_hand=("crash: struct mm_struct.pgtables_bytes MM",),
    steps=("tables",),
    part=Part.TRACE,
    rank=410,
    excused_by=LAGS,
)
