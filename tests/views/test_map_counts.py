"""Map counts: of pages by themselves, and against the entries that lead to them."""

from __future__ import annotations

import numpy as np

from views.user_memory import ANON, LARGE, PRESENT, SWAPBACKED, USER, UserMemory, present
from vmaforensics.views.pages.map_counts import MapCounts
from vmaforensics.views.pages.mapped_pages import read_pages

HEAD = 1 << 6
FILE = 0xFFFF_8880_0000_8800  # an address_space
HUGE = 1 << 21


def huge_page(memory: UserMemory, *, entire: int, parts: dict[int, int], refcount: int = 9) -> int:
    """Describe the 512 frames from 512 on as one folio; ``parts`` map some of them. Returns the first frame."""
    first = 512
    address = memory.page(first, mapping=FILE | ANON, flags=HEAD | SWAPBACKED, refcount=refcount)
    for part in range(1, 512):
        memory.page(first + part, compound_head=address | 1)
    for part, count in parts.items():
        head = {"mapping": FILE | ANON, "flags": HEAD | SWAPBACKED, "refcount": refcount} if part == 0 else {}
        tail = {} if part == 0 else {"compound_head": address | 1}
        memory.page(first + part, mapcount=count, **head, **tail)
    memory.set("folio", address, "_entire_mapcount.counter", entire - 1)
    return first


def test_the_count_of_a_small_page_is_its_own() -> None:
    memory = UserMemory()
    memory.page(20, mapping=FILE, mapcount=3)
    kernel = memory.kernel()
    counts = MapCounts(kernel, read_pages(kernel, np.array([20, 21], np.uint64)))
    assert counts.of_pages(np.array([0, 1])).tolist() == [3, 0]
    assert counts.ok.tolist() == [True, True]


def test_parts_of_a_folio_count_the_entries_of_the_whole_too() -> None:
    memory = UserMemory(pages=1024)
    first = huge_page(memory, entire=2, parts={0: 1, 5: 4})
    kernel = memory.kernel()
    pages = read_pages(kernel, np.array([first, first + 5, first + 6], np.uint64))
    assert pages.head.tolist() == [first] * 3
    assert pages.compound.tolist() == [True] * 3
    assert MapCounts(kernel, pages).of_pages(np.arange(3)).tolist() == [3, 6, 2]


def test_shares_of_a_small_page() -> None:
    memory = UserMemory()
    mm = memory.add_mm()
    memory.page(20, mapping=FILE, mapcount=1)
    memory.page(21, mapping=FILE, mapcount=4)
    memory.map(mm, 0x1000, present(20))
    memory.map(mm, 0x2000, present(21))
    view = memory.gather()
    shares = MapCounts(memory.kernel(), view.pages).shares(view.ptes, np.zeros(2, np.bool_), 12)
    assert shares.private.tolist() == [4096, 0]
    assert shares.pss.tolist() == [4096 << 12, 1024 << 12]


def test_a_page_with_one_reference_is_all_of_its_process() -> None:
    memory = UserMemory()
    mm = memory.add_mm()
    memory.page(21, mapping=FILE, mapcount=4)
    memory.map(mm, 0x2000, present(21))
    view = memory.gather()
    shares = MapCounts(memory.kernel(), view.pages).shares(view.ptes, np.ones(1, np.bool_), 12)
    assert (shares.private.tolist(), shares.pss.tolist()) == ([4096], [4096 << 12])


def test_a_huge_page_is_weighed_part_by_part() -> None:
    memory = UserMemory(pages=1024)
    mm = memory.add_mm()
    first = huge_page(memory, entire=1, parts={3: 1, 4: 1})  # two of its pages are mapped once more
    memory.map(mm, HUGE, present(first, PRESENT | USER | LARGE), level=2)
    view = memory.gather()
    shares = MapCounts(memory.kernel(), view.pages).shares(view.ptes, np.zeros(1, np.bool_), 12)
    assert shares.private.tolist() == [510 * 4096]
    assert shares.pss.tolist() == [(510 * 4096 + 2 * 2048) << 12]


def test_a_count_whose_word_is_not_in_the_image_is_not_known() -> None:
    memory = UserMemory(pages=1024)
    mm = memory.add_mm()
    first = huge_page(memory, entire=1, parts={})
    memory.map(mm, HUGE, present(first, PRESENT | USER | LARGE), level=2)
    memory.drop(memory.vmemmap + 64 * (first + 100))
    view = memory.gather()
    counts = MapCounts(memory.kernel(), view.pages)
    assert counts.ok.tolist() == [True]
    counts.shares(view.ptes, np.zeros(1, np.bool_), 12)
    assert counts.ok.tolist() == [False]


def test_frames_whose_count_is_the_number_of_their_entries_are_not_miscounted() -> None:
    memory = UserMemory()
    mm = memory.add_mm()
    memory.page(20, mapping=FILE, mapcount=2)
    memory.map(mm, 0x1000, present(20))
    memory.map(mm, 0x2000, present(20))
    memory.page(21, mapping=FILE)
    assert len(memory.gather().miscounted.pages) == 0


def test_an_erased_entry_and_a_forged_one_leave_miscounted_frames() -> None:
    memory = UserMemory()
    mm = memory.add_mm()
    memory.page(20, mapping=FILE, mapcount=1)
    memory.page(21, mapping=FILE, mapcount=0)
    memory.map(mm, 0x1000, present(21))
    found = memory.gather().miscounted
    assert found.pages.pfn.tolist() == [20, 21]
    assert found.pages.mapcount.tolist() == [1, 0]
    assert found.entries.tolist() == [0, 1]


def test_pages_that_are_not_mapped_ones_are_not_counted() -> None:
    memory = UserMemory(pages=1024)
    memory.add_mm()
    memory.page(20, mapping=FILE, page_type=0xF5 << 24)  # a slab: its type lies where the count would
    memory.page(21, mapping=FILE, flags=HEAD, mapcount=1)
    huge_page(memory, entire=1, parts={3: 1})
    memory.page(23, mapping=FILE | 2, mapcount=33)  # zsmalloc's: where its first object begins, up to 6.6
    memory.page(22, mapcount=1)  # of no file: a page of the kernel
    assert len(memory.gather().miscounted.pages) == 0
