"""The page-table entries that disagree with their VMA, and findings of those that disagree in the same way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.pages.entry_runs import Runs
from vmaforensics.checks.pages.page_marks import entry_marks
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.checks.pages.page_marks import Mark
    from vmaforensics.checks.rule import Rule
    from vmaforensics.columns.types import I64, U32

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
    """For each of ``marks`` in turn one finding for every process with such entries."""
    view = context.views.page_tables
    if view is None:
        return
    ptes, marked = view.ptes, context.shared(marked_entries)
    for mark in marks:
        runs = Runs.of(view, marked.row[(marked.word & np.uint32(mark)) != 0])

        def title(row: int, runs: Runs = runs, mark: Mark = mark) -> str:
            return f"{runs.text(row)} {mark.sentence}"

        def evidence(row: int, runs: Runs = runs, mark: Mark = mark) -> Evidence:
            first = runs.first(row)
            return Evidence(
                what=f"{runs.text(row)} {mark.sentence}",
                view=View.PAGE_TABLES.label,
                address=int(ptes.where[first]),
                found=f"{int(ptes.entry[first]):#x}",
            )

        yield from context.per_mm(rule, runs.mm(context), evidence, title, runs.bounds)
