"""The page-table entries that disagree with their VMA, and findings of those that disagree in the same way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.pages.entry_runs import Runs
from vmaforensics.checks.pages.page_marks import Mark, entry_marks
from vmaforensics.checks.pages.twice_mapped import twice_mapped
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.checks.rule import Rule
    from vmaforensics.columns.types import I64, U32
    from vmaforensics.views.pages.page_tables import PageTablesView

_BATCH: Final = 1 << 19  # entries whose marks are worked out at once


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedEntries:
    """The entries with a mark, in ascending order: parallel arrays."""

    row: I64  # of ptes
    word: U32  # bits of Mark


def marked_entries(context: Context) -> MarkedEntries:
    """Every entry of every process that has a mark. Ask for it by ``context.shared``: all entries are looked at."""
    view = context.views.page_tables
    count = len(view.ptes) if view is not None else 0
    rows, words = [np.zeros(0, np.int64)], [np.zeros(0, np.uint32)]
    for low in range(0, count, _BATCH):
        batch = np.arange(low, min(low + _BATCH, count))
        word = entry_marks(context.views, batch)
        marked = np.flatnonzero(word)
        rows.append(batch[marked])
        words.append(word[marked])
    return MarkedEntries(row=np.concatenate(rows), word=np.concatenate(words))


def marked_findings(context: Context, rule: Rule, marks: tuple[Mark, ...]) -> Iterator[Finding]:
    """For each of ``marks`` in turn one finding for every process with such entries.

    In an image that was taken while the machine ran, those that another entry of the same table proves wrong are told
    apart: they are so whenever they were read.
    """
    view = context.views.page_tables
    if view is None:
        return
    marked = context.shared(marked_entries)
    for mark in marks:
        rows = marked.row[(marked.word & np.uint32(mark)) != 0]
        if mark is Mark.OTHER_ANON_VMA and context.acquisition.live:
            rightful = twice_mapped(view, rows, marked.row)
            for finding in _of_entries(context, rule, mark, view, rows[rightful >= 0], rightful[rightful >= 0]):
                yield replace(finding, at_once=True)
            rows = rows[rightful < 0]
        yield from _of_entries(context, rule, mark, view, rows)


def _of_entries(
    context: Context, rule: Rule, mark: Mark, view: PageTablesView, rows: I64, rightful: I64 | None = None
) -> Iterator[Finding]:
    """Findings of the entries ``rows``; ``rightful`` are those beside them that map the same frames."""
    ptes, runs = view.ptes, Runs.of(view, rows)

    def title(row: int) -> str:
        return f"{runs.text(row)} {mark.sentence}"

    def evidence(row: int) -> Evidence:
        first = runs.first(row)
        what = title(row)
        if rightful is not None:
            other = int(rightful[np.searchsorted(rows, first)])
            what += f"; the same page table maps frame {int(ptes.pfn[first]):#x} at {int(ptes.va[other]):#x} too, "
            what += "where it belongs"
        return Evidence(
            what=what,
            view=View.PAGE_TABLES.label,
            address=int(ptes.where[first]),
            found=f"{int(ptes.entry[first]):#x}",
        )

    yield from context.per_mm(rule, runs.mm(context), evidence, title, runs.bounds)
