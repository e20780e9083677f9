"""The ranges that indices of memory maps give to VMAs, as page-table entries are matched with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import last_rows_of, rows_of, sort_order, values_at
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I32, I64, U64
from vmaforensics.views.pages.ptes import place_keys

if TYPE_CHECKING:
    from vmaforensics.arch.interface import Architecture
    from vmaforensics.views.indices.entries import IndexEntries
    from vmaforensics.views.pages.ptes import Rows
    from vmaforensics.views.processes.mms import Mms


@table()
class MapRanges(Table):
    """A row is a range of addresses that some index gives to a VMA, as that index bounds it; by mm and start."""

    mm_row: I32  # row of Views.mms
    vma_row: I32  # row of Views.vmas
    start: U64
    end: U64  # exclusive

    def rows_at(self, arch: Architecture, mm_row: Rows, va: U64) -> I64:
        """Row of the range that covers each address of each mm, -1 where none does."""
        row = self._last_from(arch, mm_row, va)
        return np.where((row >= 0) & (va < values_at(self.end, row)), row, -1)

    def rows_of(self, arch: Architecture, mm_row: Rows, va: U64) -> I32:
        """As :meth:`rows_at`, of addresses that ascend by mm: quick for many of them."""
        if not len(va) or not len(self):
            return np.full(len(va), -1, np.int32)
        keys, starts = place_keys(arch, mm_row, va), place_keys(arch, self.mm_row, self.start)
        first, last = (np.searchsorted(starts, keys[[0, -1]], "right") - 1).tolist()
        if last - first >= len(va):
            return self.rows_at(arch, mm_row, va).astype(np.int32)
        begins = np.searchsorted(keys, starts[first + 1 : last + 1])
        counts = np.diff(begins, prepend=0, append=len(va))
        rows = np.arange(first, last + 1, dtype=np.int32)
        within = np.repeat(values_at(self.end, rows), counts) > va
        within &= np.repeat(values_at(self.mm_row, rows, -1), counts) == mm_row
        return np.where(within, np.repeat(rows, counts), np.int32(-1))

    def ends_before(self, arch: Architecture, mm_row: Rows, va: U64) -> U64:
        """Where the last range of each mm that begins at or below each address ends; 0 for none."""
        return values_at(self.end, self._last_from(arch, mm_row, va))

    def _last_from(self, arch: Architecture, mm_row: Rows, va: U64) -> I64:
        """Row of the last range of each mm that begins in the page of each address or below."""
        row = last_rows_of(place_keys(arch, self.mm_row, self.start), place_keys(arch, mm_row, va))
        return np.where(values_at(self.mm_row, row, -1) == mm_row, row, -1)


def map_ranges(mms: Mms, entries: IndexEntries) -> MapRanges:
    """The ranges of all ``entries``, those of several indices with each VMA once."""
    entries = entries.take(entries.end > entries.start)  # a torn index may hold ranges that are none
    mm_row = rows_of(mms.mm, entries.mm)
    rows = sort_order(mm_row, entries.start)
    return MapRanges(
        mm_row=mm_row[rows].astype(np.int32),
        vma_row=entries.vma_row[rows].astype(np.int32),
        start=entries.start[rows],
        end=entries.end[rows],
    )
