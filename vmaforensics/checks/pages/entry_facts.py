"""What the rules go by that look at every page-table entry: one pass over them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.pages.entry_sums import EntrySums
from vmaforensics.checks.pages.page_marks import entry_marks

if TYPE_CHECKING:
    from vmaforensics.checks.context import Context
    from vmaforensics.columns.types import I64, U32


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFacts:
    """The entries with a mark, ascending, as parallel arrays, and what all entries add up to."""

    row: I64  # of the entries
    word: U32  # bits of Mark
    sums: EntrySums


def entry_facts(context: Context) -> EntryFacts:
    """To be had with ``context.shared``: there may be hundreds of millions of entries. Of views with page tables."""
    view = context.views.page_tables
    assert view is not None
    rows, words = [np.zeros(0, np.int64)], [np.zeros(0, np.uint32)]
    sums = EntrySums(view, len(context.views.mms))
    for first, ptes in view.entries.batches():
        word = entry_marks(context.views, ptes)
        marked = np.flatnonzero(word)
        rows.append(marked + first)
        words.append(word[marked])
        sums.add(ptes)
    return EntryFacts(row=np.concatenate(rows), word=np.concatenate(words), sums=sums)
