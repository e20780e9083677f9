"""All page-table entries of all processes, by mm and address, without having them all in memory.

    for first, ptes in entries.batches():  # the row of the first, and a table of some
        swapped += np.count_nonzero(ptes.state == PteState.SWAP)
    found = entries.take(rows)

An entry has a number, its row, whether or not it is in memory. Of a table of the lowest level it is kept where it lies
and how many entries it holds; these are read whenever somebody asks (:mod:`vmaforensics.views.pages.read_entries`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.columns.ragged import expand_ranges
from vmaforensics.columns.runs import ranges_without
from vmaforensics.views.pages.ptes import Ptes, place_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmaforensics.arch.interface import Architecture
    from vmaforensics.columns.types import I64, U64
    from vmaforensics.views.pages.ptes import Rows

R = TypeVar("R")

BATCH = 1 << 18  # entries that are looked at together, at most


class Batch(NamedTuple):
    """Entries that lie side by side."""

    first: int  # row of the first
    ptes: Ptes


class Chosen(NamedTuple):
    """Some entries, ascending."""

    rows: I64
    ptes: Ptes


class Entries(ABC):
    """Leaf entries of user page tables by number: rows of :class:`Ptes` by mm and address."""

    def __init__(self, arch: Architecture) -> None:
        self.arch = arch

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, rows: I64 | slice) -> Ptes:
        """Entries by number, in the order asked for, or a stretch of them."""

    @abstractmethod
    def between(self, first: int, last: int) -> Iterator[Batch]:
        """The entries with the rows ``[first, last)`` in order, some at a time."""

    @abstractmethod
    def below(self, keys: U64) -> I64:
        """How many entries lie below each place (``place_keys``): the row of the first that does not."""

    @abstractmethod
    def in_tables(self, tables: U64) -> Chosen:
        """The entries of the page tables at these physical addresses."""

    @abstractmethod
    def tables_of(self, mm_row: int) -> U64:
        """Physical addresses of the page tables that hold the entries of an mm, ascending."""

    @abstractmethod
    def large(self) -> Ptes:
        """The entries that are not of the lowest level, such as those of huge pages."""

    def batches(self) -> Iterator[Batch]:
        """All entries in order, some at a time."""
        return self.between(0, len(self))

    def each(self, work: Callable[[Ptes], R], without: I64 | None = None) -> Iterator[tuple[int, R]]:
        """The row of the first entry of each batch, and what ``work`` makes of the batch; in order, worked on ahead.

        ``without``: ascending ranges ``[first, last)`` of rows, shape (n, 2), that are left out.
        """
        for first, last in self._spans(without).tolist():
            for low, ptes in self.between(first, last):
                yield low, work(ptes)

    def _spans(self, without: I64 | None) -> I64:
        """Ranges ``[first, last)`` of the rows that are in none of ``without``."""
        every = np.array([[0, len(self)]])
        return every if without is None else ranges_without(every, without)

    def all(self) -> Ptes:
        """All of them at once: for images known to be small."""
        return self.take(slice(0, len(self)))

    def bounds(self, mm_row: int) -> tuple[int, int]:
        """First and one past the last row of an mm."""
        if mm_row < 0:
            return 0, 0
        keys = place_keys(self.arch, np.array([mm_row, mm_row + 1]), np.zeros(2, np.uint64))
        first, last = self.below(keys).tolist()
        return first, last

    def within(self, mm_row: int, start: int, end: int) -> range:
        """Rows of the entries of an mm that map a part of ``[start, end)``."""
        if mm_row < 0 or end <= start:
            return range(0)
        mm_rows, ends = np.full(2, mm_row), np.array([start, end - 1], np.uint64)
        first, last = self.below(place_keys(self.arch, mm_rows, ends) + np.array([0, 1], np.uint64)).tolist()
        covering = int(self.rows_at(mm_rows[:1], ends[:1])[0])
        return range(covering if covering >= 0 else first, last)

    def inside(self, mm_rows: Rows, starts: U64, ends: U64) -> Chosen:
        """The entries that begin in any of these ranges of address spaces."""
        low = self.below(place_keys(self.arch, mm_rows, starts))
        high = self.below(place_keys(self.arch, mm_rows, ends))
        rows = distinct(expand_ranges(low, high)[1])
        return Chosen(rows, self.take(rows))

    def rows_at(self, mm_rows: Rows, va: U64) -> I64:
        """Row of the entry that maps each address of each mm, -1 where none does."""
        row = self.below(place_keys(self.arch, mm_rows, va) + np.uint64(1)) - 1
        known = np.flatnonzero(row >= 0)
        ptes = self.take(row[known])
        covers = (ptes.mm_row == mm_rows[known]) & (va[known] < ptes.ends(self.arch))
        found = np.full(len(row), -1, np.int64)
        found[known[covers]] = row[known[covers]]
        return found


class KeptEntries(Entries):
    """Entries that are all in memory."""

    def __init__(self, arch: Architecture, ptes: Ptes) -> None:
        super().__init__(arch)
        self._ptes = ptes

    def __len__(self) -> int:
        return len(self._ptes)

    def all(self) -> Ptes:
        """The table itself."""
        return self._ptes

    def take(self, rows: I64 | slice) -> Ptes:
        return self._ptes.take(rows)

    def between(self, first: int, last: int) -> Iterator[Batch]:
        for low in range(first, last, BATCH):
            yield Batch(low, self._ptes.take(slice(low, min(low + BATCH, last))))

    @cached_property
    def _keys(self) -> U64:
        return place_keys(self.arch, self._ptes.mm_row, self._ptes.va)

    def below(self, keys: U64) -> I64:
        return np.searchsorted(self._keys, keys).astype(np.int64)

    def in_tables(self, tables: U64) -> Chosen:
        rows = np.flatnonzero(np.isin(self.arch.page_bases(self._ptes.where), tables)).astype(np.int64)
        return Chosen(rows, self.take(rows))

    def tables_of(self, mm_row: int) -> U64:
        first, last = self.bounds(mm_row)
        return distinct(self.arch.page_bases(self._ptes.where[first:last]))

    def large(self) -> Ptes:
        return self._ptes.take(self._ptes.level > 1)
