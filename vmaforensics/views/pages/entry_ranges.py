"""Which of the page-table entries lie in which ranges of addresses, a batch of entries at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.views.pages.ptes import Ptes, place_keys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.columns.types import I64, U64
    from vmaforensics.views.pages.entries import Entries
    from vmaforensics.views.pages.ptes import Rows


class Part(NamedTuple):
    """Some entries, and the ranges that have some of them."""

    ptes: Ptes
    ranges: I64  # numbers of the ranges
    low: I64  # of each, its first entry among ``ptes``
    high: I64  # one past the last


def in_ranges(entries: Entries, mm_rows: Rows, starts: U64, ends: U64) -> Iterator[Part]:
    """Look at all entries once. Ranges may be in any order and lie in each other; a row of -1 is no mm."""
    lowest, highest = place_keys(entries.arch, mm_rows, starts), place_keys(entries.arch, mm_rows, ends)
    order = np.argsort(lowest, kind="stable")
    order = order[(highest[order] > lowest[order]) & (mm_rows[order] >= 0)]
    lowest, highest = lowest[order], highest[order]
    reach = np.maximum.accumulate(highest)

    def part(ptes: Ptes) -> Part:
        keys = place_keys(entries.arch, ptes.mm_row, ptes.va)
        # Ranges that begin behind these entries have none of them, nor have those before which all end too early.
        some = slice(int(np.searchsorted(reach, keys[0], "right")), int(np.searchsorted(lowest, keys[-1], "right")))
        low, high = np.searchsorted(keys, lowest[some]), np.searchsorted(keys, highest[some])
        held = np.flatnonzero(high > low)
        return Part(ptes, order[some][held], low[held], high[held])

    for _, found in entries.each(part):
        yield found
