"""PT-SHARED on page tables made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from checks.handmade_pages import Entry, add_page_tables
from checks.handmade_views import Process, findings, mm_of, views_of
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from vmaforensics.arch.page_tables import TablePages

_PROCESSES = (Process(pid=100), Process(pid=101))


def _pte_table(tables: TablePages, mm_row: int) -> int:
    return int(np.flatnonzero((tables.level == 1) & (tables.owner == mm_row))[0])


def test_tables_that_belong_to_one_place_are_none() -> None:
    views = views_of(*_PROCESSES)
    add_page_tables(views)
    assert findings(views, "PT-SHARED") == []


def test_a_table_of_two_processes_is_told_of_both() -> None:
    views = views_of(*_PROCESSES)
    tables = add_page_tables(views).tables
    tables.pa[_pte_table(tables, 1)] = tables.pa[_pte_table(tables, 0)]
    found = findings(views, "PT-SHARED")
    assert [finding.mm for finding in found] == [mm_of(100), mm_of(101)]
    assert "of process 100, 0x400000 of process 101" in found[0].evidence[0].what


def test_only_the_place_in_no_vma_is_accused() -> None:
    views = views_of(*_PROCESSES)
    tables = add_page_tables(views, Entry(pid=101, va=0x8000_0000, pfn=0x99)).tables
    stray = int(np.flatnonzero((tables.level == 1) & (tables.va == 0x8000_0000))[0])
    tables.pa[stray] = tables.pa[_pte_table(tables, 0)]
    (found,) = findings(views, "PT-SHARED")
    assert (found.mm, found.start, found.end) == (mm_of(101), 0x8000_0000, 0x8020_0000)


def test_a_table_twice_in_one_process_is_found() -> None:
    views = views_of(Process(pid=100))
    view = add_page_tables(views)
    again = view.tables.take(np.array([_pte_table(view.tables, 0)]))
    again.va[0] = 0x9000_0000
    object.__setattr__(view, "repeated", again)
    (found,) = findings(views, "PT-SHARED")
    assert (found.mm, found.start) == (mm_of(100), 0x9000_0000)


@pytest.mark.parametrize(("kind", "count"), [(Kind.HUGETLB, 0), (Kind.SHARED_MEMORY, 2)])
def test_tables_of_huge_pages_may_be_shared(kind: Kind, count: int) -> None:
    """huge_pmd_share: PMD tables of hugetlb mappings, which map 1 GiB."""
    vmas = ("40000000-80000000 rw-s /memfd:huge",)
    views = views_of(Process(pid=100, vmas=vmas), Process(pid=101, vmas=vmas))
    views.vmas.kind[:] = kind
    tables = add_page_tables(views).tables
    tables.pa[tables.level == 2] = tables.pa[tables.level == 2][0]
    assert len(findings(views, "PT-SHARED")) == count
