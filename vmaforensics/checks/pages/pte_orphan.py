"""PTE-ORPHAN: memory mapped by the page tables outside every VMA.

*Compared:* the entries of the user half of every process's page tables with the VMAs of all indices. Only where every
index of that `mm_struct` was read whole.

A split or merge stores one of its VMAs in the index before the other: for that, only memory counts that is within the
bounds which a VMA has itself (VMA-RANGE says whether those may differ from its place in the index).

*Guaranteed by:* `free_pgtables` and `zap_pte_range` (mm/memory.c): entries go when their VMA goes. Empty page-table
pages may stay; leaf entries may not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import ALLOW_EXECUTE
from vmaforensics.checks import hand
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.pages.entry_runs import Runs
from vmaforensics.checks.rule import INDICES, LAGS, Part, Rule, Severity
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import Bools

RULE = Rule(
    id="PTE-ORPHAN",
    title="memory mapped by the page tables outside every VMA",
    severity=Severity.HIGH,
    why="The CPU follows the page tables alone. Memory mapped there without a VMA is usable and is shown by no "
    "tool that lists VMAs; the kernel never leaves such entries behind.",
    attack=("T1014", "T1564", "T1055"),
    compares="the entries of the user half of every process's page tables with the VMAs of all indices",
    views=(View.PAGE_TABLES, *INDICES),
    transient="munmap has emptied the index before the entries are cleared, under the write lock, then the read lock; "
    "a driver's mmap may fill entries before its VMA is inserted; a split stores one part of a VMA before the other",
    by_hand=(hand.VTOP, hand.VM),
    steps=("index", "memory", "entry", "frame", "vma"),
    part=Part.CAUSE,
    rank=130,
    hides=True,
    excused_by=LAGS,
    changed_by=(Operation.UNMAP, Operation.MAP, Operation.MOVE, Operation.ADJUST),
)

_NOT_ADJUSTED = tuple(operation for operation in RULE.changed_by if operation is not Operation.ADJUST)
_MOST = 64  # runs that are looked at one by one: a split leaves few


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process with entries in no VMA, if its whole map was read: a VMA may be what is lost."""
    view = context.views.page_tables
    if view is None:
        return
    ptes = view.ptes
    mm = context.views.mms.mm[ptes.mm_row[view.orphans]]
    certain = np.ones(len(mm), np.bool_)
    for index in context.views.indices():
        certain &= context.decoded(index, mm)
    runs = Runs.of(view, view.orphans[certain])
    contents = dict(zip(view.orphans.tolist(), view.contents, strict=False))

    def evidence(row: int) -> Evidence:
        first = runs.first(row)
        kind = "executable" if int(ptes.allow[first]) & ALLOW_EXECUTE else "data"
        held = contents.get(first, "")
        return Evidence(
            what=f"page tables map {runs.text(row)} as {kind}, in no VMA"
            + (f"; its first page holds {held}" if held else ""),
            view=View.PAGE_TABLES.label,
            address=int(ptes.where[first]),
            found=f"{int(ptes.entry[first]):#x}",
        )

    def title(row: int) -> str:
        return f"page tables map {runs.text(row)} outside every VMA of the process"

    within = _within_vmas(context, runs)
    for finding in context.per_mm(RULE, runs.mm(context), evidence, title, runs.bounds):
        being_adjusted = within[runs.mm(context) == np.uint64(finding.mm)].all()
        yield finding if being_adjusted else replace(finding, changed_by=_NOT_ADJUSTED)


def _within_vmas(context: Context, runs: Runs) -> Bools:
    """Does each run lie within the bounds that some VMA of its address space itself has?"""
    vmas, mm, within = context.views.vmas, runs.mm(context), np.zeros(len(runs.entry), np.bool_)
    for row in range(min(len(within), _MOST)):
        here = vmas.ok & (vmas.mm == mm[row]) & (vmas.start <= runs.start[row]) & (runs.end[row] <= vmas.end)
        within[row] = here.any()
    return within
