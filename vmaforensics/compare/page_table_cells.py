"""What the page tables say of each VMA, and what they map that no VMA covers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import PteState
from vmaforensics.checks.pages.entry_runs import Runs
from vmaforensics.columns.lookup import bounds_of, last_rows_of, values_at
from vmaforensics.columns.runs import begins_run, run_lasts, run_starts
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I64, U8, U64
from vmaforensics.compare.cells import CellState, PageTableCells
from vmaforensics.views.pages.entry_ranges import in_ranges

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.compare.vmas import ComparedVmas
    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.views import Views


@table()
class UncoveredRuns(Table):
    """Neighbouring page-table entries of one address space that no VMA of any record covers; by mm and start."""

    mm: U64
    start: U64
    end: U64
    pages: I64
    where: U64  # physical address of the first entry
    allow: U8  # what the first entry allows over all levels, ALLOW_*
    content: I64  # place in PageTablesView.contents: what the first page looks like; -1: not looked at


def page_table_cells(view: PageTablesView, vmas: ComparedVmas) -> PageTableCells:
    """The entries that lie in each VMA, counted; ``vmas`` are sorted by mm."""
    cells = PageTableCells.zeros(len(vmas))
    whole = values_at(view.whole, vmas.mm_row)
    cells.state[:] = np.where(whole, CellState.NONE, CellState.UNREAD)
    for part in in_ranges(view.entries, vmas.mm_row, vmas.start, vmas.end):
        size = part.ptes.pages(view.arch)
        for column, counted in (
            (cells.mapped, part.ptes.maps_frames()),
            (cells.swapped, part.ptes.state == PteState.SWAP),
        ):
            up_to = np.concatenate([[0], np.cumsum(np.where(counted, size, 0))])
            column[part.ranges] += up_to[part.high] - up_to[part.low]
        new = cells.state[part.ranges] != CellState.HELD
        cells.where[part.ranges[new]] = part.ptes.where[part.low[new]]
        cells.state[part.ranges] = CellState.HELD
    return cells


def uncovered_runs(views: Views, vmas: ComparedVmas, mms: NDArray[np.uint64] | None = None) -> UncoveredRuns:
    """What the page tables of ``mms`` (None: of all) map outside of ``vmas``, which are all that these have."""
    view = views.page_tables
    if view is None or not len(view.orphans):
        return UncoveredRuns.zeros(0)
    rows, orphans = np.arange(len(view.orphans)), view.entries.take(view.orphans)
    owner, va = orphans.mm_row, orphans.va
    if mms is not None:
        rows = np.flatnonzero(np.isin(owner, views.mm_rows(mms)))
    covered = np.zeros(len(rows), np.bool_)
    for span in _per_mm(vmas):
        # VMAs may lie in each other: what counts is how far those that begin below an address reach.
        first, last = bounds_of(owner[rows], vmas.mm_row[span.start])
        if first == last:
            continue
        asked = va[rows[first:last]]
        reach = np.maximum.accumulate(vmas.end[span])
        covered[first:last] = asked < values_at(reach, last_rows_of(vmas.start[span], asked))
    runs = Runs.of(view, view.orphans[rows[~covered]])
    at = np.searchsorted(view.orphans, runs.entry)
    return UncoveredRuns.of(
        mm=views.mms.mm[runs.mm_row],
        start=runs.start,
        end=runs.end,
        pages=view.arch.pages(runs.end - runs.start),
        where=runs.ptes.where,
        allow=runs.ptes.allow,
        content=np.where(at < len(view.contents), at, -1),
    )


def _per_mm(vmas: ComparedVmas) -> Iterator[slice]:
    """The rows of each mm that has any."""
    starts = run_starts(begins_run(vmas.mm))
    for first, last in zip(starts.tolist(), run_lasts(starts, len(vmas)).tolist(), strict=True):
        yield slice(first, last + 1)
