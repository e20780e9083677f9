"""What the page-table entries of each process add up to, by kind of counter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import PteState
from vmaforensics.columns.lookup import values_at
from vmaforensics.views.pages.rss import KINDS

if TYPE_CHECKING:
    from vmaforensics.columns.types import I32, I64, U8, Bools
    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.pages.ptes import Ptes

_FILE, _ANONYMOUS, _SWAP, _SHARED = range(len(KINDS))
_NOWHERE, _UNCLEAR = len(KINDS), len(KINDS) + 1  # counted by no counter; not known by which
_CODES = len(KINDS) + 2


class EntrySums:
    """Pages that the page tables of each of ``count`` mms hold; entries are added a batch at a time.

    What counts as what: mm_counter (include/linux/mm.h); swap entries are counted where they are made
    (try_to_unmap_one, mm/rmap.c), hugetlb pages nowhere. Migration and device-private entries are counted by the page
    they stand for, which is not known here.
    """

    def __init__(self, view: PageTablesView, count: int) -> None:
        pages = view.pages
        self._arch = view.arch
        self._of_page = np.full(len(pages), _FILE, np.uint8)
        for which, code in (
            (pages.swapbacked, _SHARED),
            (pages.anon, _ANONYMOUS),
            (pages.hugetlb, _NOWHERE),
            (~pages.ok, _UNCLEAR),
        ):
            self._of_page[which] = code
        self._of_state = np.full(len(PteState), _NOWHERE, np.uint8)  # where no page is counted
        self._of_state[PteState.SWAP], self._of_state[PteState.OTHER] = _SWAP, _UNCLEAR
        self._cells = np.zeros((count, _CODES), np.int64)

    def of(self, ptes: Ptes) -> tuple[int, I64]:
        """What some entries add to: the first cell, and how much to it and to each of those behind it."""
        if not len(ptes):
            return 0, np.zeros(0, np.int64)
        first = int(ptes.mm_row[0])  # they are sorted by mm
        code = self._codes(ptes)
        cell = (ptes.mm_row - first) * np.int32(_CODES) + code
        weights = ptes.pages(self._arch) if ptes.level.max() > 1 else None
        return first * _CODES, np.bincount(cell, weights).astype(np.int64)

    def _codes(self, ptes: Ptes) -> U8:
        """What each entry counts as."""
        code = values_at(self._of_page, ptes.page_row)
        bare = np.flatnonzero((ptes.page_row < 0) | ~ptes.maps_frames())
        code[bare] = self._of_state[ptes.state[bare]]
        return code

    def of_groups(self, ptes: Ptes, group: I64, count: int) -> I64:
        """What entries of the lowest level add to the cells of an mm, for each of ``count`` groups of them."""
        cell = group * _CODES + self._codes(ptes)
        return np.bincount(cell, minlength=count * _CODES).reshape(count, _CODES)

    def add_to(self, mm_rows: I32, sums: I64) -> None:
        """Add the cells ``sums``, a row of them for each of ``mm_rows``."""
        np.add.at(self._cells, mm_rows, sums)

    def add(self, first: int, sums: I64) -> None:
        """Add what :meth:`of` said."""
        self._cells.reshape(-1)[first : first + len(sums)] += sums

    @property
    def pages(self) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        """Pages by kind of counter (``rss.KINDS``), shape (mms, kinds)."""
        return self._cells[:, : len(KINDS)]

    @property
    def unclear(self) -> Bools:
        """Which mms have entries of which it is not known what they count as."""
        return self._cells[:, _UNCLEAR] > 0
