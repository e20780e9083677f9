"""Page tables that hold the same as another, in VMAs alike: what is said of the entries of one holds for all.

Processes that share memory have tables of their own for it, with equal entries: a hundred that share 64 GiB have 1.6
billion entries, of which 16 million differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.pages.page_marks import claimed_ranges, judged_vmas
from vmaforensics.columns.lookup import sort_order, values_at
from vmaforensics.columns.runs import begins_run, run_numbers
from vmaforensics.views.pages.read_entries import NONE_EQUAL, ReadEntries
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from vmaforensics.arch.page_tables import LowestTables
    from vmaforensics.columns.types import I64
    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.pages.read_entries import Equal
    from vmaforensics.views.views import Views


def equal_tables(views: Views, view: PageTablesView) -> Equal:
    """The tables whose entries have the marks of those of another one, entry by entry, and count as they do."""
    if not isinstance(view.entries, ReadEntries) or views.files is None:
        return NONE_EQUAL
    return view.entries.equal_tables(lambda tables: _numbers(views, view, tables))


def _numbers(views: Views, view: PageTablesView, tables: LowestTables) -> I64:
    """A number for each table: equal where :func:`entry_marks` goes by the same, but for the entries themselves; -1
    where the table is not in one range of one VMA altogether."""
    vmas, ranges, files = views.vmas, view.ranges, views.files
    assert files is not None
    row = ranges.rows_at(view.arch, tables.owner, tables.va)
    end = tables.va + view.arch.table_span(np.array([1], np.int8))
    own, fits = claimed_ranges(views, view)
    inside = values_at(own & fits, row) & (end <= values_at(ranges.end, row))
    number = np.full(len(tables), -1, np.int64)
    kept = np.flatnonzero(inside)
    vma, va = ranges.vma_row[row[kept]], tables.va[kept]
    in_file, anonymous = judged_vmas(vmas, files)
    mapping = np.where(in_file, values_at(files.rows.mapping, vmas.file_row), np.uint64(0))
    page = view.arch.pages(va - vmas.start[vma])
    keys = (
        tables.allow[kept],
        vmas.flags[vma] & np.uint64(flags.VM_EXEC | flags.VM_WRITE),
        in_file[vma],
        anonymous[vma],
        mapping[vma],
        vmas.anon_vma[vma],
        vmas.pgoff[vma] + page,
        vmas.anon_pgoff[vma] + page,
    )
    order = sort_order(*keys)
    number[kept[order]] = run_numbers(begins_run(*(key[order] for key in keys)))
    return number
