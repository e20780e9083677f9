"""The table that only an image has and no document: page-table entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import PteState
from vmaforensics.columns.lookup import values_at
from vmaforensics.query.tables import PTES
from vmaforensics.words.permissions import entry_permissions
from vmaforensics.words.printable import comm_of, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.views.views import Views

_STATES = {PteState.PRESENT: "present", PteState.PROTNONE: "prot_none", PteState.SWAP: "swap"}


def ptes_table(views: Views) -> NDArray[np.void]:
    """A row for every leaf entry of the page tables of every process; see ``tables.PTES``."""
    view = views.page_tables
    if view is None:
        return np.zeros(0, PTES)
    ptes, pages, mms = view.ptes, view.pages, views.mms
    rows = np.zeros(len(ptes), PTES)
    comms = np.array([printable(comm_of(raw)) for raw in mms.comm.tolist()], object)
    rows["pid"], rows["comm"], rows["mm"] = mms.pid[ptes.mm_row], comms[ptes.mm_row], mms.mm[ptes.mm_row]
    rows["va"], rows["pages"], rows["level"] = ptes.va, ptes.pages(view.arch), ptes.level
    states = np.array([_STATES.get(PteState(number), "other") for number in range(len(PteState))], object)
    rows["state"] = states[ptes.state]
    allowed = [[entry_permissions(allow, present=present) for allow in range(8)] for present in (False, True)]
    rows["perms"] = np.array(allowed, object)[(ptes.state == PteState.PRESENT).astype(np.int64), ptes.allow & 7]
    rows["entry"], rows["at"], rows["pfn"] = ptes.entry, ptes.where, ptes.pfn
    page = ptes.page_row.astype(np.int64)
    rows["anon"] = values_at(pages.anon, page)
    rows["mapcount"], rows["refcount"] = values_at(pages.mapcount, page), values_at(pages.refcount, page)
    rows["mapping"] = values_at(pages.mapping, page)
    rows["page_index"] = values_at(pages.index, page).view(np.int64)
    vma_row = values_at(view.ranges.vma_row, ptes.range_row, -1)
    rows["vma"] = values_at(views.vmas.vma, vma_row)
    return rows
