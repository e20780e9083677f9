"""MM-RSS: resident-set counter disagrees with the page tables.

*Compared:* file, anonymous, shared-memory and swap counters, with their per-CPU or per-task parts, with the entries.
Only where the page tables and the pages could be read whole, and without migration or device-private entries.

*Guaranteed by:* `add_mm_counter` and its kin beside each entry made or cleared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import PteState
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import LAGS, Part, Rule, Severity
from vmaforensics.columns.lookup import values_at
from vmaforensics.views.pages.rss import KINDS
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import I64, Bools
    from vmaforensics.views.pages.page_tables import PageTablesView

RULE = Rule(
    id="MM-RSS",
    title="resident-set counter disagrees with the page tables",
    severity=Severity.MEDIUM,
    why="The counters are exact once all their parts are added. Entries added or erased by hand are not counted.",
    compares="the counters of file, anonymous, shared-memory and swap pages, with their parts, with the entries",
    views=(View.COUNTERS, View.PAGE_TABLES, View.PAGES),
    transient="clearing of entries is batched (mmu_gather)",
    by_hand=("crash: struct mm_struct.rss_stat MM",),
    steps=("resident", "index"),
    part=Part.TRACE,
    rank=400,
    excused_by=LAGS,
)


_FILE, _ANONYMOUS, _SWAP, _SHARED = range(len(KINDS))


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process whose page tables, pages and counters were read whole."""
    view = context.views.page_tables
    if view is None:
        return
    mms = context.views.mms
    counted = resident_pages(view, len(mms))
    row, kind = np.nonzero((counted != view.rss) & _judged(view, len(mms))[:, None])

    def evidence(at: int) -> Evidence:
        stored, there = int(view.rss[row[at], kind[at]]), int(counted[row[at], kind[at]])
        return Evidence(
            what=f"{KINDS[int(kind[at])]} is {stored} pages, the page tables hold {there}",
            view=View.COUNTERS.label,
            address=int(mms.mm[row[at]]),
            found=str(stored),
            expected=str(there),
        )

    def title(at: int) -> str:
        return f"{KINDS[int(kind[at])]} disagrees with what the page tables hold"

    yield from context.per_mm(RULE, mms.mm[row], evidence, title)


def resident_pages(view: PageTablesView, count: int) -> I64:
    """Pages by kind of counter (``rss.KINDS``) that the page tables of each of ``count`` mms hold, shape (mms, kinds).

    What counts as what: mm_counter (include/linux/mm.h); swap entries are counted where they are made
    (try_to_unmap_one, mm/rmap.c), hugetlb pages nowhere.
    """
    ptes, pages = view.ptes, view.pages
    page_kind = np.where(pages.anon, _ANONYMOUS, np.where(pages.swapbacked, _SHARED, _FILE))
    mapped = np.flatnonzero(values_at(pages.ok & ~pages.hugetlb, ptes.page_row))
    swapped = np.flatnonzero(ptes.state == PteState.SWAP)
    total = _by_mm_and_kind(view, mapped, page_kind[ptes.page_row[mapped]], count)
    return total + _by_mm_and_kind(view, swapped, np.full(len(swapped), _SWAP), count)


def _by_mm_and_kind(view: PageTablesView, rows: I64, kind: I64, count: int) -> I64:
    """Pages that the entries ``rows`` map, by mm and kind of counter."""
    cell = view.ptes.mm_row[rows].astype(np.int64) * len(KINDS) + kind
    sums = np.bincount(cell, weights=view.ptes.take(rows).pages(view.arch), minlength=count * len(KINDS))
    return sums.astype(np.int64).reshape(count, len(KINDS))


def _judged(view: PageTablesView, count: int) -> Bools:
    """Was all that goes into the counters of each mm read?"""
    ptes, judged = view.ptes, view.whole & view.rss_ok
    # Migration and device-private entries are counted by the page they stand for.
    unclear = ptes.state == PteState.OTHER
    unclear |= (ptes.page_row >= 0) & ~values_at(view.pages.ok, ptes.page_row)
    judged &= np.bincount(ptes.mm_row[unclear], minlength=count) == 0
    return judged
