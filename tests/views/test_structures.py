"""Structures that views share, made by hand: XArrays, circular lists, the order of trees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from handmade import LINUX, Machine, circular_list
from work import budget

from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.structures.circular_lists import walk_rings
from vmaforensics.views.structures.per_cpu import per_cpu_offsets
from vmaforensics.views.structures.tree_order import in_order
from vmaforensics.views.structures.xarray import all_pointers, entries_at, first_pointers
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64, Bools

CHUNK = 64
NODE = LINUX | {"xa_node": "shift:u8 offset:u8 count:u8 nr_values:u8 parent:* array:* slots:*[64]"}
A, B, C = 0xFFFF888000900000, 0xFFFF888000900100, 0xFFFF888000900200
VALUE = 0x43  # bit 0: a value, such as where a page was swapped to


def words(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def node(machine: Machine, shift: int, entries: dict[int, int]) -> int:
    """An xa_node; returns the entry that leads to it."""
    slots = [entries.get(slot, 0) for slot in range(CHUNK)]
    return machine.put("xa_node", {"shift": shift, "slots": slots}) | 2


def found(machine: Machine, *heads: int) -> tuple[list[tuple[int, int]], bool, list[Problem]]:
    """((array, pointer) of each, whole, problems)."""
    log = ProblemLog()
    which, pointers, whole = all_pointers(machine.kernel(), words(*heads), View.HANDLES, log)
    problems = [Problem(kind) for kind in log.table().problem.tolist()]
    return sorted(zip(which.tolist(), pointers.tolist(), strict=True)), whole, problems


def test_an_empty_array_and_one_with_a_lone_entry() -> None:
    assert found(Machine(NODE), 0, A, VALUE) == ([(1, A)], True, [])


def test_pointers_of_all_levels_and_arrays_are_found() -> None:
    machine = Machine(NODE)
    leaf = node(machine, 0, {3: A, 5: VALUE, 63: B})
    top = node(machine, 6, {0: leaf, 1: C})
    other = node(machine, 0, {0: C})
    assert found(machine, top, other) == ([(0, A), (0, B), (0, C), (1, C)], True, [])


def test_a_node_that_leads_back_to_itself_is_a_cycle() -> None:
    machine = Machine(NODE)
    entry = node(machine, 6, {0: A})
    machine.word(machine.at("xa_node", entry - 2, "slots") + 8, entry)
    pointers, whole, problems = found(machine, entry)
    assert (pointers, whole, problems) == ([(0, A)], False, [Problem.CYCLE])


def test_a_node_that_is_not_in_the_dump_leaves_the_rest() -> None:
    machine = Machine(NODE)
    lost = machine.room(4096, 4096)
    machine.room(4096, 4096)
    top = node(machine, 6, {0: lost | 2, 1: A})
    machine.drop(lost)
    assert found(machine, top) == ([(0, A)], False, [Problem.UNREADABLE])


def test_the_first_pointer_has_the_index_its_slots_say() -> None:
    machine = Machine(NODE)
    leaf = node(machine, 0, {7: VALUE, 9: A})
    top = node(machine, 6, {2: leaf, 3: B})
    pointers, indices = first_pointers(machine.kernel(), words(top, 0, B))
    assert (pointers.tolist(), indices.tolist()) == ([A, 0, B], [2 * CHUNK + 9, 0, 0])


@pytest.mark.parametrize(
    ("index", "entry"),
    [(0, 0), (9, A), (2 * CHUNK + 1, B), (2 * CHUNK + 2, B), (CHUNK * CHUNK, 0), (1 << 63, 0)],
)
def test_the_entry_at_an_index(index: int, entry: int) -> None:
    machine = Machine(NODE)
    low = node(machine, 0, {9: A})
    high = node(machine, 0, {1: B, 2: 1 << 2 | 2})  # a sibling: what is at slot 1 spans slot 2
    top = node(machine, 6, {0: low, 2: high})
    entries, ok = entries_at(machine.kernel(), words(top), words(index))
    assert (entries.tolist(), ok.tolist()) == ([entry], [True])


def test_a_lone_entry_is_at_index_0() -> None:
    entries, ok = entries_at(Machine(NODE).kernel(), words(A, A), words(0, 1))
    assert (entries.tolist(), ok.tolist()) == ([A, 0], [True, True])


def test_what_is_on_a_circular_list_is_linked() -> None:
    machine = Machine()
    heads = [machine.put("list_head") for _ in range(4)]
    alone = machine.put("list_head")
    never = machine.put("list_head")
    circular_list(machine, *heads)
    circular_list(machine, alone)
    ring = walk_rings(machine.kernel(), words(heads[0], alone, never), ProblemLog())
    assert ring.node[ring.linked].tolist() == sorted(heads)
    assert ring.has(words(heads[3], alone, never)).tolist() == [True, False, False]
    assert ring.whole


def test_an_element_that_its_neighbours_skip_is_not_linked() -> None:
    machine = Machine()
    heads = [machine.put("list_head") for _ in range(4)]
    circular_list(machine, *heads)
    circular_list(machine, *heads[:2], heads[3])  # list_del without poison: the element still points at them
    ring = walk_rings(machine.kernel(), words(*heads), ProblemLog())
    assert ring.has(words(*heads)).tolist() == [True, True, False, True]


def test_a_list_is_followed_both_ways_around_what_is_lost() -> None:
    machine = Machine()
    first, second = machine.put("list_head"), machine.put("list_head")
    lost = machine.room(4096, 4096)
    machine.room(4096, 4096)
    last = machine.put("list_head")
    circular_list(machine, first, second, lost, last)
    machine.drop(lost)
    log = ProblemLog()
    ring = walk_rings(machine.kernel(), words(first), log)
    assert ring.node.tolist() == sorted([first, second, lost, last])
    assert (ring.whole, log.table().where.tolist()) == (False, [lost])


def test_no_list_at_all() -> None:
    ring = walk_rings(Machine().kernel(), words(0x10), ProblemLog())
    assert (len(ring.node), ring.whole) == (0, True)


def order_of(parents: list[int], sides: list[int], edges: list[int], trees: list[int]) -> list[int]:
    made = in_order(np.array(parents), np.array(sides, np.int8), np.array(edges), words(*trees))
    return list(made.sort.tolist())


def test_rows_found_level_by_level_are_put_in_order() -> None:
    # Of tree 1: root 0, left 1, right 2, left's right 4; of tree 0, which comes first: root 3 alone.
    assert order_of([-1, -1, 0, 0, 2], [0, 0, 0, 1, 1], [0, 2, 4, 5], [1, 0, 1, 1, 1]) == [1, 2, 4, 0, 3]


def test_a_chain_to_the_right_keeps_its_order() -> None:
    assert order_of([-1, 0, 1], [0, 1, 1], [0, 1, 2, 3], [0, 0, 0]) == [0, 1, 2]
    assert order_of([-1, 0, 1], [0, 0, 0], [0, 1, 2, 3], [0, 0, 0]) == [2, 1, 0]


def test_children_and_parents_are_places_in_the_sorted_rows() -> None:
    made = in_order(np.array([-1, 0, 0]), np.array([0, 0, 1], np.int8), np.array([0, 1, 3]), words(5, 5, 5))
    assert made.order.tolist() == [1, 0, 2]
    assert (made.parent.tolist(), made.left.tolist(), made.right.tolist()) == ([-1, 1, 1], [0, -1, -1], [2, -1, -1])


def test_without_smp_there_is_one_copy_of_per_cpu_variables() -> None:
    assert per_cpu_offsets(Machine().kernel()).tolist() == [0]


def test_each_possible_cpu_has_an_offset() -> None:
    machine = Machine()
    machine.symbols["__per_cpu_offset"] = table = machine.room(64)
    machine.symbols["nr_cpu_ids"] = count = machine.room(8)
    machine.write(count, (2).to_bytes(4, "little"))
    for cpu, offset in enumerate((0x1000, 0x2000, 0x3000)):
        machine.word(table + 8 * cpu, offset)
    assert per_cpu_offsets(machine.kernel()).tolist() == [0x1000, 0x2000]


def test_a_whole_list_that_the_head_is_not_on_is_told_from_a_broken_part_of_its_own() -> None:
    machine = Machine(LINUX)
    rings = [[machine.put("list_head") for _ in range(size)] for size in (4, 3)]
    for nodes in rings:
        circular_list(machine, nodes[0], *nodes[1:])
    own, other = rings
    ring = walk_rings(machine.kernel(), np.array([own[0], other[1]], np.uint64), ProblemLog())
    assert ring.node[ring.of_another(own[0])].tolist() == sorted(other)
    machine.word(other[1], own[0])  # its next: the list is whole no longer
    ring = walk_rings(machine.kernel(), np.array([own[0], other[1]], np.uint64), ProblemLog())
    assert not ring.of_another(own[0]).any()


def test_a_long_list_that_nobody_knew_is_followed_in_little_work() -> None:
    machine = Machine()
    heads = [machine.put("list_head") for _ in range(400)]
    circular_list(machine, *heads)
    kernel = machine.kernel()
    with budget(reads=500, octets=1 << 16) as work:
        ring = walk_rings(kernel, words(heads[0]), ProblemLog())
    assert (int(ring.linked.sum()), ring.whole) == (400, True)
    assert work.reads <= 201  # one for each step, from both ends


def test_what_does_not_lead_on_is_read_but_not_followed() -> None:
    machine = Machine()
    own, foreign = ([machine.put("list_head") for _ in range(size)] for size in (3, 200))
    circular_list(machine, *own)
    circular_list(machine, *foreign)

    def leads_on(nodes: U64) -> Bools:
        known: Bools = np.isin(nodes, words(*own))
        return known

    ring = walk_rings(machine.kernel(), words(*own), ProblemLog(), leads_on=leads_on)
    assert (ring.node.tolist(), ring.whole) == (sorted(own), True)
    machine.word(own[1], foreign[0])  # its next: given back, it went to another list
    ring = walk_rings(machine.kernel(), words(*own), ProblemLog(), leads_on=leads_on)
    assert ring.node.tolist() == sorted([*own, foreign[0]])
    assert not ring.whole
