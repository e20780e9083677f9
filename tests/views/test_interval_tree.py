"""Interval trees of the reverse maps, made by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from handmade import LINUX, Machine

from vmaforensics.columns.types import U64
from vmaforensics.views.problems import Problem
from vmaforensics.views.structures.interval_tree import ANON, FILE, IntervalWalk, walk_trees

STRUCTS = LINUX | {
    "vm_area_struct": "vm_start:u64 shared:shared",
    "shared": "rb:rb_node rb_subtree_last:u64",
    "anon_vma_chain": "vma:* anon_vma:* same_vma:list_head rb:rb_node rb_subtree_last:u64",
}
TREE = 0xFFFF_8880_0000_AA00  # whatever the roots are said to be roots of
ROOT_SLOT = 0xFFFF_8880_0000_BB00


def words(*values: int) -> U64:
    return np.array(values, np.uint64)


@pytest.fixture
def machine() -> Machine:
    return Machine(STRUCTS)


def vma(machine: Machine, last: int = 0) -> int:
    return machine.put("vm_area_struct", {"shared.rb_subtree_last": last})


def node(machine: Machine, item: int) -> int:
    return machine.at("vm_area_struct", item, "shared.rb")


def hang(machine: Machine, parent: int, side: str, child: int) -> None:
    """Make ``child`` the left or right child of ``parent``."""
    machine.set("vm_area_struct", parent, f"shared.rb.rb_{side}", node(machine, child))
    machine.set("vm_area_struct", child, "shared.rb.__rb_parent_color", node(machine, parent) | 1)


def walk(machine: Machine, *roots: int) -> IntervalWalk:
    trees = words(*(TREE + number for number in range(len(roots))))
    return walk_trees(machine.kernel(), FILE, trees, words(*roots), np.full(len(roots), ROOT_SLOT, np.uint64))


def problems(found: IntervalWalk) -> list[Problem]:
    return [Problem(number) for number in found.broken.problem.tolist()]


def test_an_empty_tree_has_no_nodes(machine: Machine) -> None:
    found = walk(machine, 0, 0)
    assert len(found.nodes) == len(found.broken) == 0


def test_a_lone_node_is_root_and_has_no_children(machine: Machine) -> None:
    item = vma(machine, last=7)
    found = walk(machine, node(machine, item))
    nodes = found.nodes
    assert (nodes.tree.tolist(), nodes.item.tolist(), nodes.vma.tolist()) == ([TREE], [item], [item])
    assert (nodes.node.tolist(), nodes.slot.tolist()) == ([node(machine, item)], [ROOT_SLOT])
    assert (nodes.parent.tolist(), nodes.left.tolist(), nodes.right.tolist()) == ([-1], [-1], [-1])
    assert (nodes.last.tolist(), nodes.order.tolist()) == ([7], [0])
    assert not len(found.broken)


def test_nodes_come_in_order_of_their_tree(machine: Machine) -> None:
    root, left, right, inner = (vma(machine) for _ in range(4))
    hang(machine, root, "left", left)
    hang(machine, root, "right", right)
    hang(machine, left, "right", inner)
    nodes = walk(machine, node(machine, root)).nodes
    assert nodes.item.tolist() == [left, inner, root, right]
    assert nodes.order.tolist() == [0, 1, 2, 3]
    assert nodes.parent.tolist() == [2, 0, -1, 2]
    assert nodes.left.tolist() == [-1, -1, 0, -1]
    assert nodes.right.tolist() == [1, -1, 3, -1]
    assert nodes.slot.tolist()[0] == machine.at("vm_area_struct", root, "shared.rb.rb_left")
    assert nodes.parent_word.tolist()[1] == node(machine, left) | 1


def test_the_vma_of_an_anon_vma_tree_is_the_one_its_link_names(machine: Machine) -> None:
    area = vma(machine)
    link = machine.put("anon_vma_chain", {"vma": area, "rb_subtree_last": 3})
    root = words(machine.at("anon_vma_chain", link, "rb"))
    nodes = walk_trees(machine.kernel(), ANON, words(TREE), root, words(ROOT_SLOT)).nodes
    assert (nodes.item.tolist(), nodes.vma.tolist(), nodes.last.tolist()) == ([link], [area], [3])


def test_a_child_that_is_its_own_grandparent_is_a_cycle(machine: Machine) -> None:
    root, child = vma(machine), vma(machine)
    hang(machine, root, "left", child)
    machine.set("vm_area_struct", child, "shared.rb.rb_right", node(machine, root))
    found = walk(machine, node(machine, root))
    assert found.nodes.item.tolist() == [child, root]
    assert problems(found) == [Problem.CYCLE]
    cycle = found.broken
    assert cycle.item.tolist() == [child]
    assert cycle.slot.tolist() == [machine.at("vm_area_struct", child, "shared.rb.rb_right")]
    assert cycle.value.tolist() == [node(machine, root)]


def test_a_node_in_two_trees_belongs_to_the_one_where_it_is_higher(machine: Machine) -> None:
    first, second, shared = vma(machine), vma(machine), vma(machine)
    hang(machine, first, "left", second)
    hang(machine, second, "left", shared)
    found = walk(machine, node(machine, first), node(machine, shared))
    assert found.nodes.item.tolist() == [second, first, shared]
    assert found.nodes.tree.tolist() == [TREE, TREE, TREE + 1]
    assert problems(found) == [Problem.CYCLE]
    assert found.broken.tree.tolist() == [TREE]


@pytest.mark.parametrize(
    ("pointer", "problem"),
    [
        (0x7F00_0000_0000, Problem.NON_CANONICAL),
        (TREE | 4, Problem.MISALIGNED),
        (TREE + 0x10_0000_0000, Problem.UNREADABLE),
    ],
)
def test_a_pointer_that_leads_nowhere_is_handed_back(machine: Machine, pointer: int, problem: Problem) -> None:
    root, right = vma(machine), vma(machine)
    hang(machine, root, "right", right)
    machine.set("vm_area_struct", root, "shared.rb.rb_left", pointer)
    found = walk(machine, node(machine, root))
    assert found.nodes.item.tolist() == [root, right]
    assert problems(found) == [problem]
    assert (found.broken.item.tolist(), found.broken.value.tolist()) == ([root], [pointer])


def test_a_root_that_is_no_pointer_is_nobodys(machine: Machine) -> None:
    found = walk(machine, 0x1234)
    assert problems(found) == [Problem.NON_CANONICAL]
    assert (found.broken.item.tolist(), found.broken.slot.tolist()) == ([0], [ROOT_SLOT])


def test_a_path_deeper_than_any_tree_is_cut_short(machine: Machine) -> None:
    machine = Machine(STRUCTS, pages=128)
    items = [vma(machine) for _ in range(140)]
    for parent, child in itertools.pairwise(items):
        hang(machine, parent, "left", child)
    found = walk(machine, node(machine, items[0]))
    assert len(found.nodes) == 128
    assert problems(found) == [Problem.CUT_SHORT]
