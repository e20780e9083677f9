"""PT-SHARED: page table reached from two places.

*Compared:* the physical addresses of all page-table pages of user halves: none twice, neither in two processes nor in
one. PMD tables of VMAs of huge pages (hugetlb) are left out. Where one of the places lies in no VMA and another does,
the former alone is reported, and the evidence names all.

*Guaranteed by:* each table is allocated for one place of one `mm_struct`; only `huge_pmd_share` (mm/hugetlb.c) shares
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import TablePages
from vmaforensics.checks import hand
from vmaforensics.checks.context import MOST
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import Part, Rule, Severity
from vmaforensics.columns.lookup import bounds_of, sort_order, values_at
from vmaforensics.views.view import View
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import U64, Bools
    from vmaforensics.views.pages.page_tables import PageTablesView

RULE = Rule(
    id="PT-SHARED",
    title="page table reached from two places",
    severity=Severity.HIGH,
    why="Two processes, or two places of one, that share a page table share its memory without any record of it.",
    compares="the physical addresses of all page-table pages of user halves: none twice, in two processes or in one, "
    "except for hugetlb VMAs",
    views=(View.PAGE_TABLES,),
    transient="none known",
    by_hand=(f"{hand.VTOP}  # of each of the processes",),
    steps=("memory", "entry"),
    part=Part.CAUSE,
    rank=190,
    changed_by=(),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process with such a table; the evidence names all places of each table."""
    view = context.views.page_tables
    if view is None:
        return
    places = _Places(context, view)
    at = np.flatnonzero(places.accused())
    tables, size = places.tables, places.size

    def evidence(row: int) -> Evidence:
        pa = int(tables.pa[at[row]])
        return Evidence(
            what=f"the level {int(tables.level[at[row]])} table at physical {pa:#x} is reached more than once: for "
            f"{', '.join(places.of_table(pa))}",
            view=View.PAGE_TABLES.label,
            address=pa,
        )

    def title(row: int) -> str:
        return f"a page table for {int(tables.va[at[row]]):#x} is shared with another process or place"

    def bounds(row: int) -> tuple[int, int]:
        return int(tables.va[at[row]]), int(tables.va[at[row]] + size[at[row]])

    yield from context.per_mm(RULE, context.views.mms.mm[tables.owner[at]], evidence, title, bounds)


class _Places:
    """Every place at which a walk came to a page-table page: a table may have several."""

    def __init__(self, context: Context, view: PageTablesView) -> None:
        self._view, self._kinds = view, context.views.vmas.kind
        self._pids = context.views.mms.pid
        self.tables = tables = TablePages.concatenate([view.tables, view.repeated])
        #: Bytes that each table maps.
        self.size: U64 = context.views.arch.table_span(tables.level)
        self._last = tables.va + self.size - np.uint64(1)
        self._order = sort_order(tables.pa)
        self._sorted = tables.pa[self._order]

    def of_table(self, pa: int) -> list[str]:
        """The places of one table in words, at most :data:`MOST`."""
        low, high = bounds_of(self._sorted, pa)
        rows = self._order[low : min(high, low + MOST)].tolist()
        return [f"{int(self.tables.va[row]):#x} of process {int(self._pids[self.tables.owner[row]])}" for row in rows]

    def accused(self) -> Bools:
        """Places of tables that have several, except for tables of huge pages, which huge_pmd_share may share.

        Hung in where no VMA is, a table is out of place: that place is accused, not the one it was taken from.
        """
        tables = self.tables
        distinct, group, count = np.unique(tables.pa, return_inverse=True, return_counts=True)
        wrong = (count[group] > 1) & ~((tables.level == 2) & self._maps_huge_pages())
        stray = wrong & (self._view.ranges.ends_before(self._view.arch, tables.owner, self._last) <= tables.va)
        strays = np.bincount(group[stray], minlength=len(distinct))
        proper = np.bincount(group[wrong & ~stray], minlength=len(distinct))
        accused: Bools = wrong & (stray | (strays[group] == 0) | (proper[group] == 0))
        return accused

    def _maps_huge_pages(self) -> Bools:
        """Does a VMA of huge pages (hugetlb) hold the first or the last address that each table maps?"""
        view, tables = self._view, self.tables
        huge = values_at(self._kinds, view.ranges.vma_row) == Kind.HUGETLB
        first, last = (view.ranges.rows_at(view.arch, tables.owner, va) for va in (tables.va, self._last))
        held: Bools = values_at(huge, first) | values_at(huge, last)
        return held
