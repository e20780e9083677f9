"""SWAP-SLOT on slots and pages of the swap cache made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from checks.handmade_pages import add_page_tables
from checks.handmade_views import Process, findings, mm_of, views_of
from vmaforensics.checks.finding import Severity
from vmaforensics.views.pages.swap_slots import SwapCached, SwapSlots, SwapUses, SwapView, disagreeing

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

SLOT = 1 << 58 | 0x20  # of the second swap file
PAGE = 0xFFFF_EA00_0000_1000


def swapped(*slots: tuple[int, int, int], uses: SwapUses | None = None, found: int = PAGE) -> Views:
    """A process, and slots of (place, word of swap_map, entries); a page of the cache at SLOT."""
    views = views_of(Process(pid=100))
    add_page_tables(views)
    place, word, entries = zip(*slots, strict=True)
    views.swap = SwapView(
        slots=SwapSlots.of(place=place, word=word, entries=entries),
        uses=uses if uses is not None else SwapUses.zeros(0),
        cached=SwapCached.of(pfn=[0x40], page=[PAGE], place=[SLOT], found=[found]),
        whole=True,
    )
    return views


@pytest.mark.parametrize(("word", "entries"), [
    (1, 1),
    (0x42, 2),  # with a copy in the cache
    (0x40, 0),  # the cache alone has it
    (0xBF, 0),  # of shared memory
    (0xFF, 0),
    (0x3F, 0),  # bad, as the first one of a file
    (0x81, 200),  # it goes on elsewhere
])  # fmt: skip
def test_slots_that_count_what_names_them_give_none(word: int, entries: int) -> None:
    assert findings(swapped((SLOT, word, entries)), "SWAP-SLOT") == []


@pytest.mark.parametrize(("word", "entries"), [(0, 1), (1, 2), (0x41, 0), (3, 1)])
def test_slots_that_count_otherwise_disagree(word: int, entries: int) -> None:
    assert disagreeing(SwapSlots.of(place=[SLOT], word=[word], entries=[entries])).tolist() == [True]


def test_an_entry_of_a_slot_that_is_free_is_told_with_its_process() -> None:
    uses = SwapUses.of(mm_row=[0], va=[0x7F0000], where=[0x1238], place=[SLOT])
    (found,) = findings(swapped((SLOT, 0, 1), uses=uses), "SWAP-SLOT")
    assert found.severity is Severity.MEDIUM
    assert (found.mm, found.start, found.end) == (mm_of(100), 0x7F0000, 0x7F1000)
    assert (found.evidence[0].address, found.evidence[0].found, found.evidence[0].expected) == (0x1238, "0", "1")
    assert "slot 1:0x20" in found.evidence[0].what


def test_slots_that_no_page_table_has_are_one_finding() -> None:
    (found,) = findings(swapped(*((SLOT + place, 0x41, 0) for place in range(40))), "SWAP-SLOT")
    assert found.title.startswith("40 pages, 160 KiB, in swap, that slots count")
    assert len(found.evidence) == 17
    assert (found.mm, found.apart) == (0, 40)


def test_a_count_says_nothing_where_page_tables_are_lost_but_for_slots_that_are_free() -> None:
    uses = SwapUses.of(2, mm_row=[0, 0], va=[0x7F0000, 0x7F1000], place=[SLOT, SLOT + 1])
    views = swapped((SLOT, 3, 1), (SLOT + 1, 0, 1), uses=uses)
    assert views.page_tables is not None
    views.page_tables.whole[:] = False
    (found,) = findings(views, "SWAP-SLOT")
    assert found.start == 0x7F1000
    views.swap = None
    assert findings(views, "SWAP-SLOT") == []


@pytest.mark.parametrize("found", [PAGE + 64, 0])
def test_a_page_of_the_cache_that_its_slot_does_not_lead_to_is_told(found: int) -> None:
    (told,) = findings(swapped((SLOT, 0x41, 1), found=found), "SWAP-SLOT")
    assert told.severity is Severity.MEDIUM
    assert (told.evidence[0].found, told.evidence[0].expected) == (hex(found), hex(PAGE))
    assert told.evidence[0].address == 0x40 << 12
    assert told.apart == 1
