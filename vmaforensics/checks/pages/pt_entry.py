"""PT-ENTRY: entry that leads to a page table is not as the kernel makes it.

*Compared:* in the user halves, each entry that leads to a page table with what such entries say: they can be written
and are dirty, and no other bit is set. Whether user mode may use them is PTE-PERM's, and the accessed bit comes and
goes where pages age.

*Guaranteed by:* p4d_populate, pud_populate and pmd_populate (arch/x86/include/asm/pgalloc.h) write `_PAGE_TABLE`. The
kernel's own walks hold entries against it (pmd_bad, pud_bad, p4d_bad, pgd_bad): what they call bad they do not enter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.checks import hand
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import Part, Rule, Severity
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="PT-ENTRY",
    title="entry that leads to a page table is not as the kernel makes it",
    severity=Severity.HIGH,
    why="The CPU disregards some bits of such an entry, and the kernel does not: with one of them set, what is mapped "
    "beneath is there for the process, and smaps, ptrace and process_vm_readv pass it over. Others take rights away "
    "from all that is beneath.",
    attack=("T1014", "T1564"),
    compares="each entry of the user half that leads to a page table with the bits that the kernel gives all of them",
    views=(View.PAGE_TABLES,),
    transient="none known",
    by_hand=(f"{hand.VTOP}  # FLAGS of PUD and PMD",),
    steps=("memory", "entry"),
    part=Part.CAUSE,
    rank=195,
    changed_by=(),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process with such entries."""
    view = context.views.page_tables
    if view is None:
        return
    entries = view.unusual
    size = context.views.arch.span(entries.level)

    def bounds(row: int) -> tuple[int, int]:
        return int(entries.va[row]), int(entries.va[row] + size[row])

    def title(row: int) -> str:
        low, high = bounds(row)
        return f"the entry for the page table of {low:#x}-{high:#x} is not as the kernel makes it"

    def evidence(row: int) -> Evidence:
        return Evidence(
            what=f"{title(row)}: no entry of level {int(entries.level[row])} that leads to a table has such bits",
            view=View.PAGE_TABLES.label,
            address=int(entries.where[row]),
            found=f"{int(entries.entry[row]):#x}",
        )

    yield from context.per_mm(RULE, context.views.mms.mm[entries.owner], evidence, title, bounds)
