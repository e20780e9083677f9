"""Page tables that are none: a walk was led into memory that, by its ``struct page``, is used for something else.

Tables of the two lowest levels bear the page type "table" in every kernel with BTF (pagetable_pte_ctor and
pagetable_pmd_ctor, include/linux/mm.h); those above them do not in all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.arch.page_tables import ALLOW_USER, PteState
from vmaforensics.columns.lookup import composite_key, covering_rows, distinct, sort_order
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.views.pages.page_types import PageReader, type_code

if TYPE_CHECKING:
    from vmaforensics.arch.page_tables import Leaves, LowestTables, TablePages
    from vmaforensics.columns.types import U64, Bools
    from vmaforensics.kernel.kernel import Kernel

_MARKED_LEVELS = (1, 2)
_ENOUGH = 16  # tables that are marked prove that they are
_SWAP_TYPES = 32  # 1 << MAX_SWAPFILES_SHIFT
_BATCH = 1024  # tables whose entries are read at once
_ADDRESS_BITS = 45  # of a page number in the user half


class Strangers(NamedTuple):
    """Which tables are not marked as such, and what of them is foreign memory."""

    tables: Bools  # of the tables
    foreign: Bools  # of the tables; False for what was made by hand: each of its entries could be one
    large: Bools  # of the leaves above the lowest level: they lie in foreign memory
    lowest: Bools  # of the tables of the lowest level: so do they


def find_strangers(kernel: Kernel, tables: TablePages, large: Leaves, lowest: LowestTables) -> Strangers:
    """What of a walk of user page tables lies outside of page tables: of all ``tables``, of the ``large`` leaves, those
    above the lowest level, and of the ``lowest`` tables. ``owner`` is the same in all."""
    strange, none = _unmarked(kernel, tables), np.zeros(len(large), np.bool_)
    if not strange.any():
        return Strangers(strange, strange, none, np.zeros(len(lowest), np.bool_))
    pages = _impossible_pages(kernel, large, lowest, tables.pa[strange])
    foreign = strange & _impossible(kernel, pages, tables, strange)
    inside, beneath = none, np.zeros(len(lowest), np.bool_)
    for level in _MARKED_LEVELS:
        there = tables.take(foreign & (tables.level == level))
        inside |= _below(kernel, there, large)
        beneath |= _below(kernel, there, lowest)
    return Strangers(strange, foreign, inside, beneath)


def _unmarked(kernel: Kernel, tables: TablePages) -> Bools:
    """Which of ``tables`` should be marked and are not; none where the image does not say."""
    none = np.zeros(len(tables), np.bool_)
    code = type_code(kernel, "table")
    asked = np.flatnonzero(tables.ok & np.isin(tables.level, _MARKED_LEVELS))
    try:
        rows, ok = PageReader(kernel).read(kernel.arch.pages(tables.pa[asked]))
    except KernelNotFoundError:
        return none
    if code is None:
        return none
    marked = code.matches(rows.page_type)
    unmarked = asked[ok & ~marked]
    if int(marked.sum()) < min(_ENOUGH, len(unmarked)):
        return none
    none[unmarked] = True
    return none


def _impossible_pages(kernel: Kernel, large: Leaves, lowest: LowestTables, among: U64) -> U64:
    """Which of the tables at the addresses ``among`` hold words that no entry of a user's table would be."""
    arch = kernel.arch
    frames = int(kernel.memory.ranges.max(initial=0)) >> arch.page_shift
    asked = lowest.take(np.isin(lowest.pa, among))
    of_lowest = (
        arch.read_lowest(kernel.memory, asked.take(slice(low, low + _BATCH))).leaves
        for low in range(0, len(asked), _BATCH)
    )
    found = []
    for leaves in (large.take(np.isin(arch.page_bases(large.where), among)), *of_lowest):
        meaning = arch.decode(leaves, _SWAP_TYPES)
        entry = (meaning.state == PteState.PRESENT) & ((leaves.allow & ALLOW_USER) != 0) & (meaning.pfn < frames)
        found.append(distinct(arch.page_bases(leaves.where[~entry])))
    return np.concatenate(found)


def _impossible(kernel: Kernel, pages: U64, tables: TablePages, among: Bools) -> Bools:
    """Which of ``tables`` are in impossible ``pages`` or lead to what is no memory; only those ``among`` are."""
    impossible: Bools = np.isin(tables.pa, pages)
    # What a word of an upper table leads to has to be memory.
    lost = tables.take(~tables.ok & (tables.level == 1))
    for row in np.flatnonzero(among & (tables.level > 1)).tolist():
        mine = tables.take(slice(row, row + 1))
        impossible[row] |= bool(((lost.owner == mine.owner) & _spanned(kernel, mine, lost)).any())
    return impossible


def _spanned(kernel: Kernel, table: TablePages, others: TablePages) -> Bools:
    """Which of ``others`` lie in what the one ``table`` maps."""
    end = table.va + kernel.arch.table_span(table.level)
    spanned: Bools = (others.va >= table.va) & (others.va < end)
    return spanned


def _below(kernel: Kernel, tables: TablePages, leaves: Leaves | LowestTables) -> Bools:
    """Which of ``leaves``, or of other tables, lie in what ``tables``, of one level, map."""
    shift = np.uint64(kernel.arch.page_shift)
    end = tables.va + kernel.arch.table_span(tables.level) - np.uint64(1)
    starts = composite_key(tables.owner, tables.va >> shift, _ADDRESS_BITS)
    ends = composite_key(tables.owner, end >> shift, _ADDRESS_BITS) + np.uint64(1)
    order = sort_order(starts)
    wanted = composite_key(leaves.owner, leaves.va >> shift, _ADDRESS_BITS)
    inside: Bools = covering_rows(starts[order], ends[order], wanted) >= 0
    return inside
