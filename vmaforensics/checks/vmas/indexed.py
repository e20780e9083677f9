"""The VMAs that each index leads to, where they could be read: what rules on single VMAs go through."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from vmaforensics.checks.context import Context
    from vmaforensics.columns.types import I32
    from vmaforensics.views.indices.entries import IndexEntries
    from vmaforensics.views.view import View


class IndexedVmas(NamedTuple):
    """Entries of one index whose VMA was read, in the index's own order; parallel to each other."""

    entries: IndexEntries
    vma_row: I32  # row of Views.vmas


def indexed_vmas(context: Context) -> dict[View, IndexedVmas]:
    """What was read of each index; ask for it with ``context.shared``."""
    found = {}
    for view, entries in context.views.indices().items():
        read = entries.vma_row >= 0
        read[read] = context.views.vmas.ok[entries.vma_row[read]]
        kept = entries if read.all() else entries.take(read)
        found[view] = IndexedVmas(entries=kept, vma_row=kept.vma_row)
    return found
