"""Slab caches and slab pages made by hand: a cache, its slabs in vmemmap, pages that only look like them."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import BASE, LINUX, PAGE, Machine

from views.handmade_slab import ORDER_0, SIZE, STRUCTS, Hand, problems_of
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.slab.caches import Caches, ObjectKind, read_caches
from vmaforensics.views.slab.free_objects import FreeObjects, free_objects
from vmaforensics.views.slab.objects import State, gather_slab
from vmaforensics.views.slab.slab_pages import SlabLayout, find_slabs, outside_cache


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


@pytest.mark.parametrize("lost", [False, True])
def test_a_slab_whose_struct_page_is_not_in_the_dump_is_no_wrong_pointer(lost: bool) -> None:
    structs = {"kmem_cache_cpu": "freelist:* slab:*", "kmem_cache": f"{STRUCTS['kmem_cache']} cpu_slab:*"}
    hand = Hand(STRUCTS | structs)
    page = hand.slab(5, cache=1)  # of another cache, as the struct page says
    taken = hand.machine.put("kmem_cache_cpu", {"freelist": BASE + 5 * PAGE, "slab": page})
    hand.machine.set("kmem_cache", hand.cache, "cpu_slab", taken)
    if lost:
        hand.machine.drop(hand.vmemmap)
    found, problems = free_of(hand)
    assert not found.free.any()
    assert problems == ([] if lost else [(Problem.MISALIGNED, taken)])


@pytest.mark.parametrize("lost", [False, True])
def test_a_free_object_on_a_page_of_which_nothing_is_known_is_none(lost: bool) -> None:
    structs = {
        "slub_percpu_sheaves": "main:* spare:* rcu_free:*",
        "slab_sheaf": "barn_list:list_head size:u32 objects:*[8]",
        "node_barn": "sheaves_full:list_head",
        "kmem_cache_node": "barn:*",
        "kmem_cache": f"{STRUCTS['kmem_cache']} sheaf_capacity:u32 cpu_sheaves:* node:*[2]",
    }
    hand = Hand(STRUCTS | structs)
    sheaf = hand.machine.put("slab_sheaf", {"size": 1, "objects": [BASE + 5 * PAGE, *[0] * 7]})
    sheaves = hand.machine.put("slub_percpu_sheaves", {"main": sheaf})
    hand.machine.set("kmem_cache", hand.cache, "sheaf_capacity", 8)
    hand.machine.set("kmem_cache", hand.cache, "cpu_sheaves", sheaves)
    if lost:
        hand.machine.drop(hand.vmemmap)
    found, problems = free_of(hand)
    assert not found.free.any()
    assert problems == ([] if lost else [(Problem.MISALIGNED, hand.machine.at("slab_sheaf", sheaf, "objects"))])


def free_of(hand: Hand) -> tuple[FreeObjects, list[tuple[Problem, int]]]:
    """The free objects of a memory, and what is wrong with free lists."""
    kernel, log = hand.kernel(), ProblemLog()
    caches = read_caches(kernel, ProblemLog())
    layout = SlabLayout(caches=caches, slabs=find_slabs(kernel, caches, ProblemLog()).slabs)
    return free_objects(kernel, layout, log), problems_of(log)
