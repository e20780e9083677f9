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
between two records that agree where the frame belongs: it would have had to leave that place and to come back to it.
Such records are the struct page, which names the place, and all entries that map the frame there: after a fork, those
of other address spaces too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import ALLOW_WRITE, PteState
from vmaforensics.columns.lookup import composite_key, distinct, rows_of, sort_order, values_at
from vmaforensics.views.vmas.flags import VM_MERGEABLE

if TYPE_CHECKING:
    from vmaforensics.checks.context import Context
    from vmaforensics.columns.types import I32, I64, Bools
    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.pages.ptes import Ptes

BELONGED = (
    "this entry was read between two records that say where its frame belongs: entries that map it there, and its "
    "struct page"
)
_FRAME_BITS, _ROW_BITS = 40, 40


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
    merged = _mergeable(context, wrong) & values_at((ptes.allow[order] & ALLOW_WRITE) == 0, found)
    return np.where(_single(view, wrong) & ~merged, values_at(at[order], found, -1), -1)


def mapped_around(context: Context, view: PageTablesView, rows: I64, marked: I64) -> I64:
    """As :func:`twice_mapped`, an entry of another table of the same address space: by the order of reading.

    It lies where the page says that it belongs, in a VMA that nobody has moved. None is found in an image whose order
    of reading is not known.
    """
    clocks = context.acquisition.clocks
    if clocks is None or context.acquisition.times is None or not len(rows):
        return np.full(len(rows), -1, np.int64)
    wrong = view.entries.take(rows)
    pages = distinct(wrong.page_row[_single(view, wrong) & ~_mergeable(context, wrong)])
    at, there = _rightful(context, view, pages, marked)
    page = rows_of(pages, there.page_row)
    says = clocks.places.each_frame(view.arch.bytes_of(view.pages.pfn[pages]))
    first, last = says.copy(), says.copy()
    np.minimum.at(first, page, there.where)
    np.maximum.at(last, page, there.where)
    own = rows_of(pages, wrong.page_row)
    between = (own >= 0) & (values_at(first, own) < wrong.where) & (wrong.where < values_at(last, own))
    # That of the address space itself is asked for: mremap takes its entries away from where their pages belong.
    keys = composite_key(page, there.mm_row.astype(np.uint64), _ROW_BITS)
    order = sort_order(keys)
    mine = rows_of(keys[order], composite_key(np.maximum(own, 0), wrong.mm_row.astype(np.uint64), _ROW_BITS))
    return np.where(between, values_at(at[order], mine, -1), -1)


def _rightful(context: Context, view: PageTablesView, pages: I64 | I32, marked: I64) -> tuple[I64, Ptes]:
    """The entries of all address spaces that map one of ``pages`` (rows of ``view.pages``, ascending) where it belongs,
    and their rows."""
    rows: list[I64] = [np.zeros(0, np.int64)]
    for first, ptes in view.entries.batches() if len(pages) else ():
        near = np.flatnonzero(rows_of(pages, ptes.page_row) >= 0)
        rows.append(near[ptes.va[near] == view.arch.bytes_of(view.pages.index[ptes.page_row[near]])] + first)
    at = np.concatenate(rows)
    at = at[~np.isin(at, marked)]
    ptes = view.entries.take(at)
    right = _single(view, ptes) & _in_anonymous(context, view, ptes)
    return at[right], ptes.take(right)


def _in_anonymous(context: Context, view: PageTablesView, ptes: Ptes) -> Bools:
    """Which entries lie in a VMA, by its own words, that has anonymous pages?"""
    vmas = context.views.vmas
    vma = values_at(view.ranges.vma_row, ptes.range_row, -1).astype(np.int64)
    inside: Bools = values_at(vmas.ok & (vmas.anon_vma != 0), vma)
    inside &= (values_at(vmas.start, vma) <= ptes.va) & (ptes.va < values_at(vmas.end, vma))
    return inside


def _mergeable(context: Context, ptes: Ptes) -> Bools:
    """Which entries may be of a page of KSM?"""
    may: Bools = np.isin(ptes.mm_row, context.shared(mergeable_mms)) & ((ptes.allow & ALLOW_WRITE) == 0)
    return may


def _single(view: PageTablesView, ptes: Ptes) -> Bools:
    """Which entries map one anonymous page that has one address?"""
    pages = view.pages
    single: Bools = (ptes.level == 1) & (ptes.state == PteState.PRESENT) & (ptes.page_row >= 0)
    single &= values_at(pages.ok & pages.anon & ~pages.ksm, ptes.page_row)
    return single
