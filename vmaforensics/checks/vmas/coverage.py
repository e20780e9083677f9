"""Does any VMA hold this address? Many addresses of many address spaces at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import composite_key, last_rows_of, sort_order, values_at
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.columns.types import I64, U64, Bools

_KEY_BITS = 64


class _Ranges(NamedTuple):
    mm: U64
    start: U64
    end: U64
    grows: Bools  # down, as a stack does


class Coverage:
    """The VMAs of all indices together, by address space and page; ask for it with ``context.shared``.

    A VMA counts with its index range and with its own bounds, where they differ: an address is outside
    only if no record says otherwise.
    """

    def __init__(self, context: Context) -> None:
        views = context.views
        self._views, self._arch = views, views.arch
        self._page_bits = self._arch.user_page_bits
        self._most_mms = 1 << (_KEY_BITS - self._page_bits)
        parts = list(_ranges(context))
        mm, start, end, grows = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        row = views.mm_rows(mm)
        low = self._keys(row, start)
        high = self._keys(row, np.maximum(end, np.uint64(1)) - np.uint64(1))  # the last page, inclusive
        order = sort_order(low)
        order = order[((row >= 0) & (row < self._most_mms) & (high >= low))[order]]
        self._low, self._grows = low[order], grows[order]
        # Highest page so far: VMAs of a tampered map may lie in each other.
        self._reach = np.maximum.accumulate(high[order]) if len(order) else high[order]
        self._whole = views.mms.ok.copy()
        for view in views.indices():
            self._whole &= context.decoded(view, views.mms.mm)

    def whole(self, mm: U64) -> Bools:
        """Were all indices read whole for these address spaces? Only then is *outside* a fact."""
        row = self._views.mm_rows(mm)
        answer: Bools = (row < self._most_mms) & values_at(self._whole, row)
        return answer

    def holds(self, mm: U64, address: U64) -> Bools:
        """Does a VMA of ``mm`` hold the page of ``address``? Addresses of the kernel half never are held."""
        key = self._keys(self._views.mm_rows(mm), address)
        at = last_rows_of(self._low, key)
        answer: Bools = (at >= 0) & (values_at(self._reach, at) >= key) & (address < np.uint64(self._arch.user_top))
        return answer

    def gap(self, mm: U64, address: U64) -> I64:
        """A number for the gap between VMAs that each address lies in; the same gap, the same number."""
        return last_rows_of(self._low, self._keys(self._views.mm_rows(mm), address)) + 1

    def may_grow_to(self, mm: U64, address: U64, room: int) -> Bools:
        """Is the next VMA above a stack that grows down, at most ``room`` bytes above ``address``?"""
        key = self._keys(self._views.mm_rows(mm), address)
        above = last_rows_of(self._low, key) + 1
        above[above >= len(self._low)] = -1
        near = values_at(self._low, above) - key <= np.uint64(room >> self._arch.page_shift)
        answer: Bools = (above >= 0) & near & values_at(self._grows, above)
        return answer

    def _keys(self, mm_row: I64, address: U64) -> U64:
        """One number that sorts by address space, then by page."""
        return composite_key(mm_row, self._arch.pages(address), self._page_bits)


def _ranges(context: Context) -> Iterator[_Ranges]:
    """The ranges of all VMAs of all indices, by the index and, where it is another, by the VMA itself."""
    vmas = context.views.vmas
    for entries in context.views.indices().values():
        at = entries.vma_row
        grows = vmas.ok[at] & ((vmas.flags[at] & np.uint64(flags.VM_GROWSDOWN)) != 0)
        yield _Ranges(entries.mm, entries.start, entries.end, grows)
        own = vmas.ok[at] & (vmas.mm[at] == entries.mm)
        own &= (vmas.start[at] != entries.start) | (vmas.end[at] != entries.end)
        at = at[own]
        yield _Ranges(entries.mm[own], vmas.start[at], vmas.end[at], grows[own])
