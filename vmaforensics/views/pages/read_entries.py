"""Page-table entries that are read from the image whenever somebody asks for them."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from vmaforensics.columns.lookup import bounds_of, distinct, sort_order, values_at
from vmaforensics.columns.ragged import expand
from vmaforensics.columns.runs import begins_run, run_numbers, run_starts
from vmaforensics.views.pages.entries import BATCH, Batch, Chosen, Entries
from vmaforensics.views.pages.ptes import Ptes, place_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmaforensics.arch.interface import Architecture
    from vmaforensics.arch.page_tables import LowestTables
    from vmaforensics.columns.types import I32, I64, U64, U64Wide
    from vmaforensics.image.limits import Limits

R = TypeVar("R")

MOST_TABLES = 1 << 10  # read at once: 4 MiB
_MANY = 64  # entries of a table; to find out that fewer have been looked at takes as long as looking at them
ENTRY_BYTES = 256  # that looking at an entry takes


class Equal(NamedTuple):
    """Tables of the lowest level by number, ascending, and of each the first that holds the same."""

    tables: I64
    first: I64


NONE_EQUAL = Equal(np.zeros(0, np.int64), np.zeros(0, np.int64))


class _Piece(NamedTuple):
    """The entries with the rows ``[row, stop)``; those of the lowest level are in the tables ``[first, last)``."""

    first: int
    last: int
    row: int
    stop: int


class ReadEntries(Entries):
    """Entries of which the tables of the lowest level are read again for each look.

    ``tables``, by mm and address, hold ``counts`` entries each, at least one; ``large`` are all entries above the
    lowest level. ``read`` gives the entries of some tables that hold so many each, side by side. ``digests`` tell which
    tables hold the same, as of :class:`LowestEntries`.
    """

    def __init__(
        self,
        arch: Architecture,
        tables: LowestTables,
        counts: I64,
        large: Ptes,
        read: Callable[[LowestTables, I64], Ptes],
        limits: Limits,
        digests: U64Wide | None = None,
    ) -> None:
        super().__init__(arch)
        self._digests = digests
        self._limits, self._batch = limits, limits.batch(ENTRY_BYTES, BATCH)
        self._tables, self._counts, self._large, self._read = tables, counts, large, read
        self._keys = place_keys(arch, tables.owner, tables.va)
        self._before = np.concatenate([[0], np.cumsum(counts)])  # entries of the tables before each table
        self._large_keys = place_keys(arch, large.mm_row, large.va)
        self._large_rows = self._before[np.searchsorted(self._keys, self._large_keys)] + np.arange(len(large))
        # Row of the first entry of each table.
        self._first = self._before[:-1] + np.searchsorted(self._large_keys, self._keys, "right")
        self._pages = arch.pages(arch.table_span(np.array([1], np.int8)))[0]  # that a table of the lowest level maps

    def __len__(self) -> int:
        return int(self._before[-1]) + len(self._large)

    def large(self) -> Ptes:
        return self._large

    def rows_of(self, lowest: I64, large: I64) -> I64:
        """The rows, ascending, of entries numbered among those of the lowest level, ascending, and among the large."""
        table = np.searchsorted(self._before, lowest, "right") - 1
        rows = lowest - values_at(self._before, table) + values_at(self._first, table)
        return np.sort(np.concatenate([rows, self._large_rows[large]])) if len(large) else rows

    def between(self, first: int, last: int) -> Iterator[Batch]:
        for piece in self._pieces(first, last):
            yield Batch(piece.row, self._stretch(piece))

    def each(self, work: Callable[[Ptes], R], without: I64 | None = None) -> Iterator[tuple[int, R]]:
        def worked(piece: _Piece) -> tuple[int, R]:
            return piece.row, work(self._stretch(piece))

        spans = self._spans(without).tolist()
        yield from self._limits.each(worked, chain.from_iterable(self._pieces(first, last) for first, last in spans))

    def equal_tables(self, alike: Callable[[LowestTables], I64]) -> Equal:
        """The tables of the lowest level that hold what one before them holds, byte by byte but for accessed and dirty
        bits, and that ``alike`` gives the same number, which is not -1. Those with few entries are left out."""
        if self._digests is None:
            return NONE_EQUAL
        many = np.flatnonzero(self._counts >= _MANY).astype(np.int64)
        number = alike(self._tables.take(many))
        many, number = many[number >= 0], number[number >= 0]
        keys = (*self._digests[many].T, self._counts[many], number)
        order = sort_order(*keys)
        begins = begins_run(*(key[order] for key in keys))
        again = np.flatnonzero(~begins)
        tables = many[order[again]]
        sooner = np.argsort(tables, kind="stable")
        first = many[order[run_starts(begins)[run_numbers(begins)[again]]]]
        return Equal(tables[sooner], first[sooner])

    def rows_in(self, tables: I64) -> I64:
        """The rows ``[first, last)`` of the entries of each of some tables, shape (n, 2)."""
        return np.stack([self._first[tables], self._first[tables] + self._counts[tables]], axis=1)

    def owners(self, tables: I64) -> I32:
        """The row of the mm of each of some tables."""
        return self._tables.owner[tables]

    def of_tables(self, tables: I64) -> Iterator[tuple[int, I64, Ptes]]:
        """The entries of some tables at a time: how many tables, of each entry which of them it is in, the entries."""
        for low in range(0, len(tables), MOST_TABLES):
            part = tables[low : low + MOST_TABLES]
            yield len(part), expand(self._counts[part])[0], self._read(self._tables.take(part), self._counts[part])

    def _pieces(self, first: int, last: int) -> Iterator[_Piece]:
        """The entries with the rows ``[first, last)``, some at a time."""
        many, row = len(self._tables), first
        table = max(int(np.searchsorted(self._first, row, "right")) - 1, 0)
        behind = int(np.searchsorted(self._first, last))
        while row < last:
            until = many
            if table < many:
                until = int(np.searchsorted(self._before, self._before[table] + self._batch, "right")) - 1
            until = min(max(until, table + 1), table + MOST_TABLES, behind)
            stop = min(int(self._first[until]) if until < behind else last, last)
            yield _Piece(table, until, row, stop)
            row, table = stop, until

    def take(self, rows: I64 | slice) -> Ptes:
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            return Ptes.concatenate([batch.ptes for batch in self.between(start, stop)])
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        at = np.searchsorted(self._large_rows, ascending)
        is_large = at < len(self._large)
        is_large[is_large] = self._large_rows[at[is_large]] == ascending[is_large]
        found = [self._large.take(at[is_large]), *self._of_lowest(ascending[~is_large])]
        back = np.empty(len(rows), np.int64)
        back[order[np.concatenate([np.flatnonzero(is_large), np.flatnonzero(~is_large)])]] = np.arange(len(rows))
        return Ptes.concatenate(found).take(back)

    def below(self, keys: U64) -> I64:
        table = np.searchsorted(self._keys, keys, "right") - 1
        count = np.where(table >= 0, self._before[table + 1], 0)
        into = keys - values_at(self._keys, table)
        # Tables that the place lies in have to be looked at.
        asked = np.flatnonzero((table >= 0) & (into < self._pages))
        count[asked] = self._before[table[asked]]
        asked = asked[into[asked] > 0]
        wanted, which = np.unique(table[asked], return_inverse=True)
        for low in range(0, len(wanted), MOST_TABLES):
            some = wanted[low : low + MOST_TABLES]
            ptes = self._read(self._tables.take(some), self._counts[some])
            mine = asked[(which >= low) & (which < low + MOST_TABLES)]
            place = np.searchsorted(place_keys(self.arch, ptes.mm_row, ptes.va), keys[mine])
            begins = np.cumsum(self._counts[some]) - self._counts[some]
            count[mine] += place - begins[np.searchsorted(some, table[mine])]
        return count + np.searchsorted(self._large_keys, keys)

    def in_tables(self, tables: U64) -> Chosen:
        at = np.flatnonzero(np.isin(self._tables.pa, tables))
        which, place = expand(self._counts[at])
        large = np.isin(self.arch.page_bases(self._large.where), tables)
        rows = np.sort(np.concatenate([self._first[at[which]] + place, self._large_rows[large]]))
        return Chosen(rows, self.take(rows))

    def tables_of(self, mm_row: int) -> U64:
        mine = slice(*bounds_of(self._tables.owner, mm_row))
        above = self._large.where[slice(*bounds_of(self._large.mm_row, mm_row))]
        return distinct(np.concatenate([self._tables.pa[mine], self.arch.page_bases(above)]))

    def _stretch(self, piece: _Piece) -> Ptes:
        """The entries of a piece."""
        first, last, row, stop = piece
        low, high = np.searchsorted(self._large_rows, [row, stop]).tolist()
        # Of the entries in these tables, those that are asked for.
        begin, end = row - low - int(self._before[first]), stop - high - int(self._before[first])
        ptes = self._read(self._tables.take(slice(first, last)), self._counts[first:last])
        if begin > 0 or end < len(ptes):
            ptes = ptes.take(slice(max(begin, 0), end))
        if low == high:
            return ptes
        table, place = expand(self._counts[first:last])
        rows = (self._first[first:last][table] + place)[max(begin, 0) : end]
        order = np.argsort(np.concatenate([rows, self._large_rows[low:high]]), kind="stable")
        return Ptes.concatenate([ptes, self._large.take(slice(low, high))]).take(order)

    def _of_lowest(self, rows: I64) -> Iterator[Ptes]:
        """Entries of the lowest level by number, ascending."""
        table = np.searchsorted(self._first, rows, "right") - 1
        wanted = distinct(table)
        for low in range(0, len(wanted), MOST_TABLES):
            some = wanted[low : low + MOST_TABLES]
            mine = slice(*np.searchsorted(table, [some[0], some[-1] + 1]).tolist())
            begins = np.cumsum(self._counts[some]) - self._counts[some]
            at = begins[np.searchsorted(some, table[mine])] + rows[mine] - self._first[table[mine]]
            yield self._read(self._tables.take(some), self._counts[some]).take(at)
