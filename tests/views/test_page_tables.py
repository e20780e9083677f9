"""Page-table entries, matched with VMAs and pages, on page tables made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from views.user_memory import ANON, GLOBAL, KSM, LARGE, PRESENT, SPECIAL, USER, UserMemory, present, swapped
from vmaforensics.arch.known import DEFAULT
from vmaforensics.arch.page_tables import PteState
from vmaforensics.views.indices.entries import IndexEntries
from vmaforensics.views.pages import mapped_pages
from vmaforensics.views.pages.contents import content_class
from vmaforensics.views.pages.entries import KeptEntries
from vmaforensics.views.pages.map_ranges import MapRanges, map_ranges
from vmaforensics.views.pages.mapped_pages import read_pages
from vmaforensics.views.pages.ptes import Ptes
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.processes.mms import Mms

if TYPE_CHECKING:
    import pytest

HUGE = 1 << 21


def test_a_process_without_entries_has_none() -> None:
    memory = UserMemory()
    memory.add_mm()
    view = memory.gather()
    assert len(view.ptes) == len(view.pages) == len(view.orphans) == 0
    assert view.whole.tolist() == [True]
    assert view.tables.level.tolist() == [4]


def test_entries_come_by_process_and_address_whatever_their_level() -> None:
    memory = UserMemory()
    first, second = memory.add_mm(), memory.add_mm()
    memory.map(second, 0x5000, present(7))
    memory.map(first, 0x9000, present(8))
    memory.map(first, 3 * HUGE, present(0, PRESENT | USER | LARGE), level=2)
    memory.map(first, 0x1000, present(9))
    ptes = memory.gather().ptes
    assert ptes.mm_row.tolist() == [first, first, first, second]
    assert ptes.va.tolist() == [0x1000, 0x9000, 3 * HUGE, 0x5000]
    assert ptes.level.tolist() == [1, 1, 2, 1]
    assert ptes.pfn.tolist() == [9, 8, 0, 7]
    assert ptes.pages(DEFAULT).tolist() == [1, 1, 512, 1]


def test_states_of_entries() -> None:
    memory = UserMemory()
    mm = memory.add_mm()
    frame = memory.frame()
    memory.map(mm, 0x1000, present(frame))
    # L1TF: the address of an entry that is not present is inverted (pgtable-invert.h).
    memory.map(mm, 0x2000, ~(frame << 12) & 0x000F_FFFF_FFFF_F000 | GLOBAL)
    memory.map(mm, 0x3000, swapped(0, 5))
    memory.map(mm, 0x4000, swapped(30, 5))  # SWP_MIGRATION_READ and the like lie above the swap files
    memory.map(mm, 0x5000, present(frame, PRESENT | USER | SPECIAL))
    ptes = memory.gather().ptes
    assert ptes.state.tolist() == [
        PteState.PRESENT, PteState.PROTNONE, PteState.SWAP, PteState.OTHER, PteState.PRESENT
    ]  # fmt: skip
    assert ptes.pfn.tolist() == [frame, frame, 0, 0, frame]
    assert ptes.special.tolist() == [False, False, False, False, True]
    assert ptes.page_row.tolist() == [0, 0, -1, -1, -1]


def test_an_entry_is_matched_with_the_range_that_covers_it() -> None:
    memory = UserMemory()
    first, second = memory.add_mm(), memory.add_mm()
    frame = memory.frame()
    for va in (0x0000, 0x1000, 0x2000, 0x3000):
        memory.map(first, va, present(frame))
    memory.map(second, 0x1000, present(frame))
    vmas, entries = memory.ranges((first, 0x1000, 0x3000))
    view = memory.gather(vmas, entries)
    assert view.ptes.range_row.tolist() == [-1, 0, 0, -1, -1]
    assert view.orphans.tolist() == [0, 3, 4]
    assert view.contents == ["zeros"] * 3


def test_ranges_of_a_torn_index_that_are_none_are_left_out() -> None:
    mms = Mms.of(mm=[100, 200])
    entries = IndexEntries.of(mm=[200, 100, 100], start=[0x1000, 0x5000, 0x3000], end=[0x2000, 0x5000, 0x4000])
    ranges = map_ranges(mms, entries)
    assert (ranges.mm_row.tolist(), ranges.start.tolist()) == ([0, 1], [0x3000, 0x1000])


def test_look_up_of_ranges_by_process_and_address() -> None:
    ranges = MapRanges.of(mm_row=[0, 0, 2], start=[0x1000, 0x4000, 0x1000], end=[0x2000, 0x6000, 0x3000])
    mm_row = np.array([0, 0, 0, 0, 1, 2, 2])
    va = np.array([0x0000, 0x1000, 0x2000, 0x5000, 0x1000, 0x2000, 0x7000], np.uint64)
    assert ranges.rows_at(DEFAULT, mm_row, va).tolist() == [-1, 0, -1, 1, -1, 2, -1]
    assert ranges.ends_before(DEFAULT, mm_row, va).tolist() == [0, 0x2000, 0x2000, 0x6000, 0, 0x3000, 0x3000]
    nothing = MapRanges.zeros(0)
    assert nothing.rows_at(DEFAULT, mm_row, va).tolist() == [-1] * 7
    assert nothing.ends_before(DEFAULT, mm_row, va).tolist() == [0] * 7


def test_look_up_of_entries_by_process_and_address() -> None:
    ptes = Ptes.of(mm_row=[0, 0, 1], level=[1, 2, 1], va=[0x1000, HUGE, 0x1000])
    mm_row = np.array([0, 0, 0, 0, 0, 1, 2, -1])
    va = np.array([0x0000, 0x1000, 0x2000, 2 * HUGE - 1, 2 * HUGE, 0x1000, 0x1000, 0x1000], np.uint64)
    assert KeptEntries(DEFAULT, ptes).rows_at(mm_row, va).tolist() == [-1, 0, -1, 1, -1, 2, -1, -1]
    assert KeptEntries(DEFAULT, Ptes.zeros(0)).rows_at(mm_row, va).tolist() == [-1] * 8


def test_the_huge_zero_page_and_raw_memory_are_counted_nowhere() -> None:
    memory = UserMemory(pages=1024)
    mm = memory.add_mm()
    memory.page(512, flags=1 << 6)  # names nobody
    memory.map(mm, HUGE, present(512, PRESENT | USER | LARGE), level=2)
    ptes = memory.gather().ptes
    assert ptes.special.tolist() == [True]
    assert ptes.page_row.tolist() == [-1]


def test_pages_say_whose_they_are() -> None:
    memory = UserMemory()
    mm = memory.add_mm()
    anon_vma = memory.put("anon_vma", {"root": 0xFFFF_8880_0000_4200})
    anon, file, ksm = (memory.frame() for _ in range(3))
    memory.page(anon, mapping=anon_vma | ANON, index=0x77, mapcount=2, refcount=3)
    memory.page(file, mapping=0xFFFF_8880_0000_8800)
    memory.page(ksm, mapping=0xFFFF_8880_0000_8800 | KSM)
    for number, pfn in enumerate((anon, file, ksm)):
        memory.map(mm, 0x1000 * number, present(pfn))
    view = memory.gather()
    pages = view.pages
    assert pages.pfn.tolist() == [anon, file, ksm]
    assert pages.anon.tolist() == [True, False, True]
    assert pages.ksm.tolist() == [False, False, True]
    assert pages.mapping.tolist() == [anon_vma, 0xFFFF_8880_0000_8800, 0xFFFF_8880_0000_8800]
    assert (pages.index[0], pages.mapcount[0], pages.refcount[0]) == (0x77, 2, 3)
    assert view.anon_roots.roots_of(pages.anon_vmas()).tolist() == [0xFFFF_8880_0000_4200, 0, 0]


def test_a_page_whose_struct_page_is_not_in_the_image_is_not_ok() -> None:
    memory = UserMemory()
    mm = memory.add_mm()
    memory.map(mm, 0x1000, present(9))
    memory.drop(memory.vmemmap)
    view = memory.gather()
    assert (view.pages.pfn.tolist(), view.pages.ok.tolist()) == ([9], [False])
    assert view.ptes.page_row.tolist() == [0]


def test_a_lost_table_makes_the_process_incomplete_and_is_a_problem() -> None:
    memory = UserMemory()
    first, second = memory.add_mm(), memory.add_mm()
    slot = memory.map(first, 0x1000, present(9))
    memory.map(second, 0x1000, present(9))
    memory.drop(slot)
    log = ProblemLog()
    view = memory.gather(log=log)
    assert view.whole.tolist() == [False, True]
    assert view.ptes.mm_row.tolist() == [second]
    problems = log.table()
    assert problems.problem.tolist() == [Problem.UNREADABLE]
    assert problems.mm.tolist() == [memory.mms[first]]


def test_a_table_that_leads_to_itself_is_entered_once() -> None:
    memory = UserMemory()
    mm = memory.add_mm()
    slot = memory.map(mm, 0x1000, present(9))
    memory.map(mm, 1 << 39, memory.read(memory.pgds[mm]), level=4)  # the tables of the first 512 GiB once more
    view = memory.gather()
    assert view.repeated.level.tolist() == [3]
    assert view.repeated.va.tolist() == [1 << 39]
    assert view.ptes.va.tolist() == [0x1000]
    assert slot % 8 == 0


def test_contents_in_a_word() -> None:
    assert content_class(b"\x7fELF\x02\x01" + bytes(100)) == "an ELF header"
    assert content_class(b"#!/bin/sh\n" + bytes(100)) == "a script"
    assert content_class(bytes(4096)) == "zeros"
    assert content_class(b"password: 1234\n" + bytes(10)) == "text"
    assert content_class(b"\x90\x90\xcc" + bytes(10)) == "data"


def test_pages_read_in_batches_are_those_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = UserMemory()
    for pfn in range(20):
        memory.page(pfn, mapping=pfn << 8 | (pfn % 2), mapcount=pfn, index=pfn)
    frames = np.array([3, 1, 19, 7, 8, 1 << 30, 0, 11], np.uint64)
    whole = read_pages(memory.kernel(), frames)
    monkeypatch.setattr(mapped_pages, "_BATCH", 3)
    parts = read_pages(memory.kernel(), frames)
    assert all(np.array_equal(values, parts.columns()[name]) for name, values in whole.columns().items())
    assert whole.ok.tolist() == [True] * 5 + [False] + [True] * 2
