"""Slab caches and slab pages made by hand: a cache, its slabs in vmemmap, pages that only look like them."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import BASE, LINUX, PAGE, Machine

from views.handmade_slab import ORDER_0, SIZE, Hand
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.slab.caches import Caches, ObjectKind, read_caches
from vmaforensics.views.slab.objects import State, gather_slab
from vmaforensics.views.slab.slab_pages import outside_cache


def test_a_cache_says_how_its_slabs_are_laid_out() -> None:
    hand = Hand()
    hand.machine.set("kmem_cache", hand.cache, "random", 0x1234)
    rows, problems = hand.caches()
    assert not problems
    assert (rows.kind.tolist(), rows.cache.tolist(), rows.size.tolist()) == ([ObjectKind.VMA], [hand.cache], [SIZE])
    assert (rows.offset.tolist(), rows.random.tolist(), rows.users.tolist()) == ([8], [0x1234], [1])
    assert rows.most(Machine().kernel().arch).tolist() == [ORDER_0]
    assert rows.capacity.tolist() == [0]  # this kernel has no sheaves


@pytest.mark.parametrize(("order", "stated", "most"), [(0, 100, 8), (1, 100, 16), (0, 5, 5), (60, 0xFFFF, 1 << 13)])
def test_a_slab_has_no_more_objects_than_fit_into_its_pages(order: int, stated: int, most: int) -> None:
    rows = Caches.of(size=[SIZE], oo=[order << 16 | stated])
    assert rows.most(Machine().kernel().arch).tolist() == [most]


@pytest.mark.parametrize("members", [{"size": 8}, {"offset": SIZE - 4}, {"oo.x": 0}])
def test_a_cache_in_which_no_vma_fits_is_not_believed(members: dict[str, int]) -> None:
    hand = Hand()
    for path, value in members.items():
        hand.machine.set("kmem_cache", hand.cache, path, value)
    rows, problems = hand.caches()
    assert not len(rows)
    assert problems == [(Problem.BAD_TAG, hand.cache)]


def test_a_kernel_that_does_not_name_a_cache_says_so() -> None:
    kernel = Hand().kernel()
    read_caches(kernel, ProblemLog())
    assert any("mm_cachep" in line for line in kernel.identity.problems)


def test_merged_kinds_share_a_cache() -> None:
    hand = Hand()
    hand.machine.symbols[ObjectKind.MM.symbol] = hand.machine.symbols[ObjectKind.VMA.symbol]
    hand.machine.set("kmem_cache", hand.cache, "size", 2048)
    rows, _ = hand.caches()
    assert rows.kind.tolist() == [ObjectKind.VMA, ObjectKind.MM]
    assert len(rows.distinct()) == 1


def test_slabs_are_the_heads_that_name_the_cache() -> None:
    hand = Hand()
    pages = [hand.slab(40), hand.slab(20, objects=3)]
    hand.slab(21, page_type=0)  # names the cache, is no slab
    hand.slab(22, cache=0xFFFF_8880_0000_0100)  # a slab of another cache
    rows, problems = hand.slabs()
    assert not problems
    assert rows.page.tolist() == [pages[1], pages[0]]
    assert rows.base.tolist() == [BASE + 20 * PAGE, BASE + 40 * PAGE]
    assert rows.objects.tolist() == [3, ORDER_0]
    assert rows.first.tolist() == [0, 3]


def test_more_objects_than_a_slab_can_have_are_not_believed() -> None:
    hand = Hand()
    hand.slab(20)
    absurd = hand.slab(30, objects=0x7FFF)
    rows, problems = hand.slabs()
    assert rows.base.tolist() == [BASE + 20 * PAGE]
    assert problems == [(Problem.BAD_TAG, absurd)]


def test_without_slabs_there_are_none() -> None:
    rows, problems = Hand().slabs()
    assert (len(rows), problems) == (0, [])


def test_the_view_tells_allocated_from_free() -> None:
    hand = Hand()
    base = BASE + 20 * PAGE
    hand.slab(20, head=base + SIZE)
    slab = gather_slab(hand.kernel(), ProblemLog())
    assert slab is not None
    wanted = np.array([base, base + SIZE, base + 1, base + PAGE], np.uint64)
    states = [State.ALLOCATED, State.FREE, State.ABSENT, State.ABSENT]
    assert slab.states(wanted, ObjectKind.VMA).tolist() == states
    assert slab.has(wanted).tolist() == [True, True, False, False]
    assert (slab.of(ObjectKind.VMA).state == State.ALLOCATED).sum() == ORDER_0 - 1


def test_a_kernel_without_caches_has_no_view() -> None:
    kernel = Machine(LINUX).kernel()
    assert gather_slab(kernel, ProblemLog()) is None
    assert any("kmem_cache" in line for line in kernel.identity.problems)


def test_an_address_is_outside_where_its_page_is_no_slab_of_the_cache() -> None:
    hand = Hand()
    hand.slab(20)
    hand.slab(22, cache=0xFFFF_8880_0000_0100)
    addresses = np.array([BASE + pfn * PAGE + 8 for pfn in (20, 21, 22)] + [0xFFFF_FFFF_8000_0000], np.uint64)
    # An address that nothing maps cannot be told to be outside.
    assert outside_cache(hand.kernel(), addresses, hand.cache).tolist() == [False, True, True, False]
