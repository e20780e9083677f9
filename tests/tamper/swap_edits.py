"""Labelled edits of what swap says of its slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from support import row_at

from tamper.edits import Label
from vmaforensics.arch.page_tables import PteState
from vmaforensics.checks.finding import Severity
from vmaforensics.views.pages.swap_slots import HAS_CACHE
from vmaforensics.views.pages.swap_tables import has_tables

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Edit

PAGE = 4096
_OFFSETS = (1 << 58) - 1


def _slot(edit: Edit) -> tuple[int, int]:
    """(place, address of the word) of a slot that one page-table entry names and that counts one, in the swap cache."""
    view, kernel = edit.views.swap, edit.kernel
    assert view is not None, "no swap"
    plain = (view.slots.entries == 1) & (view.slots.word == (HAS_CACHE | 1))
    assert plain.any(), "nothing is swapped"
    place = int(view.slots.place[plain][len(view.slots.place[plain]) // 2])
    head = edit.kernel.symbols.get("swap_info")
    assert head is not None
    info, offset = edit.get(head + 8 * (place >> 58)), place & _OFFSETS
    if not has_tables(kernel) or kernel.has("swap_info_struct", "swap_map"):
        return place, edit.get(edit.at("swap_info_struct", info, "swap_map")) + offset
    each = kernel.sizeof("swap_table") // 8
    clusters = edit.get(edit.at("swap_info_struct", info, "cluster_info"))
    cluster = clusters + kernel.sizeof("swap_cluster_info") * (offset // each)
    return place, edit.get(edit.at("swap_cluster_info", cluster, "table")) + 8 * (offset % each)


def slot_counts_nobody(edit: Edit) -> Label:
    """The slot of a swapped page says that nobody holds it: the kernel may give it to another."""
    place, where = _slot(edit)
    view, kernel = edit.views.page_tables, edit.kernel
    assert view is not None
    ptes = view.entries.all()
    named = ptes.state == PteState.SWAP
    named &= kernel.arch.swap_offset(ptes.entry) == np.uint64(place & _OFFSETS)
    row = row_at(ptes, int(np.flatnonzero(named)[0]))
    if kernel.has("swap_info_struct", "swap_map"):
        edit.put(where, HAS_CACHE, 1)
    else:
        edit.put(where, edit.get(where) & ((1 << 60) - 1))
    pid = int(edit.views.mms.pid[int(row.mm_row)])
    start = int(row.va)
    return Label(
        technique="slot of a swapped page counts nobody", pid=pid, start=start, end=start + PAGE, rank=Severity.MEDIUM
    )


def swap_cache_exchanged(edit: Edit) -> Label:
    """The swap cache has another page for a slot than the one that says it is the slot's."""
    place, where = _slot(edit)
    kernel, view = edit.kernel, edit.views.swap
    assert view is not None
    assert not kernel.has("swap_info_struct", "swap_map"), "the cache is another index there"
    other = int(view.cached.pfn[view.cached.place != np.uint64(place)][0])
    mine = int(view.cached.page[view.cached.place == np.uint64(place)][0])
    edit.put(where, edit.get(where) & ~((1 << 59) - 1) | other << 2 | 2)
    return Label(technique="another page in the swap cache", pid=0, start=mine, end=0, rank=Severity.MEDIUM)


SWAP_EDITS: tuple[Callable[[Edit], Label], ...] = (slot_counts_nobody, swap_cache_exchanged)
