"""PT-ISOLATION: copies of the page tables disagree.

Kernels that run with page-table isolation.

*Compared:* the user halves of the two top-level tables of an `mm_struct`. What is in the user's copy alone is walked
like the rest, so that PTE-ORPHAN tells its pages.

*Guaranteed by:* `__pti_set_user_pgtbl` (arch/x86/mm/pti.c) writes both; NX is forced on in the kernel's copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import Part, Rule, Severity
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

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


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process whose two top-level tables differ."""
    view = context.views.page_tables
    if view is None:
        return
    rows = view.isolated

    def evidence(row: int) -> Evidence:
        user, own = f"{int(rows.user[row]):#x}", f"{int(rows.entry[row]):#x}"
        return Evidence(
            what=f"the top-level entry for {int(rows.va[row]):#x} is {user} in the user's copy and {own} in the "
            "kernel's",
            view=View.PAGE_TABLES.label,
            address=int(rows.where[row]),
            found=user,
            expected=own,
        )

    def title(row: int) -> str:
        return f"the two copies of the page tables (page-table isolation) disagree at {int(rows.va[row]):#x}"

    def bounds(row: int) -> tuple[int, int]:
        return int(rows.va[row]), int(rows.va[row]) + view.isolated_span

    yield from context.per_mm(RULE, context.views.mms.mm[rows.owner], evidence, title, bounds)
