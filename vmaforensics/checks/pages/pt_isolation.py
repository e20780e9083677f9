"""PT-ISOLATION: copies of the page tables disagree.

Kernels that run with page-table isolation.

*Compared:* the user halves of the two top-level tables of an `mm_struct`. What hangs in the user's copy alone is walked
like the rest, so that PTE-ORPHAN tells its pages.

*Guaranteed by:* `__pti_set_user_pgtbl` (arch/x86/mm/pti.c) writes both; NX is forced on in the kernel's copy.
"""

from __future__ import annotations

from vmaforensics.checks.rule import Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="PT-ISOLATION",
    title="copies of the page tables disagree",
    severity=Severity.HIGH,
    why="With page-table isolation a process has two top-level tables, and their user halves are equal.",
    compares="the user halves of the two top-level page tables of a process, NX aside",
    views=(View.PAGE_TABLES,),
    transient="between the two writes",
    by_hand=("crash: rd -64 <mm->pgd> 256", "crash: rd -64 <mm->pgd + 4096> 256"),
    steps=("tables", "word"),
    part=Part.CAUSE,
    rank=200,
)
