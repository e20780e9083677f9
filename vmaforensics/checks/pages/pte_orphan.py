"""PTE-ORPHAN: memory mapped by the page tables outside every VMA.

*Compared:* the entries of the user half of every process's page tables with the VMAs of all indices. Only where every
index of that `mm_struct` was read whole.

What munmap takes out of the index it frees only after the entries, and a split or merge stores one of its VMAs in the
index before the other. So a held lock excuses only memory within the bounds that VMAs have themselves: those of the
index (VMA-RANGE says whether they may differ from their place in it), and those that are allocated and in none.

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
from vmaforensics.checks.pages.entry_facts import entry_facts
from vmaforensics.checks.pages.entry_runs import Runs
from vmaforensics.checks.pages.twice_mapped import BELONGED, mapped_around
from vmaforensics.checks.rule import INDICES, LAGS, Part, Rule, Severity
from vmaforensics.columns.lookup import last_rows_of
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.slab.objects import State
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import I64, U64
    from vmaforensics.views.pages.page_tables import PageTablesView

# What leaves entries of a VMA that is in no index any more, or not yet.
_OF_STRAYS = (Operation.UNMAP, Operation.MAP, Operation.MOVE)

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
    changed_by=(*_OF_STRAYS, Operation.ADJUST),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process with entries in no VMA, if its whole map was read: a VMA may be what is lost."""
    view = context.views.page_tables
    if view is None:
        return
    mm = context.views.mms.mm[view.entries.take(view.orphans).mm_row]
    certain = np.ones(len(mm), np.bool_)
    for index in context.views.indices():
        certain &= context.decoded(index, mm)
    rows = view.orphans[certain]
    rightful = _rightful(context, view, rows)
    yield from _findings(context, view, rows[rightful >= 0], rightful[rightful >= 0])
    yield from _findings(context, view, rows[rightful < 0])


def _rightful(context: Context, view: PageTablesView, rows: I64) -> I64:
    """For each of ``rows`` of the entries one of the same frame that proves it wrong, in an image that was taken while
    the machine ran; -1 for none. Data that is mapped and unmapped all the time shares its frames in any order."""
    found = np.full(len(rows), -1, np.int64)
    if context.acquisition.live:
        code = np.flatnonzero((view.entries.take(rows).allow & ALLOW_EXECUTE) != 0)
        found[code] = mapped_around(context, view, rows[code], context.shared(entry_facts).row)
    return found


def _findings(context: Context, view: PageTablesView, rows: I64, rightful: I64 | None = None) -> Iterator[Finding]:
    runs = Runs.of(view, rows)
    others = view.entries.take(rightful).va if rightful is not None else None
    contents = dict(zip(view.orphans.tolist(), view.contents, strict=False))

    def evidence(row: int) -> Evidence:
        kind = "executable" if int(runs.ptes.allow[row]) & ALLOW_EXECUTE else "data"
        held = contents.get(int(runs.entry[row]), "")
        what = f"page tables map {runs.text(row)} as {kind}, in no VMA"
        what += f"; its first page holds {held}" if held else ""
        if others is not None:
            other = int(others[np.searchsorted(rows, runs.entry[row])])
            what += f"; its frame {int(runs.ptes.pfn[row]):#x} belongs at {other:#x}, where it is mapped too"
        return Evidence(
            what=what,
            view=View.PAGE_TABLES.label,
            address=int(runs.ptes.where[row]),
            found=f"{int(runs.ptes.entry[row]):#x}",
        )

    def title(row: int) -> str:
        return f"page tables map {runs.text(row)} outside every VMA of the process"

    mm = runs.mm(context)
    for finding in context.per_mm(RULE, mm, evidence, title, runs.bounds):
        mine = mm == np.uint64(finding.mm)
        changed_by = _changed_by(context, finding.mm, runs.start[mine], runs.end[mine])
        yield replace(finding, changed_by=changed_by, proven="" if rightful is None else BELONGED)


def _changed_by(context: Context, mm: int, starts: U64, ends: U64) -> tuple[Operation, ...] | None:
    """The operations that can have left entries in all of these ranges of an address space; None: those of the rule."""
    strays, vmas = context.views.strays, context.views.vmas
    own = vmas.ok & (vmas.mm == np.uint64(mm))
    low, high = vmas.start[own], vmas.end[own]
    if _within(low, high, starts, ends):
        return None
    if strays is None:
        return _OF_STRAYS
    loose = (strays.vmas.mm == np.uint64(mm)) & (strays.state != State.FREE)
    low, high = np.append(low, strays.vmas.start[loose]), np.append(high, strays.vmas.end[loose])
    return _OF_STRAYS if _within(low, high, starts, ends) else ()


def _within(low: U64, high: U64, starts: U64, ends: U64) -> bool:
    """Do ranges lie within the union of others?"""
    if not len(low):
        return False
    order = np.argsort(low, kind="stable")
    low, high = low[order], np.maximum.accumulate(high[order])
    first = np.concatenate([[True], low[1:] > high[:-1]])  # of each range without a gap
    low, high = low[first], high[np.append(first[1:], True)]
    row = last_rows_of(low, starts)
    return bool(((row >= 0) & (ends <= high[row])).all())
