"""VMAs that were cut out of the maple tree of a process that ran on, in an image that was taken while it did.

A leaf is read at one moment. If it has an empty slot where an attached VMA belongs, and :mod:`vmaforensics.checks.held`
or :mod:`vmaforensics.checks.inherited` knows that the VMA was there all the time, it was not there for whoever asked
the tree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.checks.held import HELD, OUTLIVED, held
from vmaforensics.checks.indices.maple_slots import firm, leaf_slots
from vmaforensics.checks.inherited import INHERITED, inherited_until
from vmaforensics.columns.lookup import composite_key, distinct, last_rows_of, rows_of, sort_order, values_at
from vmaforensics.columns.types import I64, U64, Bools
from vmaforensics.views.clocks.bases import SECOND
from vmaforensics.views.indices.maple_nodes import slot_addresses
from vmaforensics.views.pages.ptes import place_keys
from vmaforensics.views.slab.objects import State

if TYPE_CHECKING:
    from vmaforensics.checks.context import Context
    from vmaforensics.views.clocks.clocks import Places
    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.slab.strays import StrayVmas

WHYS = (HELD, OUTLIVED, INHERITED)
_PAGE_BITS = 45  # of the number of a page of user memory
_UNMAPS = SECOND  # ns that taking one VMA out may last


class CutOut(NamedTuple):
    """Rows of ``StrayVmas.vmas``, and the slot of the maple tree that is empty where each belongs."""

    rows: I64
    slot: U64  # its address
    why: I64  # place in WHYS


def cut_out(context: Context, found: StrayVmas) -> CutOut:
    """Those that are proven; none where the machine stood still, or nothing is known of the order of reading."""
    none = CutOut(np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.int64))
    known, clocks, times = context.shared(held), context.acquisition.clocks, context.acquisition.times
    if not context.acquisition.live or clocks is None or times is None:
        return none
    strays, mms = found.vmas, context.views.mms
    used = values_at(mms.ok & (mms.users > 0), context.views.mm_rows(strays.mm))
    rows = np.flatnonzero(found.attached & used & (found.state != State.FREE))
    slot = _empty_slots(context, strays.mm[rows], strays.start[rows], strays.end[rows])
    rows, slot = rows[slot != 0], slot[slot != 0]
    if not len(rows):
        return none
    word = clocks.places.each(slot)
    until = inherited_until(context, strays.take(rows))
    # Who unmaps it empties the slot first, and takes its chain apart when its pages are gone.
    stayed = (until > word) & (times.at(until).time - times.at(word).time >= _UNMAPS)
    why = np.where(stayed, WHYS.index(INHERITED), -1)
    if known is not None:
        vma = strays.vma[rows]
        still = _still_mapped(context, clocks.places, found, rows, word) & (found.avc[rows] != 0)
        later = np.where(still, clocks.places.each(found.avc[rows]), np.uint64(0))
        why[known.outlived(vma, word, later)] = WHYS.index(OUTLIVED)
        why[known.through(vma, word)] = WHYS.index(HELD)
    proven = why >= 0
    return CutOut(rows[proven], slot[proven], why[proven])


def _empty_slots(context: Context, mm: U64, start: U64, end: U64) -> U64:
    """Address of the empty slot that holds each range; 0 where there is none between two pivots of a leaf."""
    nodes, slots = context.views.maple_nodes, context.shared(leaf_slots)
    at = np.flatnonzero(slots.empty & firm(nodes, slots.node, slots.slot))
    names = distinct(np.concatenate([nodes.mm, mm]))
    page = np.uint64(context.views.arch.page_shift)
    keys = composite_key(np.searchsorted(names, nodes.mm[slots.node[at]]), slots.low[at] >> page, _PAGE_BITS)
    order = sort_order(keys)
    at, keys = at[order], keys[order]
    row = last_rows_of(keys, composite_key(np.searchsorted(names, mm), start >> page, _PAGE_BITS))
    slot = values_at(at, row, -1)
    if not len(at):
        return np.zeros(len(mm), np.uint64)
    holds = (row >= 0) & (nodes.mm[slots.node[slot]] == mm)
    holds &= (slots.low[slot] <= start) & (end - np.uint64(1) <= slots.high[slot])
    return np.where(holds, slot_addresses(nodes, slots.node[slot], slots.slot[slot]), np.uint64(0))


def _still_mapped(context: Context, places: Places, found: StrayVmas, rows: I64, word: U64) -> Bools:
    """Does the struct page of a page that the process alone maps there, and that was read behind ``word``, name the
    VMA's own anon_vma and the page's place in it?

    One that a child has inherited is still mapped when its parent has let it go.
    """
    view, vmas = context.views.page_tables, found.vmas
    still = np.zeros(len(rows), np.bool_)
    if view is None:
        return still
    arch, pages, mm_row = context.views.arch, view.pages, context.views.mm_rows(vmas.mm[rows])
    keys = place_keys(arch, mm_row, vmas.start[rows])
    order = sort_order(keys)
    _, ptes = view.entries.inside(mm_row, vmas.start[rows], vmas.end[rows])
    which = order[last_rows_of(keys[order], place_keys(arch, ptes.mm_row, ptes.va))]
    own, at = rows[which], ptes.page_row
    index = vmas.anon_pgoff[own] + arch.pages(ptes.va - vmas.start[own])
    named = values_at(pages.anon_vmas(), at) == vmas.anon_vma[own]
    good = (at >= 0) & (vmas.anon_vma[own] != 0) & named & (values_at(pages.index, at) == index)
    good &= (values_at(pages.mapcount, at) == 1) & (places.each_frame(arch.bytes_of(ptes.pfn)) > word[which])
    good[good] = _entries_to(view, at[good]) == 1
    still[which[good]] = True
    return still


def _entries_to(view: PageTablesView, page_rows: I64) -> I64:
    """How many entries of all page tables lead to each of these rows of ``view.pages``."""
    rows = distinct(page_rows)
    counts = np.zeros(len(rows), np.int64)
    for _, ptes in view.entries.batches() if len(rows) else ():
        at = rows_of(rows, ptes.page_row)
        np.add.at(counts, at[at >= 0], 1)
    return counts[rows_of(rows, page_rows)]
