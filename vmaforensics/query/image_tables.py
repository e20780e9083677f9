"""The table that only an image has and no document, and that may not fit into memory: page-table entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vmaforensics.arch.page_tables import PteState
from vmaforensics.columns.lookup import values_at
from vmaforensics.query.streamed import Streamed, Texts
from vmaforensics.query.tables import PTES
from vmaforensics.words.permissions import entry_permissions
from vmaforensics.words.printable import comm_of, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.pages.ptes import Ptes
    from vmaforensics.views.views import Views

_STATES = {PteState.PRESENT: "present", PteState.PROTNONE: "prot_none", PteState.SWAP: "swap"}


def ptes_table(image: str, views: Views) -> Streamed:
    """A row for every leaf entry of the page tables of every process; see ``tables.PTES``. ``image`` is its name."""

    def batches() -> Iterator[dict[str, NDArray[Any] | Texts]]:
        view = views.page_tables
        if view is None:
            return
        for _, ptes in view.entries.batches():
            yield {"image": Texts(np.zeros(len(ptes), np.int64), [image]), **_columns(views, view, texts, ptes)}

    texts = [printable(comm_of(raw)) for raw in views.mms.comm.tolist()]
    return Streamed(PTES, batches)


def _columns(views: Views, view: PageTablesView, comms: list[str], ptes: Ptes) -> dict[str, NDArray[Any] | Texts]:
    """The columns of some entries; ``comms`` are the names of all processes."""
    pages, mms = view.pages, views.mms
    allowed = [entry_permissions(allow, present=present) for present in (False, True) for allow in range(8)]
    page, row = ptes.page_row.astype(np.int64), ptes.mm_row.astype(np.int64)
    return {
        "pid": mms.pid[row],
        "comm": Texts(row, comms),
        "mm": mms.mm[row],
        "va": ptes.va,
        "pages": ptes.pages(view.arch),
        "level": ptes.level,
        "state": Texts(ptes.state, [_STATES.get(state, "other") for state in PteState]),
        "perms": Texts(8 * (ptes.state == PteState.PRESENT) + (ptes.allow & 7).astype(np.int64), allowed),
        "entry": ptes.entry,
        "at": ptes.where,
        "pfn": ptes.pfn,
        "anon": values_at(pages.anon, page),
        "mapcount": values_at(pages.mapcount, page),
        "refcount": values_at(pages.refcount, page),
        "mapping": values_at(pages.mapping, page),
        "page_index": values_at(pages.index, page).view(np.int64),
        "vma": values_at(views.vmas.vma, values_at(view.ranges.vma_row, ptes.range_row, -1)),
    }
