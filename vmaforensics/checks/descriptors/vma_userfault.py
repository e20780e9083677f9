"""VMA-USERFAULT: another process answers the page faults of a VMA.

*Severity:* info, confidence high; low if nobody was found who has the userfaultfd open.

*Compared:* `vma->vm_userfaultfd_ctx` of every VMA with the open files of all processes, those in flight over unix
sockets included: is one of those that have the context open a process of the same address space?

*Guaranteed by:* nothing: handing a userfaultfd over is what CRIU and live migration do. Who has it sees each first
access to a page of the range, and decides what is read there, even in the kernel's own accesses. Closing the file
unregisters all VMAs (`userfaultfd_release`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import INDICES, SMEAR, Confidence, Rule, Severity
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.descriptors.userfaults import Monitored

RULE = Rule(
    id="VMA-USERFAULT",
    title="another process answers the page faults of a VMA",
    severity=Severity.INFO,
    confidence=Confidence.HIGH,
    why="Whoever has the userfaultfd of a range sees when it is touched first, and decides then what is there: memory "
    "can stay empty until the right reader comes, and an access of the kernel can be held up.",
    benign=("CRIU (lazy-pages) and live migration, which hand the descriptor to a server", SMEAR),
    attack=("T1564",),
    compares="vm_userfaultfd_ctx of VMAs with who has that userfaultfd open",
    views=(View.VMA, View.HANDLES, *INDICES),
    transient="a descriptor in flight from one process to another",
    by_hand=("crash: struct vm_area_struct.vm_userfaultfd_ctx VMA", "crash: files PID"),
    steps=("vma", "descriptors"),
    rank=621,
    changed_by=(),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each address space with such VMAs; apart from these, one where nobody has the userfaultfd."""
    rows = context.views.monitored
    if rows is not None:
        yield from _told(context, rows.take(~rows.own & (rows.pid != 0)), None)
        yield from _told(context, rows.take(~rows.own & (rows.pid == 0)), Severity.LOW)


def _told(context: Context, rows: Monitored, severity: Severity | None) -> Iterator[Finding]:
    def holder(row: int) -> str:
        known = f"descriptor {int(rows.fd[row])} of process {int(rows.pid[row])}"
        return known if rows.pid[row] else "nobody who was found"

    def evidence(row: int) -> Evidence:
        return Evidence(
            what=f"VMA {int(rows.start[row]):#x}-{int(rows.end[row]):#x} is registered with the userfaultfd of "
            f"{holder(row)}",
            view=View.VMA.label,
            address=int(rows.vma[row]),
            found=f"{int(rows.context[row]):#x}",
        )

    def title(row: int) -> str:
        return f"page faults at {int(rows.start[row]):#x}-{int(rows.end[row]):#x} are answered by {holder(row)}"

    def bounds(row: int) -> tuple[int, int]:
        return int(rows.start[row]), int(rows.end[row])

    for finding in context.per_mm(RULE, rows.mm, evidence, title, bounds):
        yield finding if severity is None else replace(finding, severity=severity)
