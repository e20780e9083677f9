"""Page-table entries that lie side by side, joined to ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.runs import begins_range, begins_run, run_lasts, run_starts
from vmaforensics.words.amounts import pages

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.checks.context import Context
    from vmaforensics.columns.types import I64, U64
    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.pages.ptes import Ptes


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Neighbouring entries of one process in one VMA, as ranges: parallel arrays, one element per run."""

    entry: I64  # row of the first entry
    ptes: Ptes  # the first entries
    mm_row: I64
    start: U64
    end: U64
    page_size: int  # bytes

    @classmethod
    def of(cls, view: PageTablesView, rows: I64 | NDArray[np.intp]) -> Runs:
        """Join the entries ``rows`` of ``view.entries``, which ascend."""
        ptes = view.entries.take(rows)
        end = ptes.ends(view.arch)
        first = run_starts(begins_range(ptes.va, end) | begins_run(ptes.mm_row, ptes.range_row))
        return cls(
            entry=rows[first].astype(np.int64),
            ptes=ptes.take(first),
            mm_row=ptes.mm_row[first].astype(np.int64),
            start=ptes.va[first],
            end=end[run_lasts(first, len(rows))],
            page_size=view.arch.page_size,
        )

    def mm(self, context: Context) -> U64:
        """The mm of each run."""
        return context.views.mms.mm[self.mm_row]

    def bounds(self, row: int) -> tuple[int, int]:
        """The range of run ``row``."""
        return int(self.start[row]), int(self.end[row])

    def text(self, row: int) -> str:
        """The range of run ``row`` in words."""
        start, end = self.bounds(row)
        return f"{start:#x}-{end:#x} ({pages((end - start) // self.page_size, self.page_size)})"
