"""MM-PGTABLES on page tables made by hand."""

from __future__ import annotations

from checks.handmade_pages import add_page_tables, page_row
from checks.handmade_views import PAGE, Process, findings, mm_of, views_of

_HUGE = 0x4000_0000


def test_tables_that_are_counted_are_none() -> None:
    views = views_of(Process(pid=100), Process(pid=101))
    add_page_tables(views)
    assert views.mms.pgtables_bytes[0] > 0
    assert findings(views, "MM-PGTABLES") == []


def test_a_table_that_nobody_counted_is_found() -> None:
    views = views_of(Process(pid=100), Process(pid=101))
    add_page_tables(views)
    views.mms.pgtables_bytes[1] -= PAGE
    (found,) = findings(views, "MM-PGTABLES")
    assert found.mm == mm_of(101)
    assert int(found.evidence[0].expected) - int(found.evidence[0].found) == PAGE


def test_an_anonymous_huge_page_has_a_table_in_store() -> None:
    """The entry of level 2 has no PTE table below it; pgtable_trans_huge_deposit counts one all the same."""
    views = views_of(Process(vmas=(f"{_HUGE:x}-{_HUGE + 0x200000:x} rw-p",)))
    view = add_page_tables(views)
    view.ptes.level[:] = 2
    object.__setattr__(view, "tables", view.tables.take(view.tables.level > 1))
    assert findings(views, "MM-PGTABLES") == []
    view.pages.ok[page_row(views, _HUGE)] = False
    views.mms.pgtables_bytes[0] += PAGE
    assert findings(views, "MM-PGTABLES") == []  # whether a table is in store, the page says


def test_memory_that_nobody_counts_has_a_table_in_store_where_the_vma_has_no_file() -> None:
    """There it is the huge zero page; in a VMA of a file, memory of a device (insert_pfn_pmd)."""
    place = f"{_HUGE:x}-{_HUGE + 0x200000:x} rw-p"
    views = views_of(Process(vmas=(place,)), Process(pid=101, vmas=(f"{place} /mnt/dax/file",)))
    view = add_page_tables(views)
    view.ptes.level[:] = 2
    view.ptes.special[:] = True
    view.ptes.page_row[:] = -1
    object.__setattr__(view, "tables", view.tables.take(view.tables.level > 1))
    views.mms.pgtables_bytes[:] = 3 * PAGE, 2 * PAGE
    assert findings(views, "MM-PGTABLES") == []


def test_silent_with_a_local_descriptor_table_or_unread_tables() -> None:
    views = views_of(Process(pid=100), Process(pid=101))
    view = add_page_tables(views)
    views.mms.pgtables_bytes[:] += PAGE
    views.mms.other_tables[0] = 0xFFFF_8880_0000_1000
    view.whole[1] = False
    assert findings(views, "MM-PGTABLES") == []
