"""Page-table entries that differ from those beside them of the same VMA, as only a VMA of their own would have them.

``mprotect`` (change_protection, mm/mprotect.c) changes every entry of its range, and splits the VMA where the range
ends (mprotect_fixup). A table is read at one moment. So where some entries of a VMA allow more than others beside them
in one table, the map had two VMAs there then, or the entry was written by hand. In an image that was taken while the
process ran, the VMA itself was read at another moment. If that was before, and the index has it in one piece behind the
entry, it would have had to be split and joined in between, though many changes of the map until then had passed it
over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import PteState
from vmaforensics.checks.held import held
from vmaforensics.columns.lookup import composite_key, distinct, first_rows, rows_of, values_at

if TYPE_CHECKING:
    from vmaforensics.checks.context import Context
    from vmaforensics.columns.types import I32, I64, U64, Bools
    from vmaforensics.views.pages.page_tables import PageTablesView

WHOLE = (
    "entries of the VMA beside it in the same table do not differ; the VMA was read before, its place in the index, "
    "which has it in one piece, behind, and its vm_lock_seq says that the many changes of the map until then passed it "
    "over"
)
_ROW_BITS = 40


def alone_in_table(context: Context, view: PageTablesView, rows: I64) -> Bools:
    """Which of ``rows`` of the entries, all of which disagree with their VMA in one way, are such entries of a VMA that
    was in one piece before and after; none where the machine stood still."""
    known, clocks, maple, vmas = (
        context.shared(held),
        context.acquisition.clocks,
        context.views.maple,
        context.views.vmas,
    )
    if known is None or clocks is None or maple is None or not len(rows):
        return np.zeros(len(rows), np.bool_)
    wrong = view.entries.take(rows)
    vma = values_at(view.ranges.vma_row, wrong.range_row, -1).astype(np.int64)
    address = values_at(vmas.vma, vma)
    inside = (values_at(vmas.start, vma) <= wrong.va) & (wrong.va < values_at(vmas.end, vma))
    behind = _indexed(context, vma)
    return inside & _has_others(view, rows) & known.outlived(address, wrong.where, behind)


def _has_others(view: PageTablesView, rows: I64) -> Bools:
    """Does each of ``rows`` have an entry of its table and VMA beside it that is none of them?"""
    wrong = view.entries.take(rows)
    tables = distinct(view.arch.page_bases(wrong.where))
    at, ptes = view.entries.in_tables(tables)
    fine = np.flatnonzero((ptes.level == 1) & (ptes.state == PteState.PRESENT) & (ptes.range_row >= 0))
    fine = fine[~np.isin(at[fine], rows)]

    def keys(of: I32, where: U64) -> U64:
        return composite_key(rows_of(tables, view.arch.page_bases(where)), of.astype(np.uint64), _ROW_BITS)

    found: Bools = np.isin(keys(wrong.range_row, wrong.where), keys(ptes.range_row[fine], ptes.where[fine]))
    return found & (wrong.range_row >= 0)


def _indexed(context: Context, vma: I64) -> U64:
    """Where the slot of the maple tree lies that has each VMA, a row of ``Views.vmas``, in its own bounds; 0: none."""
    maple, vmas, clocks = context.views.maple, context.views.vmas, context.acquisition.clocks
    assert maple is not None and clocks is not None
    at = maple.vma_row
    whole = (at >= 0) & (maple.start == values_at(vmas.start, at)) & (maple.end == values_at(vmas.end, at))
    rows = np.flatnonzero(whole)
    rows = rows[first_rows(at[rows])]
    slot = values_at(maple.slot[rows], rows_of(at[rows].astype(np.int64), vma))
    return np.where(slot != 0, clocks.places.each(slot), np.uint64(0))
