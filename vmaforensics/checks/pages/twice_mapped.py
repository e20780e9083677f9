"""Anonymous frames that page tables of one address space map twice.

A page that is anonymous, and not KSM's, has one address in an address space: that of its anon_vma and index. mremap
takes the entry of the old address away before it makes that of the new one (move_ptes, mm/mremap.c); a write fault,
swap and migration change an entry in place. So of two entries that lead to one such frame, the one that is not where
the frame belongs was put there by hand. If both lie in one table, they were read together: no process that ran while
its memory was read leaves that behind.

But KSM lets entries of equal pages lead to one frame, which was an anonymous page until then (try_to_merge_one_page,
mm/ksm.c): its struct page may have been read before. All of these entries are read-only (write_protect_page;
replace_page takes the permissions of a private VMA), in address spaces that have a mergeable VMA.

If they lie in two tables, the frame may have changed hands between both readings. Not so if the other entry was read
between the rightful one and the struct page, which names the place of the rightful one: the frame would have had to
leave it and to come back to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import ALLOW_WRITE, PteState
from vmaforensics.columns.lookup import composite_key, distinct, rows_of, sort_order, values_at
from vmaforensics.views.vmas.flags import VM_MERGEABLE

if TYPE_CHECKING:
    from vmaforensics.checks.context import Context
    from vmaforensics.columns.types import I64, Bools
    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.pages.ptes import Ptes

BELONGED = (
    "this entry was read between the one that maps the frame where it belongs and the struct page, which says that it "
    "belongs there"
)
_FRAME_BITS = 40


def mergeable_mms(context: Context) -> I64:
    """Rows of the mms that pages of KSM may be mapped in; these name no VMA that they belong to."""
    vmas = context.views.vmas
    rows = distinct(context.views.mm_rows(vmas.mm[vmas.ok & ((vmas.flags & np.uint64(VM_MERGEABLE)) != 0)]))
    return rows[rows >= 0]


def twice_mapped(context: Context, view: PageTablesView, rows: I64, marked: I64) -> I64:
    """For each of ``rows`` of the entries another entry of the same table for the same anonymous frame; -1 for none.

    ``marked`` are all entries that disagree with their VMA: they prove nothing. Nor do those that lie in no VMA.
    """
    wrong = view.entries.take(rows)
    tables = distinct(view.arch.page_bases(wrong.where))
    at, ptes = view.entries.in_tables(tables)
    rightful = _single(view, ptes) & np.isin(ptes.pfn, wrong.pfn) & ~np.isin(at, marked)
    at, ptes = at[rightful], ptes.take(rightful)
    rightful = _in_anonymous(context, view, ptes)
    at, ptes = at[rightful], ptes.take(rightful)
    key = composite_key(rows_of(tables, view.arch.page_bases(ptes.where)), ptes.pfn, _FRAME_BITS)
    order = sort_order(key)
    own = rows_of(tables, view.arch.page_bases(wrong.where))
    found = rows_of(key[order], composite_key(own, wrong.pfn, _FRAME_BITS))
    merged = np.isin(wrong.mm_row, context.shared(mergeable_mms)) & ((wrong.allow & ALLOW_WRITE) == 0)
    merged &= values_at((ptes.allow[order] & ALLOW_WRITE) == 0, found)
    return np.where(_single(view, wrong) & ~merged, values_at(at[order], found, -1), -1)


def mapped_around(context: Context, view: PageTablesView, rows: I64, marked: I64) -> I64:
    """As :func:`twice_mapped`, an entry of another table of the same address space: by the order of reading.

    It lies where the page says that it belongs, in a VMA that nobody has moved. None is found in an image whose order
    of reading is not known.
    """
    none, clocks = np.full(len(rows), -1, np.int64), context.acquisition.clocks
    if clocks is None or context.acquisition.times is None or not len(rows):
        return none
    wrong, arch = view.entries.take(rows), view.arch
    single = _single(view, wrong)
    va = arch.bytes_of(values_at(view.pages.index, wrong.page_row))
    other = view.entries.rows_at(wrong.mm_row, va)
    there = view.entries.take(np.maximum(other, 0))
    in_vma = _in_anonymous(context, view, there)
    single &= (other >= 0) & _single(view, there) & in_vma & (there.pfn == wrong.pfn) & ~np.isin(other, marked)
    says = clocks.places.each_frame(arch.bytes_of(wrong.pfn))
    between = (np.minimum(there.where, says) < wrong.where) & (wrong.where < np.maximum(there.where, says))
    return np.where(single & between, other, none)


def _in_anonymous(context: Context, view: PageTablesView, ptes: Ptes) -> Bools:
    """Which entries lie in a VMA, by its own words, that has anonymous pages?"""
    vmas = context.views.vmas
    vma = values_at(view.ranges.vma_row, ptes.range_row, -1).astype(np.int64)
    inside: Bools = values_at(vmas.ok & (vmas.anon_vma != 0), vma)
    inside &= (values_at(vmas.start, vma) <= ptes.va) & (ptes.va < values_at(vmas.end, vma))
    return inside


def _single(view: PageTablesView, ptes: Ptes) -> Bools:
    """Which entries map one anonymous page that has one address?"""
    pages = view.pages
    single: Bools = (ptes.level == 1) & (ptes.state == PteState.PRESENT) & (ptes.page_row >= 0)
    single &= values_at(pages.ok & pages.anon & ~pages.ksm, ptes.page_row)
    return single
