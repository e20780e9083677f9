"""Every region of user memory that some record knows of, and which records show each.

A region is a VMA, whichever record leads to it, or a run of page-table entries that no VMA covers. It is hidden where
the index that the kernel itself goes by was read and lacks it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import ALLOW_EXECUTE, ALLOW_USER
from vmaforensics.columns.lookup import sort_order
from vmaforensics.columns.table import Table, column, table
from vmaforensics.columns.types import I32, I64, U8, U64, Bools
from vmaforensics.compare.cells import CellState
from vmaforensics.compare.comparison import Comparison, compare_records
from vmaforensics.views.pages.entry_ranges import in_ranges
from vmaforensics.views.view import View
from vmaforensics.views.vmas.flags import VM_EXEC

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vmaforensics.views.views import Views


@table()
class Regions(Table):
    """Regions by mm, start and end; those of one address space may overlap where records disagree."""

    mm: U64
    mm_row: I32 = column(fill=-1)  # row of views.mms
    pid: I32
    start: U64
    end: U64
    flags: U64  # vm_flags; 0 of a run of entries
    allow: U8  # of a run: what its first entry allows, ALLOW_*
    pgoff: U64  # pages
    file: U64  # struct file
    vma: U64  # vm_area_struct; 0 of a run
    kind: U8  # Kind
    hidden: Bools
    row: I64  # of the comparison: VMAs first, runs behind them


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRegions:
    """Regions, and the comparison that tells of each what the records say."""

    rows: Regions
    compared: Comparison

    def name(self, row: int) -> bytes:
        """What ``/proc/PID/maps`` would show, as the kernel has it; empty of memory without a name."""
        at = int(self.rows.row[row])
        return self.compared.names[int(self.compared.vmas.name[at])] if at < len(self.compared.vmas) else b""

    def records(self, row: int) -> tuple[str, ...]:
        """The records that show the region, by the names that reports use."""
        at = int(self.rows.row[row])
        if at >= len(self.compared.vmas):
            return (View.PAGE_TABLES.label,)
        cells = self.compared.cells()
        shown = tuple(view.label for view, column in cells.items() if column.state[at] == CellState.HELD)
        return (View.VMA.label, *shown) if self.compared.vmas.ok[at] else shown

    def lacking(self, row: int) -> tuple[str, ...]:
        """The records that were read whole and lack the region, or have it otherwise."""
        at = int(self.rows.row[row])
        if at >= len(self.compared.vmas):
            return tuple(view.label for view in self.compared.indices)
        cells = self.compared.cells()
        return tuple(view.label for view, column in cells.items() if column.state[at] == CellState.MISSING)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> KnownRegions:
        """Some of the regions."""
        return KnownRegions(rows=self.rows.take(rows), compared=self.compared)


def known_regions(views: Views, mms: Sequence[int] | None = None) -> KnownRegions:
    """The regions of ``mms`` (None: of every address space)."""
    compared = compare_records(views, None if mms is None else np.array(mms, np.uint64))
    vmas, runs = compared.vmas, compared.runs
    index = compared.indices[views.index_view]
    both = Regions.concatenate(
        [
            Regions.of(
                mm=vmas.mm,
                mm_row=vmas.mm_row,
                start=vmas.start,
                end=vmas.end,
                flags=vmas.flags,
                pgoff=vmas.pgoff,
                file=vmas.file,
                vma=vmas.vma,
                kind=vmas.kind,
                hidden=(index.state == CellState.MISSING) & ~index.other_range,
                row=np.arange(len(vmas)),
            ),
            Regions.of(
                mm=runs.mm,
                mm_row=views.mm_rows(runs.mm),
                start=runs.start,
                end=runs.end,
                allow=runs.allow,
                hidden=np.ones(len(runs), np.bool_),
                row=len(vmas) + np.arange(len(runs)),
            ),
        ]
    )
    both.pid[:] = np.where(both.mm_row >= 0, views.mms.pid[both.mm_row], -1) if len(views.mms) else -1
    size = views.arch.page_size
    # A range that is no range, or not of user memory, has no bytes: the finding about it says so.
    fits = (both.start < both.end) & (both.end <= np.uint64(views.arch.user_top))
    fits &= (both.start % np.uint64(size) == 0) & (both.end % np.uint64(size) == 0)
    both = both.take(fits)
    return KnownRegions(rows=both.take(sort_order(both.mm, both.start, both.end)), compared=compared)


def executable(views: Views, regions: KnownRegions) -> Bools:
    """Which regions are code: VMAs with VM_EXEC, and what holds a page that user mode may execute all the same."""
    rows = regions.rows
    found: Bools = (rows.flags & np.uint64(VM_EXEC)) != 0
    view = views.page_tables
    if view is None:
        return found
    rest = np.flatnonzero(~found)
    for part in in_ranges(view.entries, rows.mm_row[rest], rows.start[rest], rows.end[rest]):
        code = part.ptes.maps_frames() & executes(part.ptes.allow)
        up_to = np.concatenate([[0], np.cumsum(code)])
        found[rest[part.ranges]] |= up_to[part.high] > up_to[part.low]
    return found


def executes(allow: U8) -> Bools:
    """What may user mode execute, by ALLOW_*?"""
    wanted = ALLOW_EXECUTE | ALLOW_USER
    code: Bools = (allow & wanted) == wanted
    return code
