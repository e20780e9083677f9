"""What the list and the trees of a memory map say of each VMA."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import rows_of, sort_order, values_at
from vmaforensics.compare.cells import CellState, IndexCells
from vmaforensics.compare.vmas import rows_with_mm
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.checks.context import Context
    from vmaforensics.columns.types import I32, I64
    from vmaforensics.compare.vmas import ComparedVmas
    from vmaforensics.views.indices.entries import IndexEntries


def index_cells(context: Context, vmas: ComparedVmas, mms: NDArray[np.uint64] | None = None) -> dict[View, IndexCells]:
    """The cells of each index there is; ``mms`` are the address spaces of ``vmas``, None for all."""
    return {view: _cells(context, view, entries, vmas, mms) for view, entries in context.views.indices().items()}


def _cells(
    context: Context, view: View, entries: IndexEntries, vmas: ComparedVmas, mms: NDArray[np.uint64] | None
) -> IndexCells:
    """The cells of one index, whose ``entries`` are sorted by mm; where it has a VMA twice, its first entry counts."""
    if mms is not None:
        entries = entries.take(rows_with_mm(entries.mm, mms))
    views = context.views
    count = len(views.vmas) + 1
    known = _pair(views.mm_rows(entries.mm), entries.vma_row, count)
    order = sort_order(known)
    known, wanted = known[order], _pair(vmas.mm_row, vmas.vma_row, count)
    row = np.where(vmas.vma_row >= 0, rows_of(known, wanted), -1)
    held, row = row >= 0, values_at(order, row, fill=-1)
    low, high = values_at(entries.start, row), values_at(entries.end, row)
    # Only the maple tree has bounds of its own: those of the others are the VMA's.
    other = held & ((low != vmas.start) | (high != vmas.end)) & (view is View.MAPLE)
    whole = context.whole(view, vmas.mm)
    return IndexCells.of(
        state=np.select([held & ~other, other | whole], [CellState.HELD, CellState.MISSING], CellState.UNREAD),
        slot=values_at(entries.slot, row),
        other_range=other,
        low=low,
        high=high,
    )


def _pair(mm_row: I32 | I64, vma_row: I32 | I64, count: int) -> I64:
    """One number for a memory map and a VMA of ``views.vmas``, which has ``count - 1`` rows."""
    return (mm_row.astype(np.int64) + 1) * count + vma_row + 1
