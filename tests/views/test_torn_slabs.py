"""Free lists against what counts them: sound ones at any instruction, those of another moment, and mere damage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from handmade import BASE, PAGE
from support import LIVE

from views.handmade_slab import ORDER_0, SIZE, STRUCTS, Hand
from vmaforensics.views.problems import Problem, ProblemLog, Problems
from vmaforensics.views.slab.objects import gather_slab
from vmaforensics.views.slab.torn_slabs import torn_slabs

if TYPE_CHECKING:
    from support import Sample

RANDOM = 0x1122334455667788
OFFSET = 8  # of the free pointer in an object
CACHES = STRUCTS | {"kmem_cache": f"{STRUCTS['kmem_cache']} name:*"}
CPU_LISTS = STRUCTS | {"kmem_cache_cpu": "freelist:* slab:*", "kmem_cache": f"{CACHES['kmem_cache']} cpu_slab:*"}


def made(*free: int, structs: dict[str, str] = CACHES, inuse: int | None = None, frozen: int = 0) -> Hand:
    """A slab in frame 20 whose free objects are these, in the order of its list; ``inuse`` by its struct page."""
    hand = Hand(structs)
    hand.machine.set("kmem_cache", hand.cache, "random", RANDOM)
    for at, after in zip(free, (*free[1:], None), strict=False):
        link(hand, at, after)
    page = hand.slab(20, head=address(free[0]) if free else 0)
    hand.machine.set("slab", page, "inuse", ORDER_0 - len(free) if inuse is None else inuse)
    hand.machine.set("slab", page, "frozen", frozen)
    return hand


def address(number: int) -> int:
    return BASE + 20 * PAGE + number * SIZE


def link(hand: Hand, at: int, after: int | None) -> None:
    """Let a free object point to another, as freelist_ptr_encode (mm/slub.c) has it."""
    where = address(at) + OFFSET
    swapped = int.from_bytes(where.to_bytes(8, "big"), "little")
    hand.machine.word(where, (0 if after is None else address(after)) ^ RANDOM ^ swapped)


def torn(hand: Hand, problems: Problems | None = None) -> list[int]:
    """Frames of slabs of another moment."""
    kernel = hand.kernel()
    slab = gather_slab(kernel, ProblemLog())
    assert slab is not None
    found = torn_slabs(kernel, slab.partial, Problems.zeros(0) if problems is None else problems)
    frames: list[int] = ((found.base - np.uint64(BASE)) // np.uint64(PAGE)).astype(int).tolist()
    return frames


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_list_that_is_as_long_as_is_counted_is_sound(frozen: int) -> None:
    assert torn(made(2, 5, 1, frozen=frozen)) == []


@pytest.mark.parametrize("inuse", [ORDER_0 - 2, ORDER_0 - 4])
def test_a_list_that_is_longer_or_shorter_than_is_counted_is_of_another_moment(inuse: int) -> None:
    assert torn(made(2, 5, 1, inuse=inuse)) == [20]


def test_a_list_that_leads_to_what_is_in_use_is_of_another_moment() -> None:
    hand = made(2, 5, 1)
    hand.machine.word(address(5) + OFFSET, 0x1234)
    assert torn(hand) == [20]


def test_a_list_that_runs_in_a_circle_is_of_another_moment() -> None:
    hand = made(2, 5, 1)
    link(hand, 1, 2)
    assert torn(hand) == [20]


@pytest.mark.parametrize("inuse", [0, ORDER_0])
def test_a_slab_that_is_being_made_is_not_asked(inuse: int) -> None:
    """allocate_slab sets freelist before inuse, and inuse before ___slab_alloc takes the list away."""
    hand = made(2, 5, 1, inuse=inuse)
    assert torn(hand) == []


def test_a_slab_that_was_overwritten_is_of_no_moment() -> None:
    hand = made(2, 5, 1)
    for number in range(ORDER_0):
        hand.machine.word(address(number) + OFFSET, 0)
    assert torn(hand) == []


def test_a_slab_that_is_not_in_the_image_is_not_held_against_its_struct_page() -> None:
    hand = made(2, 5, 1, inuse=1)
    hand.machine.drop(BASE + 20 * PAGE)
    assert torn(hand) == []


@pytest.mark.parametrize("whole", [False, True])
def test_what_a_cpu_has_taken_ends_within_its_slab(whole: bool) -> None:
    """Nothing counts it; the slab's own list is empty then."""
    hand = made(structs=CPU_LISTS, inuse=ORDER_0, frozen=1)
    hand.slab(30, head=BASE + 30 * PAGE)  # by which the cache is known
    hand.machine.set("slab", hand.vmemmap + 64 * 30, "inuse", ORDER_0 - 1)
    where = BASE + 30 * PAGE + OFFSET
    hand.machine.word(where, RANDOM ^ int.from_bytes(where.to_bytes(8, "big"), "little"))
    link(hand, 3, 4)
    link(hand, 4, None)
    if not whole:
        hand.machine.word(address(4) + OFFSET, 0x1234)
    taken = hand.machine.put("kmem_cache_cpu", {"freelist": address(3), "slab": hand.vmemmap + 64 * 20})
    hand.machine.set("kmem_cache", hand.cache, "cpu_slab", taken)
    assert torn(hand) == ([] if whole else [20])


@pytest.mark.parametrize("free", [False, True])
def test_a_walk_that_comes_to_a_free_object_came_from_another_moment(free: bool) -> None:
    hand = made(2, 5, 1)
    where = address(5) + OFFSET
    if not free:
        hand.machine.word(where, 0x1234)
        hand.machine.set("slab", hand.vmemmap + 64 * 20, "freelist", 0)
    walked = Problems.of(1, problem=[Problem.NON_CANONICAL], where=[where])
    assert torn(hand, walked) == ([20] if free else [])


def test_images_of_one_moment_have_none(whole_kernel: Sample) -> None:
    found = whole_kernel.analysis.views.torn_slabs
    assert found is not None
    assert not len(found)


@pytest.mark.image
@pytest.mark.skipif(not LIVE, reason="no bundled image that was read while a guest ran")
def test_an_image_that_was_read_while_its_guest_ran_has_many() -> None:
    for sample in LIVE:
        found = sample.analysis.views.torn_slabs
        assert found is not None
        assert len(found) > 32
        assert len(np.unique(found.cache)) > 8
