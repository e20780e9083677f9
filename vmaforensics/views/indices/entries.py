"""What an index of an address space holds: an entry for each VMA it leads to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.columns.lookup import is_sorted, sort_order
from vmaforensics.columns.runs import begins_run
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I32, U64

if TYPE_CHECKING:
    from collections.abc import Iterable


@table()
class IndexEntries(Table):
    """Entries of one index (vm_next list, red-black tree or maple tree) of every address space.

    A row is an entry that leads to a VMA; rows of one mm stand together. Filled by ``walk_list``, ``walk_rbtree`` and
    ``walk_maple``.
    """

    mm: U64  # address of the mm_struct whose index it is
    vma: U64  # address of the vm_area_struct it leads to
    start: U64  # as this index says it: the index range of a maple entry, else vm_start
    end: U64  # exclusive
    slot: U64  # address of the word that holds the pointer
    order: I32  # position within the mm in this index's own order
    vma_row: I32  # row of the VMA in Views.vmas; filled in once they are decoded


def union_of(indices: Iterable[IndexEntries]) -> IndexEntries:
    """Entries of several indices with each (mm, VMA) kept once, sorted by mm, start and VMA.

    Of a single index in good order, as almost all are, it is that itself and no copy.
    """
    rows = IndexEntries.concatenate(indices)
    if not is_sorted(rows.mm, rows.start, rows.vma):
        rows = rows.take(sort_order(rows.mm, rows.start, rows.vma))
    first = begins_run(rows.mm, rows.vma)
    return rows if first.all() else rows.take(first)
