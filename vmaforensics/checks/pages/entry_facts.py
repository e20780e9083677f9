"""What the rules go by that look at every page-table entry: one pass over them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.checks.pages.entry_sums import EntrySums
from vmaforensics.checks.pages.equal_tables import equal_tables
from vmaforensics.checks.pages.page_marks import entry_marks
from vmaforensics.columns.lookup import distinct
from vmaforensics.columns.ragged import expand_ranges
from vmaforensics.views.pages.read_entries import ReadEntries

if TYPE_CHECKING:
    from vmaforensics.checks.context import Context
    from vmaforensics.columns.types import I64, U32
    from vmaforensics.views.pages.ptes import Ptes
    from vmaforensics.views.pages.read_entries import Equal


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFacts:
    """The entries with a mark, ascending, as parallel arrays, and what all entries add up to."""

    row: I64  # of the entries
    word: U32  # bits of Mark
    sums: EntrySums


class _Facts(NamedTuple):
    """Of a batch of entries."""

    marked: I64
    word: U32
    cell: int
    added: I64


def entry_facts(context: Context) -> EntryFacts:
    """To be had with ``context.shared``: there may be hundreds of millions of entries. Of views with page tables."""
    view = context.views.page_tables
    assert view is not None
    rows, words = [np.zeros(0, np.int64)], [np.zeros(0, np.uint32)]
    sums = EntrySums(view, len(context.views.mms))

    def look(ptes: Ptes) -> _Facts:
        word = entry_marks(context.views, ptes)
        marked = np.flatnonzero(word)
        return _Facts(marked, word[marked], *sums.of(ptes))

    equal = equal_tables(context.views, view)
    without = view.entries.rows_in(equal.tables) if isinstance(view.entries, ReadEntries) else None
    for first, facts in view.entries.each(look, without):
        rows.append(facts.marked + first)
        words.append(facts.word)
        sums.add(facts.cell, facts.added)
    row, word = np.concatenate(rows), np.concatenate(words)
    if isinstance(view.entries, ReadEntries) and len(equal.tables):
        _add_sums(view.entries, equal, sums)
        row, word = _with_marks(view.entries, equal, row, word)
    return EntryFacts(row=row, word=word, sums=sums)


def _add_sums(entries: ReadEntries, equal: Equal, sums: EntrySums) -> None:
    """Add what the entries of equal tables add up to: as much as those of the first of each."""
    firsts = distinct(equal.first)
    added = np.concatenate([sums.of_groups(ptes, table, count) for count, table, ptes in entries.of_tables(firsts)])
    sums.add_to(entries.owners(equal.tables), added[np.searchsorted(firsts, equal.first)])


def _with_marks(entries: ReadEntries, equal: Equal, row: I64, word: U32) -> tuple[I64, U32]:
    """The rows of entries with marks, and these, with those of equal tables."""
    source, target = entries.rows_in(equal.first), entries.rows_in(equal.tables)
    low, high = np.searchsorted(row, source[:, 0]), np.searchsorted(row, source[:, 1])
    which, at = expand_ranges(low, high)
    row = np.concatenate([row, row[at] - source[which, 0] + target[which, 0]])
    order = np.argsort(row, kind="stable")
    return row[order], np.concatenate([word, word[at]])[order]
