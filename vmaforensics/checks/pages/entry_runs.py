"""Page-table entries that are wrong in the same way, joined to ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.words.amounts import pages

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.checks.context import Context
    from vmaforensics.views.pages.page_tables import PageTablesView


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Neighbouring entries of one process in one area, as ranges: parallel arrays, one element per run."""

    entry: NDArray[np.int64]  # row of the first entry
    mm_row: NDArray[np.int64]
    start: NDArray[np.uint64]
    end: NDArray[np.uint64]
    page_shift: int

    @classmethod
    def of(cls, view: PageTablesView, rows: NDArray[np.int64] | NDArray[np.intp]) -> Runs:
        """Join entries ``rows`` of ``view.ptes``, which are in ascending order."""
        ptes = view.ptes[rows]
        end = ptes["va"] + ptes.sizes(view.arch)
        fresh = np.ones(len(rows), np.bool_)
        fresh[1:] = (
            (ptes["mm_row"][1:] != ptes["mm_row"][:-1])
            | (ptes["va"][1:] != end[:-1])
            | (ptes["range_row"][1:] != ptes["range_row"][:-1])
        )
        first = np.flatnonzero(fresh)
        last = np.append(first[1:], len(rows))[: len(first)] - 1
        return cls(
            entry=rows[first].astype(np.int64),
            mm_row=ptes["mm_row"][first].astype(np.int64),
            start=ptes["va"][first],
            end=end[last],
            page_shift=view.arch.page_shift,
        )

    def mm(self, context: Context) -> NDArray[np.uint64]:
        """The mm of each run."""
        answer: NDArray[np.uint64] = context.views.mms["mm"][self.mm_row]
        return answer

    def first(self, row: int) -> int:
        """Row of ``ptes`` with which run ``row`` begins."""
        return int(self.entry[row])

    def bounds(self, row: int) -> tuple[int, int]:
        """The range of run ``row``."""
        return int(self.start[row]), int(self.end[row])

    def text(self, row: int) -> str:
        """The range of run ``row`` in words."""
        start, end = self.bounds(row)
        return f"{start:#x}-{end:#x} ({pages((end - start) >> self.page_shift)})"
