"""The records of memory maps beside each other: one table of VMAs, and for every record a column of cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.context import Context
from vmaforensics.columns.lookup import sort_order
from vmaforensics.compare.anchor_cells import anchor_cells
from vmaforensics.compare.index_cells import index_cells
from vmaforensics.compare.object_cells import anon_cells, file_cells, slab_cells
from vmaforensics.compare.page_table_cells import page_table_cells, uncovered_runs
from vmaforensics.compare.vmas import compared_vmas
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vmaforensics.compare.cells import (
        AnchorCells,
        AnonCells,
        Cells,
        FileCells,
        IndexCells,
        PageTableCells,
        SlabCells,
    )
    from vmaforensics.compare.page_table_cells import UncoveredRuns
    from vmaforensics.compare.vmas import ComparedVmas
    from vmaforensics.views.views import Views


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What every record says of every VMA of some address spaces. A record that was not read has no cells.

    The cells have a row for each row of ``vmas``. ``runs`` is what the page tables map and none of ``vmas`` covers:
    there every index is missing a VMA.
    """

    vmas: ComparedVmas
    names: Sequence[bytes]  # what ComparedVmas.name is a place in, as /proc/PID/maps shows it
    runs: UncoveredRuns
    contents: list[str]  # what UncoveredRuns.content is a place in
    indices: dict[View, IndexCells]
    page_tables: PageTableCells | None
    slab: SlabCells | None
    file_rmap: FileCells | None
    anon_rmap: AnonCells | None
    anchors: AnchorCells | None

    def cells(self) -> dict[View, Cells]:
        """The cells of each record that was read, in the order in which records are shown."""
        others = {
            View.PAGE_TABLES: self.page_tables,
            View.SLAB: self.slab,
            View.FILE_RMAP: self.file_rmap,
            View.ANON_RMAP: self.anon_rmap,
            View.ANCHORS: self.anchors,
        }
        return {**self.indices, **{view: cells for view, cells in others.items() if cells is not None}}

    def take(self, rows: NDArray[np.int64]) -> Comparison:
        """The same with some of the VMAs only; ``runs`` stay as they are."""
        return Comparison(
            vmas=self.vmas.take(rows),
            names=self.names,
            runs=self.runs,
            contents=self.contents,
            indices={view: cells.take(rows) for view, cells in self.indices.items()},
            page_tables=None if self.page_tables is None else self.page_tables.take(rows),
            slab=None if self.slab is None else self.slab.take(rows),
            file_rmap=None if self.file_rmap is None else self.file_rmap.take(rows),
            anon_rmap=None if self.anon_rmap is None else self.anon_rmap.take(rows),
            anchors=None if self.anchors is None else self.anchors.take(rows),
        )

    def agrees(self) -> NDArray[np.bool_]:
        """Does no record give a VMA another range or another owner?"""
        agrees: NDArray[np.bool_] = ~self.vmas.ok | (self.vmas.owner == self.vmas.mm)
        for cells in self.indices.values():
            agrees &= ~cells.other_range
        return agrees

    def shown_order(self) -> NDArray[np.int64]:
        """VMAs (from 0) and then runs (from ``len(vmas)``) by start; of one address space."""
        return sort_order(np.concatenate([self.vmas.start, self.runs.start]))


def compare_records(views: Views, mms: NDArray[np.uint64] | None = None) -> Comparison:
    """Put the records of ``mms`` beside each other; None: of every address space of the image.

    >>> compared = compare_records(views)
    >>> compared.vmas.take(compared.indices[View.MAPLE].state == CellState.MISSING)
    """
    vmas, names = compared_vmas(views, mms)
    page_tables, slab, rmap = views.page_tables, views.slab, views.rmap
    return Comparison(
        vmas=vmas,
        names=names,
        runs=uncovered_runs(views, vmas, mms),
        contents=[] if page_tables is None else page_tables.contents,
        indices=index_cells(Context(views), vmas, mms),
        page_tables=None if page_tables is None else page_table_cells(page_tables, vmas),
        slab=None if slab is None else slab_cells(slab, views.strays, vmas),
        file_rmap=None if rmap is None else file_cells(rmap, vmas),
        anon_rmap=None if rmap is None else anon_cells(rmap, vmas),
        anchors=None if views.anchors is None else anchor_cells(views, vmas),
    )
