"""PTE-KERNEL: user page table leads to the kernel's own memory.

*Compared:* what `struct page` says of each frame that a user entry in a VMA leads to: a slab or page-table page is a
finding, and so is one whose `_refcount` is 0, which the kernel may make into either; what drivers map aside, who may
have taken several pages as one and count the first alone.

*Guaranteed by:* user entries lead to user pages, or to what a driver maps. Each entry holds its page:
`zap_present_ptes` (mm/memory.c) clears it before it gives the page back, and a page that is about to be moved or
written out is frozen at a count of 0 only once it is unmapped (`folio_ref_freeze`, include/linux/page_ref.h).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vmaforensics.checks import hand
from vmaforensics.checks.pages.marked_entries import marked_findings
from vmaforensics.checks.pages.page_marks import Mark
from vmaforensics.checks.rule import Part, Rule, Severity
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

MARKS: Final = (Mark.KERNEL_MEMORY, Mark.FREE_MEMORY)

RULE = Rule(
    id="PTE-KERNEL",
    title="user page table leads to the kernel's own memory",
    severity=Severity.CRITICAL,
    why="A process that has slab objects or page tables in its own address space can change the kernel at will.",
    attack=("T1014", "T1068"),
    compares="what struct page says of each frame that a user entry leads to: slab and page-table "
    "pages are a finding, and pages that nobody holds",
    views=(View.PAGE_TABLES, View.PAGES),
    transient="none",
    by_hand=(hand.VTOP, "crash: kmem PHYSICAL"),
    steps=("memory", "entry", "frame", "vma"),
    part=Part.CAUSE,
    rank=140,
    changed_by=(),
)


def check(context: Context) -> Iterator[Finding]:
    """For each way to disagree, one finding for each process with entries that lead to such pages."""
    yield from marked_findings(context, RULE, MARKS)
