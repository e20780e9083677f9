"""PTE-ERASED on page tables made by hand."""

from __future__ import annotations

from checks.handmade_pages import FRAMES, Entry, add_page_tables, entry_row, miscount
from checks.handmade_views import Process, findings, mm_of, views_of
from vmaforensics.views.pages.entries import KeptEntries

_TEXT, _STACK = 0x400000, 0x7F0000


def test_counts_that_are_right_are_none() -> None:
    views = views_of(Process())
    add_page_tables(views)
    assert findings(views, "PTE-ERASED") == []


def test_a_page_whose_entry_is_gone_is_placed_where_it_belongs() -> None:
    views = views_of(Process(pid=100), Process(pid=101, vmas=("600000-601000 rw-p",)))
    view = add_page_tables(views)
    miscount(views, _STACK, 1)
    view.miscounted.entries[0] = 0
    object.__setattr__(view, "entries", KeptEntries(view.arch, view.ptes.take(view.ptes.va != _STACK)))
    (found,) = findings(views, "PTE-ERASED")
    assert (found.mm, found.start, found.end) == (mm_of(100), _STACK, _STACK + 0x1000)
    assert f"at {_STACK:#x} is in no page table" in found.title


def test_an_entry_outside_every_vma_is_where_a_page_was_added() -> None:
    views = views_of(Process(pid=100), Process(pid=101, vmas=("600000-601000 rw-p",)))
    add_page_tables(views, Entry(pid=101, va=0x10000, pfn=FRAMES))
    miscount(views, _TEXT, 1)
    (found,) = findings(views, "PTE-ERASED")
    assert (found.mm, found.start) == (mm_of(101), 0x10000)
    assert found.evidence[0].found == "1"
    assert found.evidence[0].expected == "2"


def test_a_page_with_no_place_is_told_without_one() -> None:
    views = views_of(Process())
    view = add_page_tables(views)
    miscount(views, _TEXT, 2)
    view.ptes.pfn[entry_row(views, _TEXT)] = 0
    view.miscounted.pages.mapping[0] = 0
    (found,) = findings(views, "PTE-ERASED")
    assert (found.mm, found.start) == (0, None)


def test_nothing_is_said_unless_all_page_tables_were_read() -> None:
    views = views_of(Process())
    view = add_page_tables(views)
    miscount(views, _TEXT, 2)
    view.whole[0] = False
    assert findings(views, "PTE-ERASED") == []
