"""Findings of the page-table entries that disagree with their VMA in the same way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.held import HELD, UNTOUCHED, held, untouched
from vmaforensics.checks.pages.alone_in_table import WHOLE, alone_in_table
from vmaforensics.checks.pages.entry_facts import entry_facts
from vmaforensics.checks.pages.entry_runs import Runs
from vmaforensics.checks.pages.page_marks import Mark
from vmaforensics.checks.pages.twice_mapped import BELONGED, mapped_around, twice_mapped
from vmaforensics.columns.lookup import values_at
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.checks.rule import Rule
    from vmaforensics.columns.types import I64, Bools
    from vmaforensics.views.pages.page_tables import PageTablesView

_OF_VMA: Final = (Mark.EXECUTABLE, Mark.NOT_EXECUTABLE, Mark.WRITABLE, Mark.NOT_USER)  # what a VMA alone allows


def marked_findings(context: Context, rule: Rule, marks: tuple[Mark, ...]) -> Iterator[Finding]:
    """For each of ``marks`` in turn one finding for every process with such entries.

    In an image that was taken while the machine ran, those that another entry proves wrong are told apart, of the same
    table or by the order of reading. So are those whose VMA nobody was changing, and those that only a VMA of their own
    would have.
    """
    view = context.views.page_tables
    if view is None:
        return
    marked = context.shared(entry_facts)
    for mark in marks:
        rows = marked.row[(marked.word & np.uint32(mark)) != 0]
        if mark is Mark.OTHER_ANON_VMA and context.acquisition.live:
            rightful = twice_mapped(context, view, rows, marked.row)
            for finding in _of_entries(context, rule, mark, view, rows[rightful >= 0], rightful[rightful >= 0]):
                yield replace(finding, at_once=True)
            rows = rows[rightful < 0]
            rightful = _belonged(context, view, rows, marked.row)
            for finding in _of_entries(context, rule, mark, view, rows[rightful >= 0], rightful[rightful >= 0]):
                yield replace(finding, proven=BELONGED)
            rows = rows[rightful < 0]
        elif mark in _OF_VMA:
            same = _same(context, view, rows)
            for finding in _of_entries(context, rule, mark, view, rows[same]):
                yield replace(finding, proven=HELD if context.acquisition.live else UNTOUCHED)
            rows = rows[~same]
            alone = alone_in_table(context, view, rows)
            for finding in _of_entries(context, rule, mark, view, rows[alone]):
                yield replace(finding, proven=WHOLE)
            rows = rows[~alone]
        yield from _of_entries(context, rule, mark, view, rows)


def _same(context: Context, view: PageTablesView, rows: I64) -> Bools:
    """Was the VMA of each of ``rows`` of the entries the same when the entry was read, and is it not being changed?"""
    known, vmas = context.shared(held), context.views.vmas
    ptes = view.entries.take(rows)
    vma = values_at(view.ranges.vma_row, ptes.range_row, -1).astype(np.int64)
    inside = (values_at(vmas.start, vma) <= ptes.va) & (ptes.va < values_at(vmas.end, vma))
    if known is None:
        return inside & values_at(untouched(context, vmas), vma)
    return inside & known.through(values_at(vmas.vma, vma), ptes.where)


def _belonged(context: Context, view: PageTablesView, rows: I64, marked: I64) -> I64:
    """As :func:`mapped_around`, of entries where a file is mapped that nobody has written to: data shares its frames in
    any order, but no anonymous page comes there."""
    found = np.full(len(rows), -1, np.int64)
    vmas = context.views.vmas
    vma = values_at(view.ranges.vma_row, view.entries.take(rows).range_row, -1).astype(np.int64)
    unwritten = (vma >= 0) & values_at(vmas.ok & (vmas.file != 0) & (vmas.anon_vma == 0), vma)
    found[unwritten] = mapped_around(context, view, rows[unwritten], marked)
    return found


def _of_entries(
    context: Context, rule: Rule, mark: Mark, view: PageTablesView, rows: I64, rightful: I64 | None = None
) -> Iterator[Finding]:
    """Findings of the entries ``rows``; ``rightful`` are those beside them that map the same frames."""
    runs = Runs.of(view, rows)
    others = view.entries.take(rightful).va if rightful is not None else None

    def title(row: int) -> str:
        return f"{runs.text(row)} {mark.sentence}"

    def evidence(row: int) -> Evidence:
        what = title(row)
        if others is not None:
            other = int(others[np.searchsorted(rows, runs.entry[row])])
            what += f"; frame {int(runs.ptes.pfn[row]):#x} belongs at {other:#x}, where it is mapped too"
        return Evidence(
            what=what,
            view=View.PAGE_TABLES.label,
            address=int(runs.ptes.where[row]),
            found=f"{int(runs.ptes.entry[row]):#x}",
        )

    yield from context.per_mm(rule, runs.mm(context), evidence, title, runs.bounds)
