"""Page-table entries read in batches are those that all of them at once would be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from handmade import PAGE

from views.user_memory import LARGE, USER, UserMemory, present, swapped
from vmaforensics.arch.page_tables import PteState
from vmaforensics.image.limits import Limits
from vmaforensics.image.memory import PhysicalMemory
from vmaforensics.views.pages import page_tables, read_entries
from vmaforensics.views.pages.entry_ranges import in_ranges
from vmaforensics.views.pages.entry_reader import EntryReader
from vmaforensics.views.pages.ptes import place_keys
from vmaforensics.views.pages.read_entries import ReadEntries

if TYPE_CHECKING:
    from vmaforensics.views.pages.entries import Entries
    from vmaforensics.views.pages.ptes import Ptes

HUGE = 2 << 20
_ENTRIES = 4  # of a batch


def _memory() -> tuple[UserMemory, list[tuple[int, int]]]:
    """Two processes with entries of three levels between each other, and (row of the mm, address) of each entry."""
    memory = UserMemory(pages=256)
    places = []
    for mm, first in ((memory.add_mm(), 0), (memory.add_mm(), 0x40 * HUGE)):
        for table in (0, 1, 3, 4):
            for page in (0, 1, 7, 511) if table != 3 else (5,):
                va = first + table * HUGE + page * PAGE
                memory.map(mm, va, present(page % 8) if page != 7 else swapped(0, 9))
                places.append((mm, va))
        for table in (2, 5):
            va = first + table * HUGE
            memory.map(mm, va, present(512 * table, 1 | USER | LARGE), level=2)
            places.append((mm, va))
        memory.map(mm, 1 << 30, 0x1234_5678 << 12, level=3)  # not present, a GiB of it
        places.append((mm, 1 << 30))
    return memory, sorted(places)


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> tuple[Entries, Entries]:
    """The entries in memory, and the same read in small batches."""
    memory, places = _memory()
    kept = memory.gather().entries
    assert list(zip(kept.all().mm_row.tolist(), kept.all().va.tolist(), strict=True)) == places
    monkeypatch.setattr(page_tables, "_KEPT", 0)
    monkeypatch.setattr(read_entries, "BATCH", _ENTRIES)
    monkeypatch.setattr(read_entries, "MOST_TABLES", 2)
    read = memory.gather().entries
    assert isinstance(read, ReadEntries)
    return kept, read


def _same(first: Ptes, second: Ptes) -> bool:
    others = second.columns()
    return all(np.array_equal(values, others[name]) for name, values in first.columns().items())


def test_batches_are_the_whole_in_order(both: tuple[Entries, Entries]) -> None:
    kept, read = both
    assert len(kept) == len(read)
    row = 0
    for first, ptes in read.batches():
        assert (first, len(ptes) > 0) == (row, True)
        assert _same(ptes, kept.take(slice(first, first + len(ptes))))
        row += len(ptes)
    assert row == len(kept)


def test_every_stretch_can_be_had_by_itself(both: tuple[Entries, Entries]) -> None:
    kept, read = both
    for first in range(len(kept) + 1):
        for last in range(first, len(kept) + 1):
            assert _same(read.take(slice(first, last)), kept.take(slice(first, last)))


def test_entries_are_taken_in_any_order(both: tuple[Entries, Entries]) -> None:
    kept, read = both
    rows = np.random.default_rng(7).integers(0, len(kept), 100)
    assert _same(read.take(rows), kept.take(rows))
    assert len(read.take(np.zeros(0, np.int64))) == 0


def test_places_are_found(both: tuple[Entries, Entries]) -> None:
    kept, read = both
    ptes = kept.all()
    va = np.concatenate(
        [ptes.va, ptes.va + np.uint64(PAGE), ptes.va + np.uint64(HUGE), np.array([0, 1 << 46], np.uint64)]
    )
    for mm_row in (-1, 0, 1, 2):
        rows = np.full(len(va), mm_row)
        keys = place_keys(kept.arch, rows, va)
        assert read.below(keys).tolist() == kept.below(keys).tolist()
        assert read.rows_at(rows, va).tolist() == kept.rows_at(rows, va).tolist()
        assert read.bounds(mm_row) == kept.bounds(mm_row)
        for start in va.tolist():
            assert read.within(mm_row, start, start + HUGE) == kept.within(mm_row, start, start + HUGE)
    assert kept.within(0, 2 * HUGE + PAGE, 2 * HUGE + 2 * PAGE) == range(8, 9)  # a part of a huge page
    assert kept.within(0, 0, 1 << 64) == range(*kept.bounds(0))


def test_tables_and_their_entries(both: tuple[Entries, Entries]) -> None:
    kept, read = both
    assert len(kept.large()) == 6
    assert _same(read.large(), kept.large())
    for mm_row in (0, 1, 2):
        tables = kept.tables_of(mm_row)
        assert read.tables_of(mm_row).tolist() == tables.tolist()
        for some in (tables, tables[::2]):
            assert read.in_tables(some).rows.tolist() == kept.in_tables(some).rows.tolist()
            assert _same(read.in_tables(some).ptes, kept.in_tables(some).ptes)


def test_ranges_have_what_lies_in_them(both: tuple[Entries, Entries]) -> None:
    mm_row, start = np.array([1, 0, 0, -1]), np.array([0, HUGE, 0, 0], np.uint64)
    end = np.array([1 << 46, 4 * HUGE, 1 << 46, HUGE], np.uint64)
    counts = []
    _, places = _memory()
    expected = [row for row, (mm, va) in enumerate(places) if mm == 1 or HUGE <= va < 4 * HUGE]
    for entries in both:
        assert entries.inside(mm_row[:2], start[:2], end[:2]).rows.tolist() == expected
        count = np.zeros(len(mm_row), np.int64)
        for part in in_ranges(entries, mm_row, start, end):
            count[part.ranges] += part.high - part.low
        counts.append(count.tolist())
    assert counts[0] == counts[1]
    assert counts[0][3] == 0


def test_orphans_are_numbered_as_all_entries_are(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, places = _memory()
    vmas, ranges = memory.ranges((0, HUGE, 3 * HUGE), (1, 0, 1 << 40))
    expected = [row for row, (mm, va) in enumerate(places) if mm == 0 and not HUGE <= va < 3 * HUGE]
    assert memory.gather(vmas, ranges).orphans.tolist() == expected
    monkeypatch.setattr(page_tables, "_KEPT", 0)
    assert memory.gather(vmas, ranges).orphans.tolist() == expected


@pytest.mark.parametrize("jobs", [1, 4])
def test_threads_change_nothing(both: tuple[Entries, Entries], monkeypatch: pytest.MonkeyPatch, jobs: int) -> None:
    kept, _ = both
    monkeypatch.setattr(PhysicalMemory, "limits", Limits(jobs=jobs))
    memory, _ = _memory()
    vmas, ranges = memory.ranges((0, HUGE, 3 * HUGE), (1, 0, 1 << 40))
    view = memory.gather(vmas, ranges)
    monkeypatch.undo()
    one = memory.gather(vmas, ranges)
    found = [(first, ptes.va.tolist()) for first, ptes in view.entries.each(lambda ptes: ptes)]
    assert [va for _, some in found for va in some] == kept.all().va.tolist()
    assert [first for first, _ in found] == [first for first, _ in view.entries.batches()]
    assert view.orphans.tolist() == one.orphans.tolist()
    assert _same(view.ptes, one.ptes)
    assert view.pages.pfn.tolist() == one.pages.pfn.tolist()


def test_of_a_source_that_changes_as_many_entries_come_as_there_were(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = UserMemory()
    mm = memory.add_mm()
    memory.map(mm, 0x1000, present(5))
    memory.map(mm, 0x2000, present(6))
    monkeypatch.setattr(page_tables, "_KEPT", 0)
    entries = memory.gather().entries
    assert isinstance(entries, ReadEntries)
    tables, counts = entries._tables, entries._counts
    changed = EntryReader(memory.kernel(), None).read(tables, counts + 1)
    assert changed.state.tolist() == [PteState.PRESENT, PteState.PRESENT, PteState.OTHER]
    assert changed.pfn.tolist() == [5, 6, 0]
    assert EntryReader(memory.kernel(), None).read(tables, counts - 1).pfn.tolist() == [5]
