"""PTE-ERASED on page tables made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from checks.handmade_pages import FRAMES, Entry, add_page_tables, entry_row, miscount
from checks.handmade_views import Process, findings, mm_of, views_of
from vmaforensics.views.pages.entries import KeptEntries

_TEXT, _STACK = 0x400000, 0x7F0000
_MOVED = "700000-701000 rw-p"


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


@pytest.mark.parametrize(("pid", "named"), [(100, True), (101, False)])
def test_a_page_that_two_vmas_have_room_for_is_placed_in_their_process(pid: int, named: bool) -> None:
    """As after mremap: what was moved keeps its offsets, and what is mapped in its old place shares its anon_vma."""
    views = views_of(Process(pid=100, vmas=("600000-601000 rw-p", _MOVED)), Process(pid=101, vmas=(_MOVED,)))
    view = add_page_tables(views)
    vmas = views.vmas
    old = int(np.flatnonzero(vmas.start == 0x600000)[0])
    moved = int(np.flatnonzero((vmas.start == 0x700000) & (vmas.mm == mm_of(pid)))[0])
    vmas.anon_vma[moved], vmas.anon_pgoff[moved] = vmas.anon_vma[old], vmas.anon_pgoff[old]
    miscount(views, 0x600000, 1)
    view.miscounted.entries[0] = 0
    left = ~np.isin(view.ptes.va, (0x600000, 0x700000))
    object.__setattr__(view, "entries", KeptEntries(view.arch, view.ptes.take(left)))
    (found,) = findings(views, "PTE-ERASED")
    assert (found.mm, found.start) == (mm_of(100) if named else 0, None)
    assert ("at 0x600000 or 0x700000 is in no page table" in found.title) == named


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
