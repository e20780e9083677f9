"""What an index of an address space holds: an entry for each VMA it leads to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.columns.lookup import sort_order
from vmaforensics.columns.runs import begins_run
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I64, U64

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
    order: I64  # position within the mm in this index's own order
    vma_row: I64  # row of the VMA in Views.vmas; filled in once they are decoded


def union_of(indices: Iterable[IndexEntries]) -> IndexEntries:
    """Entries of several indices with each (mm, VMA) kept once, sorted by mm, start and VMA."""
    rows = IndexEntries.concatenate(indices)
    rows = rows.take(sort_order(rows.mm, rows.start, rows.vma))
    return rows.take(begins_run(rows.mm, rows.vma))
