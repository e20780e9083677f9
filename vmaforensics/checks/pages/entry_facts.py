"""What the rules go by that look at every page-table entry: one pass over them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.checks.pages.entry_sums import EntrySums
from vmaforensics.checks.pages.page_marks import entry_marks

if TYPE_CHECKING:
    from vmaforensics.checks.context import Context
    from vmaforensics.columns.types import I64, U32
    from vmaforensics.views.pages.ptes import Ptes


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

    for first, facts in view.entries.each(look):
        rows.append(facts.marked + first)
        words.append(facts.word)
        sums.add(facts.cell, facts.added)
    return EntryFacts(row=np.concatenate(rows), word=np.concatenate(words), sums=sums)
