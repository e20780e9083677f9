"""PTE-SPECIAL: entry marked as a raw page frame in a VMA of ordinary memory.

*Compared:* the mark of each entry that maps a single page of RAM (`pte_special`) with the flags of its VMA.

*Guaranteed by:* in a VMA without VM_PFNMAP and VM_MIXEDMAP only the page of zeros is mapped so; `vm_normal_page`
(mm/memory.c) prints "bad page map" of any other. Frames outside of RAM (DAX) are not looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.pages.entry_runs import Runs
from vmaforensics.checks.rule import BUG, SMEAR, Part, Rule, Severity
from vmaforensics.columns.lookup import values_at
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="PTE-SPECIAL",
    title="entry marked as a raw page frame in a VMA of ordinary memory",
    severity=Severity.HIGH,
    why="What such an entry leads to is counted nowhere and found by no reverse map.",
    benign=(SMEAR, BUG),
    compares="pte_special of each entry with VM_PFNMAP and VM_MIXEDMAP of its VMA; the page of zeros aside",
    views=(View.PAGE_TABLES, View.VMA),
    transient="none",
    by_hand=(hand.VTOP, "crash: struct vm_area_struct.vm_flags VMA"),
    steps=("memory", "entry", "frame", "vma"),
    part=Part.CAUSE,
    rank=156,
    changed_by=(),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process with such entries."""
    view, vmas = context.views.page_tables, context.views.vmas
    if view is None or not len(view.raw_ram):
        return
    vma = values_at(view.ranges.vma_row, view.entries.take(view.raw_ram).range_row, -1).astype(np.int64)
    ordinary = (vma >= 0) & values_at(vmas.ok, vma)
    ordinary &= (values_at(vmas.flags, vma) & np.uint64(flags.VM_PFNMAP | flags.VM_MIXEDMAP)) == 0
    runs = Runs.of(view, view.raw_ram[ordinary])

    def title(at: int) -> str:
        return f"{runs.text(at)} is marked as raw page frames, in a VMA of ordinary memory"

    def evidence(at: int) -> Evidence:
        return Evidence(
            what=title(at),
            view=View.PAGE_TABLES.label,
            address=int(runs.ptes.where[at]),
            found=f"{int(runs.ptes.entry[at]):#x}",
        )

    yield from context.per_mm(RULE, runs.mm(context), evidence, title, runs.bounds)
