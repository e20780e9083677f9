"""PTE-PERM: page table and VMA allow different things.

*Compared:* execute, write and user rights of each present entry, over all levels, with VM_EXEC and VM_WRITE of its
VMA. More rights than the VMA has; also an executable VMA whose entry cannot be executed. An entry that cannot be
written in a writable VMA is copy-on-write and is no finding.

*Guaranteed by:* entries are made from `vm_page_prot`; `mprotect` changes both (mm/mprotect.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vmaforensics.checks import hand
from vmaforensics.checks.pages.marked_entries import marked_findings
from vmaforensics.checks.pages.page_marks import Mark
from vmaforensics.checks.rule import Part, Rule, Severity
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

MARKS: Final = (Mark.EXECUTABLE, Mark.NOT_EXECUTABLE, Mark.WRITABLE, Mark.NOT_USER)

RULE = Rule(
    id="PTE-PERM",
    title="page table and VMA allow different things",
    severity=Severity.HIGH,
    why="The CPU obeys the page table; people read vm_flags. Entries that allow more than their VMA were changed "
    "by hand, and so was a VMA that looks harmless and whose pages can be executed.",
    attack=("T1014", "T1055"),
    compares="execute, write and user rights of each present entry, over all levels, with VM_EXEC and VM_WRITE",
    views=(View.PAGE_TABLES, View.VMA),
    transient="mprotect, under the write lock",
    by_hand=(hand.VTOP, "crash: struct vm_area_struct.vm_flags,vm_page_prot VMA"),
    steps=("memory", "entry", "frame", "vma"),
    part=Part.CAUSE,
    rank=170,
    changed_by=(Operation.PROTECT, Operation.ADJUST, Operation.MAP),
)


def check(context: Context) -> Iterator[Finding]:
    """For each way to disagree, one finding for each process with entries that allow other than their VMA."""
    yield from marked_findings(context, RULE, MARKS)
