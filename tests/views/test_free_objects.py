"""Free lists and sheaves of slabs made by hand: whole, hidden, circular, astray, lost."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import BASE, Machine

from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.slab.caches import Caches, ObjectKind
from vmaforensics.views.slab.encodings import Encoding, reveal
from vmaforensics.views.slab.free_objects import FreeObjects, free_objects
from vmaforensics.views.slab.objects import SlabView, State
from vmaforensics.views.slab.slab_pages import SlabLayout, Slabs

PAGE = 4096
SIZE, COUNT, OFFSET = 64, 4, 32  # bytes of an object, objects of a slab, where its free pointer is
RANDOM = 0x1122334455667788

STRUCTS = {
    "list_head": "next:* prev:*",
    "kmem_cache_cpu": "freelist:* slab:*",
    "slub_percpu_sheaves": "main:* spare:* rcu_free:*",
    "slab_sheaf": "barn_list:list_head size:u32 objects:*[8]",
    "node_barn": "sheaves_full:list_head",
    "kmem_cache_node": "barn:*",
}
CPU_LISTS = STRUCTS | {"kmem_cache": "cpu_slab:*"}
SHEAVES = STRUCTS | {"kmem_cache": "cpu_sheaves:* node:*[2]"}


class Hand:
    """Two slabs of one cache, each on a page of its own, all objects allocated."""

    def __init__(
        self,
        structs: dict[str, str] = STRUCTS,
        *,
        random: int = 0,
        capacity: int = 0,
        encoding: Encoding = Encoding.SWAPPED,
    ) -> None:
        self.machine = Machine(structs)
        self.random, self.encoding = random, encoding
        self.slabs = [self.machine.room(PAGE, PAGE) for _ in range(2)]
        self.heads = [0, 0]
        self.cache = self.machine.put("kmem_cache") if "kmem_cache" in structs else self.machine.room(256)
        self.columns = {"capacity": [capacity]}

    def object(self, slab: int, number: int) -> int:
        return self.slabs[slab] + number * SIZE

    def link(self, at: int, after: int) -> None:
        """Let the free object ``at`` point to ``after``, as set_freepointer (mm/slub.c) does."""
        where = at + OFFSET
        place = {
            Encoding.SWAPPED: int.from_bytes(where.to_bytes(8, "big"), "little"),
            Encoding.PLACE: where,
            Encoding.RANDOM: 0,
        }
        hidden = self.random and self.encoding is not Encoding.PLAIN
        self.machine.word(where, after ^ self.random ^ place[self.encoding] if hidden else after)

    def chain(self, slab: int, *numbers: int) -> None:
        """The free list of a slab: objects by number, in order."""
        objects = [self.object(slab, number) for number in numbers]
        self.heads[slab] = objects[0]
        for at, after in zip(objects, [*objects[1:], 0], strict=True):
            self.link(at, after)

    def layout(self, *, frozen: bool = False) -> SlabLayout:
        caches = Caches.of(
            kind=[ObjectKind.VMA],
            cache=[self.cache],
            size=[SIZE],
            offset=[OFFSET],
            random=[self.random],
            **self.columns,
        )
        slabs = Slabs.of(
            page=[1, 2],
            base=self.slabs,
            cache=[0, 0],
            first=[0, COUNT],
            objects=[COUNT, COUNT],
            frozen=[frozen, False],
            freelist=self.heads,
        )
        return SlabLayout(caches=caches, slabs=slabs)

    def read(self, *, frozen: bool = False) -> tuple[FreeObjects, list[tuple[Problem, int, int]]]:
        log = ProblemLog()
        found = free_objects(self.machine.kernel(), self.layout(frozen=frozen), log)
        rows = log.table()
        kinds = [Problem(kind) for kind in rows.problem.tolist()]
        return found, list(zip(kinds, rows.where.tolist(), rows.value.tolist(), strict=True))


def free_in(found: FreeObjects, slab: int) -> list[int]:
    return np.flatnonzero(found.free[slab * COUNT : (slab + 1) * COUNT]).tolist()


@pytest.mark.parametrize("random", [0, RANDOM])
def test_a_free_list_is_followed_to_its_end(random: int) -> None:
    hand = Hand(random=random)
    hand.chain(0, 2, 0)
    hand.chain(1, 3)
    found, problems = hand.read()
    assert not problems
    assert (free_in(found, 0), free_in(found, 1)) == ([0, 2], [3])
    assert not found.doubtful.any()


@pytest.mark.parametrize("encoding", Encoding)
def test_how_pointers_are_hidden_is_told_by_where_they_lead(encoding: Encoding) -> None:
    """freelist_ptr of 4.14 to 5.6 (mm/slub.c) did not swap the bytes of the address; others are read too."""
    hand = Hand(random=RANDOM, encoding=encoding)
    hand.chain(0, 2, 0, 1)
    found, problems = hand.read()
    assert (problems, free_in(found, 0), found.encoding.tolist()) == ([], [0, 1, 2], [encoding])


def test_a_list_led_astray_does_not_decide_how_pointers_are_hidden() -> None:
    hand = Hand(random=RANDOM, encoding=Encoding.PLACE)
    hand.chain(0, 2, 0)
    hand.chain(1, 3, 1)
    hand.link(hand.object(1, 3), 0xFFFF_8880_DEAD_0000)
    found, problems = hand.read()
    assert (free_in(found, 0), free_in(found, 1)) == ([0, 2], [3])
    assert [problem for problem, _, _ in problems] == [Problem.MISALIGNED]


def test_a_full_slab_has_no_free_object() -> None:
    found, problems = Hand().read()
    assert not problems
    assert not found.free.any()


def test_an_empty_slab_has_only_free_objects() -> None:
    hand = Hand()
    hand.chain(0, 0, 1, 2, 3)
    found, _ = hand.read()
    assert free_in(found, 0) == [0, 1, 2, 3]


def test_a_free_list_that_leads_back_ends_and_leaves_doubt() -> None:
    hand = Hand()
    hand.chain(0, 1, 2)
    hand.link(hand.object(0, 2), hand.object(0, 1))
    found, problems = hand.read()
    assert free_in(found, 0) == [1, 2]
    assert found.doubtful.tolist() == [True, False]
    assert problems == [(Problem.CYCLE, hand.object(0, 2) + OFFSET, hand.object(0, 1))]


@pytest.mark.parametrize("beyond", [1, SIZE * COUNT, PAGE, -SIZE])
def test_a_free_pointer_to_no_object_of_the_slab_is_not_believed(beyond: int) -> None:
    """Into an object, behind the last one, into another slab, before the first one."""
    hand = Hand()
    hand.chain(0, 3)
    target = hand.slabs[0] + beyond
    hand.link(hand.object(0, 3), target)
    found, problems = hand.read()
    assert free_in(found, 0) == [3]
    assert not free_in(found, 1)
    assert found.doubtful.tolist() == [True, False]
    assert problems == [(Problem.MISALIGNED, hand.object(0, 3) + OFFSET, target)]


def test_a_head_that_leads_astray_is_a_problem_of_the_slab_page() -> None:
    hand = Hand()
    hand.heads[1] = 0xFFFF_8880_DEAD_0000
    found, problems = hand.read()
    assert found.doubtful.tolist() == [False, True]
    assert problems == [(Problem.MISALIGNED, 2, 0xFFFF_8880_DEAD_0000)]


def test_a_slab_that_is_not_in_the_dump_leaves_doubt() -> None:
    hand = Hand()
    hand.chain(0, 1, 0)
    hand.machine.drop(hand.slabs[0])
    found, problems = hand.read()
    assert free_in(found, 0) == [1]
    assert found.doubtful.tolist() == [True, False]
    assert problems == [(Problem.UNREADABLE, hand.object(0, 1) + OFFSET, 0)]


def test_a_hidden_pointer_is_that_of_freelist_ptr_decode() -> None:
    """CONFIG_SLAB_FREELIST_HARDENED: ptr ^ s->random ^ swab(ptr_addr)."""
    where, pointer = 0xFFFF888001020304, 0xFFFF888001020340
    hidden = pointer ^ RANDOM ^ 0x040302018088FFFF
    words, places = np.array([hidden], np.uint64), np.array([where], np.uint64)
    assert reveal(words, places, np.array([RANDOM], np.uint64)).tolist() == [pointer]
    assert reveal(words, places, np.array([0], np.uint64)).tolist() == [hidden]


def cpu_list(hand: Hand, head: int, page: int) -> int:
    """A CPU that has taken the list that begins at ``head`` from the slab with the struct page ``page``."""
    at = hand.machine.put("kmem_cache_cpu", {"freelist": head, "slab": page})
    hand.columns["cpu_slab"] = [at]
    return at


def test_the_list_of_a_cpu_is_free_too() -> None:
    hand = Hand(CPU_LISTS)
    hand.chain(0, 2)
    hand.link(hand.object(0, 1), hand.object(0, 3))
    cpu_list(hand, hand.object(0, 1), 1)
    found, problems = hand.read(frozen=True)
    assert not problems
    assert free_in(found, 0) == [1, 2, 3]


def test_a_cpu_that_cannot_be_read_leaves_doubt_about_slabs_lent_to_cpus() -> None:
    hand = Hand(CPU_LISTS)
    hand.machine.room(0, PAGE)
    at = cpu_list(hand, hand.object(0, 1), 1)
    hand.machine.drop(at)
    found, problems = hand.read(frozen=True)
    assert found.doubtful.tolist() == [True, False]
    assert problems == [(Problem.UNREADABLE, at, 0)]


def test_a_cpu_with_a_slab_of_another_cache_is_a_problem() -> None:
    hand = Hand(CPU_LISTS)
    at = cpu_list(hand, hand.object(0, 1), 77)
    found, problems = hand.read()
    assert not found.free.any()
    assert problems == [(Problem.MISALIGNED, at, 77)]


def sheaf(hand: Hand, *objects: int) -> int:
    """A sheaf that holds ``objects``; what stands behind them is left over."""
    left = [*objects, hand.object(1, 3)]
    return hand.machine.put("slab_sheaf", {"size": len(objects), "objects": left})


def test_objects_in_the_sheaves_of_a_cpu_are_free() -> None:
    hand = Hand(SHEAVES, capacity=8)
    main, spare = sheaf(hand, hand.object(0, 1), hand.object(1, 2)), sheaf(hand, hand.object(0, 3))
    hand.columns["cpu_sheaves"] = [hand.machine.put("slub_percpu_sheaves", {"main": main, "spare": spare})]
    found, problems = hand.read()
    assert not problems
    assert (free_in(found, 0), free_in(found, 1)) == ([1, 3], [2])


def test_a_size_beyond_the_capacity_is_cut_to_it() -> None:
    hand = Hand(SHEAVES, capacity=1)
    main = sheaf(hand, hand.object(0, 1), hand.object(1, 2))
    hand.columns["cpu_sheaves"] = [hand.machine.put("slub_percpu_sheaves", {"main": main})]
    found, _ = hand.read()
    assert (free_in(found, 0), free_in(found, 1)) == ([1], [])


def test_a_sheaf_with_what_is_no_object_is_a_problem() -> None:
    hand = Hand(SHEAVES, capacity=8)
    main = sheaf(hand, hand.object(0, 1) + 8)
    hand.columns["cpu_sheaves"] = [hand.machine.put("slub_percpu_sheaves", {"main": main})]
    found, problems = hand.read()
    assert not found.free.any()
    at = hand.machine.at("slab_sheaf", main, "objects")
    assert problems == [(Problem.MISALIGNED, at, hand.object(0, 1) + 8)]


def barn_of(hand: Hand, *sheaves: int, back: int | None = None) -> None:
    """A barn of node 0 with full sheaves; the last leads to ``back`` in place of the barn."""
    machine = hand.machine
    barn = machine.put("node_barn")
    nodes = [machine.at("node_barn", barn, "sheaves_full")]
    nodes += [machine.at("slab_sheaf", sheaf, "barn_list") for sheaf in sheaves]
    for here, after in zip(nodes, [*nodes[1:], nodes[0] if back is None else back], strict=True):
        machine.word(here, after)
    machine.set("kmem_cache", hand.cache, "node", [machine.put("kmem_cache_node", {"barn": barn})])
    hand.columns["cpu_sheaves"] = [machine.put("slub_percpu_sheaves")]


def test_full_sheaves_in_a_barn_are_free() -> None:
    hand = Hand(SHEAVES, capacity=8)
    barn_of(hand, sheaf(hand, hand.object(0, 0)), sheaf(hand, hand.object(1, 1)))
    found, problems = hand.read()
    assert not problems
    assert (free_in(found, 0), free_in(found, 1)) == ([0], [1])
    assert not found.doubtful.any()


def test_a_barn_whose_list_leads_back_into_itself_leaves_doubt() -> None:
    hand = Hand(SHEAVES, capacity=8)
    first = sheaf(hand, hand.object(0, 0))
    barn_of(hand, first, sheaf(hand, hand.object(1, 1)), back=hand.machine.at("slab_sheaf", first, "barn_list"))
    found, _ = hand.read()
    assert (free_in(found, 0), free_in(found, 1)) == ([0], [1])
    assert found.doubtful.all()


def test_an_address_is_an_object_only_where_one_begins() -> None:
    hand = Hand()
    layout = hand.layout()
    first, second = hand.slabs
    wanted = np.array([first, first + 1, second + SIZE, first + SIZE * COUNT, BASE, 0, 2**64 - 1], np.uint64)
    assert layout.rows(wanted, layout.slab_of(wanted)).tolist() == [0, -1, COUNT + 1, -1, -1, -1, -1]
    assert layout.addresses(np.array([1])).tolist() == [second + SIZE * number for number in range(COUNT)]


def test_objects_begin_behind_their_red_zone() -> None:
    hand = Hand()
    hand.columns["pad"] = [16]
    layout = hand.layout()
    wanted = np.array([hand.slabs[0], hand.slabs[0] + 16], np.uint64)
    assert layout.rows(wanted, layout.slab_of(wanted)).tolist() == [-1, 0]
    assert layout.addresses(np.array([0]))[0] == hand.slabs[0] + 16


def test_states_are_those_of_the_kind_asked_for() -> None:
    hand = Hand()
    state = np.array([State.FREE, State.ALLOCATED, State.UNKNOWN, State.ALLOCATED] * 2, np.uint8)
    slab = SlabView(layout=hand.layout(), state=state)
    wanted = np.array([hand.object(0, 0), hand.object(1, 1), hand.object(0, 2), BASE], np.uint64)
    assert slab.states(wanted, ObjectKind.VMA).tolist() == [State.FREE, State.ALLOCATED, State.UNKNOWN, State.ABSENT]
    assert slab.states(wanted, ObjectKind.MM).tolist() == [State.ABSENT] * 4
    assert slab.slab_pages(wanted, ObjectKind.VMA).tolist() == [1, 2, 1, 0]
    objects = slab.of(ObjectKind.VMA)
    assert objects.address.tolist() == [hand.object(at, number) for at in range(2) for number in range(COUNT)]
    assert objects.state.tolist() == state.tolist()
    assert not len(slab.of(ObjectKind.TASK))


def test_without_slabs_nothing_is_an_object() -> None:
    layout = SlabLayout(caches=Caches.of(cache=[1], size=[8]), slabs=Slabs.zeros(0))
    wanted = np.array([BASE], np.uint64)
    assert layout.count == 0
    assert layout.rows(wanted, layout.slab_of(wanted)).tolist() == [-1]
    slab = SlabView(layout=layout, state=np.zeros(0, np.uint8))
    assert slab.states(wanted, ObjectKind.VMA).tolist() == [State.ABSENT]
    assert not len(slab.of(ObjectKind.VMA))
