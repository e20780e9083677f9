"""What page-table entries say: decoded, and matched with the ranges of VMAs and with pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import Leaves, LowestEntries, PteState
from vmaforensics.columns.ragged import expand
from vmaforensics.views.pages.page_names import huge_zero_frame
from vmaforensics.views.pages.ptes import Ptes

if TYPE_CHECKING:
    from vmaforensics.arch.page_tables import LowestTables
    from vmaforensics.columns.types import I64
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.map_ranges import MapRanges
    from vmaforensics.views.pages.mapped_frames import FrameRows

_LEAST_SWAPFILES = 23  # the least MAX_SWAPFILES of any configuration
_SWAP_TYPES = 32  # 1 << MAX_SWAPFILES_SHIFT
_HUGE = 2
_HELD = 1 << 14  # tables whose pages of the image are kept in memory, at most: 64 MiB


class EntryReader:
    """Makes rows of :class:`Ptes` of leaf entries; ``ranges`` are those of the VMAs of all mms, if they have any.

    While ``rows`` is not set, entries are not matched with pages.
    """

    def __init__(self, kernel: Kernel, ranges: MapRanges | None) -> None:
        self._kernel, self._ranges = kernel, ranges
        self._swap_types = _swap_types(kernel)
        self._zero = huge_zero_frame(kernel)  # mapped without being counted
        self._tables = 0  # read since the image was released
        self._held = kernel.memory.limits.batch(kernel.arch.page_size, _HELD)
        self.rows: FrameRows | None = None

    def lowest(self, tables: LowestTables, *, digests: bool = False) -> LowestEntries:
        """The entries of some tables as they stand, with digests of the tables if wanted."""
        self._tables += len(tables)
        if self._tables > self._held:
            self._kernel.memory.release()
            self._tables = len(tables)
        return self._kernel.arch.read_lowest(self._kernel.memory, tables, digests=digests)

    def read(self, tables: LowestTables, counts: I64) -> Ptes:
        """The entries of some tables that are known to hold so many each.

        Where the source changes under the reader (/proc/kcore), what is gone is an empty entry, what is new left out.
        """
        found = self.lowest(tables)
        if np.array_equal(found.counts, counts):
            return self.matched(found.leaves)
        table, place = expand(counts)
        there = place < found.counts[table]
        begins = np.cumsum(found.counts) - found.counts
        kept = found.leaves.take((begins[table] + place)[there])
        leaves = Leaves.of(
            len(table), va=tables.va[table], owner=tables.owner[table], level=np.ones(len(table), np.int8)
        )
        for name, values in kept.columns().items():
            getattr(leaves, name)[there] = values
        ptes = self.matched(leaves)
        ptes.state[~there] = PteState.OTHER
        return ptes

    def matched(self, leaves: Leaves) -> Ptes:
        """Rows of ``leaves``, which ascend by owner (the row of the mm) and address."""
        arch = self._kernel.arch
        meaning = arch.decode(leaves, self._swap_types)
        if self._zero is not None:
            meaning.special[:] |= (leaves.level == _HUGE) & (meaning.pfn == np.uint64(self._zero))
        nowhere = np.full(len(leaves), -1, np.int32)
        ranges = nowhere if self._ranges is None else self._ranges.rows_of(arch, leaves.owner, leaves.va)
        ptes = Ptes(
            mm_row=leaves.owner,
            level=leaves.level,
            state=meaning.state,
            allow=leaves.allow,
            special=meaning.special,
            va=leaves.va,
            entry=leaves.entry,
            where=leaves.where,
            pfn=meaning.pfn,
            page_row=nowhere.copy(),
            range_row=ranges,
        )
        if self.rows is not None:
            self.match_pages(ptes)
        return ptes

    def match_pages(self, ptes: Ptes) -> None:
        """Fill in ``page_row`` of entries whose pages are counted."""
        assert self.rows is not None
        counted = ptes.maps_frames() & ~ptes.special
        if counted.all():
            ptes.page_row[:] = self.rows.of(ptes.pfn)
        else:
            ptes.page_row[counted] = self.rows.of(ptes.pfn[counted])


def _swap_types(kernel: Kernel) -> int:
    """Swap files there are or were; the types above them are migration, device and marker entries."""
    count = kernel.variable("nr_swapfiles", 4)
    return _LEAST_SWAPFILES if count is None else min(count, _SWAP_TYPES)
