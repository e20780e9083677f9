"""VMA-BOUNDS: impossible bounds of a VMA.

*Compared:* `vm_start` and `vm_end` of every VMA of the index the kernel uses: empty or reversed, not aligned to
pages, or ending above `mm->task_size`.

*Guaranteed by:* `do_mmap` rounds lengths up to pages; `get_unmapped_area` keeps ranges below TASK_SIZE, which
`setup_new_exec` (fs/exec.c) sets for good. `/proc/PID/pagemap` says nothing of what lies above `mm->task_size`
(`pagemap_read`, fs/proc/task_mmu.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import Apart, Rule, Severity
from vmaforensics.checks.vmas.indexed import indexed_vmas
from vmaforensics.columns.lookup import values_at
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding


RULE = Rule(
    id="VMA-BOUNDS",
    title="impossible bounds of a VMA",
    severity=Severity.HIGH,
    why="VMAs are never empty, are aligned to pages and end below the top of user space.",
    compares="vm_start and vm_end of every VMA of the index: not empty, aligned to pages, below mm->task_size",
    views=(View.VMA,),
    transient="none at rest: a VMA that waits to be freed has other data over its bounds, and is in no index",
    by_hand=("crash: struct vm_area_struct.vm_start,vm_end VMA",),
    steps=("vma", "index"),
    rank=500,
    changed_by=(),
    in_flight=(Apart(Operation.EXEC, 1),),
)


def check(context: Context) -> Iterator[Finding]:
    """VMAs of the index the kernel uses that are empty, unaligned, or above the top of user space."""
    indexed = context.shared(indexed_vmas).get(context.index)
    if indexed is None:
        return
    entries, vmas, mms = indexed.entries, context.views.vmas, context.views.mms
    start, end = vmas.start[indexed.vma_row], vmas.end[indexed.vma_row]
    mm_row = context.views.mm_rows(entries.mm)
    empty = start >= end
    unaligned = context.views.arch.page_bases(start | end) != (start | end)
    top = values_at(mms.task_size, mm_row)
    known = bool(mms.task_size.any())  # where its place is lost, it is 0 in all
    outside = values_at(mms.ok, mm_row) & (end > top) & known
    wrong = np.flatnonzero(empty | unaligned | outside)
    entries, vmas = entries.take(wrong), vmas.take(indexed.vma_row[wrong])
    # Exec has the new address space, with its stack, before it knows where that ends (begin_new_exec, setup_new_exec).
    unset = (top[wrong] == 0) & ~(empty | unaligned)[wrong]
    reasons = [
        "it is empty" if empty[row] else "it is not aligned to pages" if unaligned[row] else "it ends above user space"
        for row in wrong.tolist()
    ]

    def evidence(row: int) -> Evidence:
        return Evidence(
            what=f"{int(vmas.start[row]):#x}-{int(vmas.end[row]):#x}: {reasons[row]}",
            view=View.VMA.label,
            address=int(vmas.vma[row]),
        )

    yield from context.per_mm(
        RULE,
        entries.mm,
        evidence,
        lambda row: f"{context.vma_in_words(int(vmas.vma[row]))} cannot be: {reasons[row]}",
        lambda row: (int(vmas.start[row]), int(vmas.end[row])),
        apart=lambda row: int(unset[row]),
    )
