"""Anonymous frames that one page-table page maps twice in one address space.

A page that is anonymous, and not KSM's, has one address in an address space: that of its anon_vma and index. mremap
takes the entry of the old address away before it makes that of the new one (move_ptes, mm/mremap.c); a write fault,
swap and migration change an entry in place. So of two entries of one table that lead to one such frame, the one that is
not where the frame belongs was put there by hand. Both lie in one page of memory and were read together: no process
that ran while its memory was read leaves that behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import PteState
from vmaforensics.columns.lookup import composite_key, rows_of, sort_order, values_at

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64, Bools
    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.pages.ptes import Ptes

_FRAME_BITS = 40


def twice_mapped(view: PageTablesView, rows: I64, marked: I64) -> I64:
    """For each of ``rows`` of the entries another entry of the same table for the same anonymous frame; -1 for none.

    ``marked`` are all entries that disagree with their VMA: they prove nothing.
    """
    wrong = view.entries.take(rows)
    tables = np.unique(view.arch.page_bases(wrong.where))
    at, ptes = view.entries.in_tables(tables)
    rightful = _single(view, ptes) & np.isin(ptes.pfn, wrong.pfn) & ~np.isin(at, marked)
    at, ptes = at[rightful], ptes.take(rightful)
    key = composite_key(rows_of(tables, view.arch.page_bases(ptes.where)), ptes.pfn, _FRAME_BITS)
    order = sort_order(key)
    own = rows_of(tables, view.arch.page_bases(wrong.where))
    found = rows_of(key[order], composite_key(own, wrong.pfn, _FRAME_BITS))
    return np.where(_single(view, wrong), values_at(at[order], found, -1), -1)


def _single(view: PageTablesView, ptes: Ptes) -> Bools:
    """Which entries map one anonymous page that has one address?"""
    pages = view.pages
    single: Bools = (ptes.level == 1) & (ptes.state == PteState.PRESENT) & (ptes.page_row >= 0)
    single &= values_at(pages.ok & pages.anon & ~pages.ksm, ptes.page_row)
    return single
