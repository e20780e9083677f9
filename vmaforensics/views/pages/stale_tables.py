"""Page tables that are none: a walk was led into memory that, by its ``struct page``, is used for something else.

Tables of the two lowest levels bear the page type "table" in every kernel with BTF (pagetable_pte_ctor and
pagetable_pmd_ctor, include/linux/mm.h); those above them do not in all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.arch.page_tables import ALLOW_USER, PteState
from vmaforensics.columns.lookup import composite_key, covering_rows, sort_order
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.views.pages.page_types import PageReader, type_code

if TYPE_CHECKING:
    from vmaforensics.arch.page_tables import Leaves, TablePages
    from vmaforensics.columns.types import Bools
    from vmaforensics.kernel.kernel import Kernel

_MARKED_LEVELS = (1, 2)
_ENOUGH = 16  # tables that are marked prove that they are
_SWAP_TYPES = 32  # 1 << MAX_SWAPFILES_SHIFT
_ADDRESS_BITS = 45  # of a page number in the user half


class Strangers(NamedTuple):
    """Which tables are not marked as such, and what of them is foreign memory."""

    tables: Bools  # of the tables
    foreign: Bools  # of the tables; False for what was made by hand: each of its entries could be one
    leaves: Bools  # of the leaves: they lie in foreign memory


def find_strangers(kernel: Kernel, leaves: Leaves, tables: TablePages) -> Strangers:
    """What of a walk of user page tables lies outside of page tables. ``owner`` is the same in both."""
    strange = _unmarked(kernel, tables)
    if not strange.any():
        return Strangers(strange, strange, np.zeros(len(leaves), np.bool_))
    foreign = strange & _impossible(kernel, leaves, tables, strange)
    inside = np.zeros(len(leaves), np.bool_)
    for level in _MARKED_LEVELS:
        inside |= _below(kernel, tables.take(foreign & (tables.level == level)), leaves)
    return Strangers(strange, foreign, inside)


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


def _impossible(kernel: Kernel, leaves: Leaves, tables: TablePages, among: Bools) -> Bools:
    """Which of ``tables`` hold words that no entry of a user's table would be; only those ``among`` are looked at."""
    page_bases = kernel.arch.page_bases
    inside = leaves.take(np.isin(page_bases(leaves.where), tables.pa[among]))
    meaning = kernel.arch.decode(inside, _SWAP_TYPES)
    frames = int(kernel.memory.ranges.max(initial=0)) >> kernel.arch.page_shift
    entry = (meaning.state == PteState.PRESENT) & ((inside.allow & ALLOW_USER) != 0) & (meaning.pfn < frames)
    impossible: Bools = np.isin(tables.pa, page_bases(inside.where[~entry]))
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


def _below(kernel: Kernel, tables: TablePages, leaves: Leaves) -> Bools:
    """Which of ``leaves`` lie in what ``tables``, of one level, map."""
    shift = np.uint64(kernel.arch.page_shift)
    end = tables.va + kernel.arch.table_span(tables.level) - np.uint64(1)
    starts = composite_key(tables.owner, tables.va >> shift, _ADDRESS_BITS)
    ends = composite_key(tables.owner, end >> shift, _ADDRESS_BITS) + np.uint64(1)
    order = sort_order(starts)
    wanted = composite_key(leaves.owner, leaves.va >> shift, _ADDRESS_BITS)
    inside: Bools = covering_rows(starts[order], ends[order], wanted) >= 0
    return inside
