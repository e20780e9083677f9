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
    from vmaforensics.columns.types import I64
    from vmaforensics.views.pages.page_tables import PageTablesView

_TABLE_BITS = 12  # entries of one page of memory were read together
_FRAME_BITS = 40


def twice_mapped(view: PageTablesView, rows: I64, marked: I64) -> I64:
    """For each of ``rows`` of the entries another entry of the same table for the same anonymous frame; -1 for none.

    ``marked`` are all entries that disagree with their VMA: they prove nothing.
    """
    ptes, pages = view.ptes, view.pages
    single = (ptes.level == 1) & (ptes.state == PteState.PRESENT) & (ptes.page_row >= 0)
    single &= values_at(pages.ok & pages.anon & ~pages.ksm, ptes.page_row)
    single &= np.isin(ptes.pfn, ptes.pfn[rows])
    rightful = single.copy()
    rightful[marked] = False
    at = np.flatnonzero(rightful)
    page = ptes.where >> np.uint64(_TABLE_BITS)
    pages_of = np.unique(page[at])
    key = composite_key(rows_of(pages_of, page[at]), ptes.pfn[at], _FRAME_BITS)
    order = sort_order(key)
    own = rows_of(pages_of, page[rows])
    found = rows_of(key[order], composite_key(own, ptes.pfn[rows], _FRAME_BITS))
    return np.where((own >= 0) & single[rows], values_at(at[order], found, -1), -1)
