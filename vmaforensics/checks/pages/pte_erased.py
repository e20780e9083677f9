"""PTE-ERASED: page counts other mappings than page tables hold.

*Compared:* the map count of pages with the number of entries that lead to them, over all processes and
all address spaces that are no process's (any more, or yet). Only where the page tables of all of them could be read
whole. The process is named where only VMAs of one have room for the page, and every place that they have for it.

*Guaranteed by:* every entry made or cleared changes the count of its page (mm/rmap.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.pages.unsettled_pages import CHANGE_PAGES, LEAVE_PAGES, counted_whole, miscounted
from vmaforensics.checks.rule import LAGS, Part, Rule, Severity
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import I64, U64

RULE = Rule(
    id="PTE-ERASED",
    title="page counts other mappings than page tables hold",
    severity=Severity.HIGH,
    why="A page counts the entries that lead to it. One that was erased, or added, by hand leaves the count as it "
    "was: the contents are kept for later, out of reach of every tool that follows page tables.",
    compares="the map count of every small page with the number of entries that lead to it, over all processes",
    views=(View.PAGES, View.PAGE_TABLES),
    transient="between the entry and the count, under the page-table lock, which is not looked at",
    by_hand=("crash: struct page._mapcount PAGE  # the count less one",),
    steps=("frame", "memory", "vma"),
    part=Part.CAUSE,
    rank=210,
    excused_by=LAGS,
    changed_by=(),
    in_flight=(*LEAVE_PAGES, *CHANGE_PAGES),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process that a wrong count can be traced to, and one for all pages of which it cannot."""
    view = counted_whole(context)
    if view is None:
        return
    pages, entries = view.miscounted.pages, view.miscounted.entries
    (places, unsettled), arch = context.shared(miscounted), context.views.arch
    mm = np.array([places[row].mm if row in places else 0 for row in range(len(pages))], np.uint64)

    def evidence(row: int) -> Evidence:
        pfn, counted = int(pages.pfn[row]), int(pages.mapcount[row])
        return Evidence(
            what=f"page frame {pfn:#x} counts {counted} mappings, page tables hold {int(entries[row])}",
            view=View.PAGES.label,
            address=pfn << arch.page_shift,
            found=str(counted),
            expected=str(int(entries[row])),
        )

    def title(row: int) -> str:
        where = " at " + " or ".join(map(hex, places[row].vas)) if row in places else ""
        if pages.mapcount[row] > entries[row]:
            return f"a page that counts itself as mapped{where} is in no page table"
        return f"a page is mapped{where} by more entries than it counts"

    def bounds(row: int) -> tuple[int, int] | None:
        if row not in places or len(places[row].vas) > 1:
            return None
        (va,) = places[row].vas
        return va, va + arch.page_size

    words = _Words(evidence, title, bounds)
    rest = np.array([row for row in range(len(pages)) if row not in unsettled], np.int64)
    yield from _grouped(context, words, rest, mm[rest])
    rows = np.array(sorted(unsettled), np.int64)
    off = np.abs(pages.mapcount[rows].astype(np.int64) - entries[rows])
    yield from _grouped(context, words, rows, np.array([unsettled[row] for row in rows.tolist()], np.uint64), off)


class _Words(NamedTuple):
    """What is said of a row."""

    evidence: Callable[[int], Evidence]
    title: Callable[[int], str]
    bounds: Callable[[int], tuple[int, int] | None]


def _grouped(context: Context, words: _Words, rows: I64, mm: U64, off: I64 | None = None) -> Iterator[Finding]:
    """A finding for each mm of ``rows``; with how much each count is off if operations under way account for it."""
    yield from context.per_mm(
        RULE,
        mm,
        lambda at: words.evidence(int(rows[at])),
        lambda at: words.title(int(rows[at])),
        lambda at: words.bounds(int(rows[at])),
        lambda at: 0 if off is None else int(off[at]),
        lambda at: off is not None,
    )
