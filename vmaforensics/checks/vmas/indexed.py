"""The VMAs that each index leads to, where they could be read: what rules on single VMAs go through."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import values_at

if TYPE_CHECKING:
    from vmaforensics.checks.context import Context
    from vmaforensics.columns.types import I32, I64, Bools
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


def like_vmas(context: Context, rows: I32 | I64) -> Bools:
    """Which rows of the VMAs have bounds that a VMA of the mm that they name can have? Other memory hardly does."""
    vmas, mms, page = context.views.vmas.take(rows), context.views.mms, np.uint64(context.views.arch.page_size - 1)
    fits = (vmas.start < vmas.end) & (((vmas.start | vmas.end) & page) == 0)
    most = values_at(mms.task_size, context.views.mm_rows(vmas.mm))
    like: Bools = vmas.ok & fits & (vmas.end <= most)
    return like
