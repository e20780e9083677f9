"""Page tables that are none by their page type, and problem rows that are too many."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import BASE

from views.handmade_slab import Hand
from vmaforensics.arch.page_tables import ALLOW_USER, Leaves, LowestTables, TablePages
from vmaforensics.views.pages.stale_tables import find_strangers
from vmaforensics.views.problems import MOST, Problem, ProblemLog
from vmaforensics.views.view import View

TABLE = 0xF2
PRESENT_USER = 0x25
FIRST = 20  # frame of the first table; 18 of them are marked, frame 40 is not
SPAN = 2 << 20


def walked(*words: int, marked: int = 18) -> tuple[Hand, TablePages, LowestTables]:
    """``marked`` tables, and one more whose entries are ``words``."""
    hand = Hand(PGTY_table=TABLE)
    for pfn in range(FIRST, FIRST + marked):
        hand.machine.set("page", hand.vmemmap + 64 * pfn, "page_type", TABLE << 24)
    frames = [*range(FIRST, FIRST + marked), 40]
    tables = TablePages.of(
        pa=[pfn << 12 for pfn in frames],
        va=[at * SPAN for at in range(len(frames))],
        owner=[0] * len(frames),
        level=[1] * len(frames),
        ok=[True] * len(frames),
    )
    hand.machine.word(BASE + (FIRST << 12), 5 << 12 | PRESENT_USER)
    for at, word in enumerate(words):
        hand.machine.word(BASE + (40 << 12) + 8 * at, word)
    lowest = LowestTables.of(pa=tables.pa, va=tables.va, owner=tables.owner, allow=[ALLOW_USER] * len(tables))
    return hand, tables, lowest


@pytest.mark.parametrize(
    ("words", "foreign"),
    [
        ((0xFFFF_8880_1234_5678, 7 << 12 | PRESENT_USER), True),  # a pointer
        ((0x6C6C_6548_6F20_7721,), True),  # text
        ((7 << 12 | PRESENT_USER,), False),  # made by hand: memory that the CPU would use
    ],
)
def test_words_that_are_no_entries_are_foreign_memory(words: tuple[int, ...], foreign: bool) -> None:
    hand, tables, lowest = walked(*words)
    found = find_strangers(hand.kernel(), tables, Leaves.zeros(0), lowest)
    assert np.flatnonzero(found.tables).tolist() == [18]
    assert np.flatnonzero(found.foreign).tolist() == ([18] if foreign else [])
    assert np.flatnonzero(found.lowest).tolist() == ([18] if foreign else [])


def test_where_hardly_any_table_is_marked_the_marks_say_nothing() -> None:
    hand, tables, lowest = walked(0x6C6C_6548_6F20_7721, marked=0)
    assert not find_strangers(hand.kernel(), tables, Leaves.zeros(0), lowest).tables.any()


def test_problems_of_one_kind_are_rows_up_to_a_bound_and_counted_beyond() -> None:
    log = ProblemLog()
    places = np.arange(100_000, dtype=np.uint64)
    log.add(View.ANON_RMAP, Problem.STALE, 0, places)
    log.add(View.ANON_RMAP, Problem.STALE, 0, places)
    log.add(View.ANON_RMAP, Problem.CYCLE, 0x1000, 1)
    rows = log.table()
    assert len(rows) == MOST + 1
    assert rows.count[rows.problem == Problem.STALE].sum() == 200_000
    assert rows.count[rows.problem == Problem.CYCLE].tolist() == [1]


def test_problems_of_many_address_spaces_have_a_row_in_each() -> None:
    log = ProblemLog()
    for place in range(64):
        log.add(View.ANON_RMAP, Problem.STALE, np.arange(1, 10_001, dtype=np.uint64), place)
    rows = log.table()
    assert len(rows) < 1 << 17
    assert np.unique(rows.mm).tolist() == list(range(1, 10_001))
    assert rows.count.sum() == 64 * 10_000
