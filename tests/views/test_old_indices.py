"""The vm_next list and the red-black tree of kernels up to 6.0, on memories made by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from handmade import LINUX_5_10, Machine

from vmaforensics.views.indices.rbtree import RbTree, walk_rbtree
from vmaforensics.views.indices.vma_list import walk_list
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.processes.mms import Mms

if TYPE_CHECKING:
    from vmaforensics.views.indices.entries import IndexEntries

NONE = np.zeros(0, np.uint64)
WILD, CROOKED = 0x1234, 0xFFFF888000000001


class OldKernel:
    """Address spaces of a 5.10 kernel, and what walking them gives."""

    def __init__(self) -> None:
        self.machine = Machine(LINUX_5_10)
        self.log = ProblemLog()
        self._mms: list[tuple[int, int, int]] = []

    def vmas(self, count: int) -> list[int]:
        return [self.machine.put("vm_area_struct") for _ in range(count)]

    def mm(self, *, mmap: int = 0, rb_root: int = 0) -> int:
        mm = self.machine.put("mm_struct", {"mmap": mmap, "mm_rb.rb_node": rb_root})
        self._mms.append((mm, mmap, rb_root))
        return mm

    def link(self, *vmas: int) -> None:
        """Chain the VMAs by ``vm_next``."""
        for here, after in pairwise(vmas):
            self.machine.set("vm_area_struct", here, "vm_next", after)

    def next_of(self, vma: int) -> int:
        return self.machine.at("vm_area_struct", vma, "vm_next")

    def node(self, vma: int) -> int:
        return self.machine.at("vm_area_struct", vma, "vm_rb")

    def child(self, vma: int, side: str, pointer: int) -> int:
        """Set a child pointer; returns the address of the word."""
        self.machine.set("vm_area_struct", vma, f"vm_rb.{side}", pointer)
        return self.machine.at("vm_area_struct", vma, f"vm_rb.{side}")

    def mms(self) -> Mms:
        mm, mmap, rb_root = zip(*self._mms, strict=True)
        return Mms.of(mm=mm, mmap=mmap, rb_root=rb_root, ok=[True] * len(mm)).sort_by(np.array(mm))

    def walk_list(self, hint: list[int] | None = None) -> IndexEntries:
        found = walk_list(self.machine.kernel(), self.mms(), np.array(hint or [], np.uint64), self.log)
        assert found is not None
        return found

    def walk_tree(self) -> RbTree:
        found = walk_rbtree(self.machine.kernel(), self.mms(), self.log)
        assert found is not None
        return found

    def problems(self) -> list[tuple[Problem, int]]:
        table = self.log.table()
        return list(zip(map(Problem, table.problem.tolist()), table.where.tolist(), strict=True))


@pytest.fixture
def old() -> OldKernel:
    return OldKernel()


def test_an_empty_list_has_no_entry(old: OldKernel) -> None:
    old.mm()
    assert len(old.walk_list()) == 0
    assert old.problems() == []


def test_a_list_of_one_is_led_to_by_the_head(old: OldKernel) -> None:
    (vma,) = old.vmas(1)
    mm = old.mm(mmap=vma)
    entries = old.walk_list()
    assert (entries.mm.tolist(), entries.vma.tolist(), entries.order.tolist()) == ([mm], [vma], [0])
    assert entries.slot.tolist() == [old.machine.at("mm_struct", mm, "mmap")]


@pytest.mark.parametrize("count", [2, 3, 8, 33])
@pytest.mark.parametrize("known", [0, 1, 33])
def test_entries_are_in_list_order_whatever_was_known(old: OldKernel, count: int, known: int) -> None:
    vmas = old.vmas(count)
    vmas = vmas[::2] + vmas[1::2]  # not that of the addresses
    old.link(*vmas)
    mm = old.mm(mmap=vmas[0])
    entries = old.walk_list(vmas[:known])
    assert entries.vma.tolist() == vmas
    assert entries.order.tolist() == list(range(count))
    assert entries.slot.tolist() == [old.machine.at("mm_struct", mm, "mmap"), *map(old.next_of, vmas[:-1])]
    assert old.problems() == []


def test_what_only_the_hint_knows_is_on_no_list(old: OldKernel) -> None:
    listed, other = old.vmas(2)
    old.mm(mmap=listed)
    assert old.walk_list([other]).vma.tolist() == [listed]


@pytest.mark.parametrize("back_to", [0, 1, 2])
def test_a_cycle_ends_where_it_leads_back(old: OldKernel, back_to: int) -> None:
    vmas = old.vmas(3)
    old.link(*vmas, vmas[back_to])
    old.mm(mmap=vmas[0])
    assert old.walk_list().vma.tolist() == vmas
    assert old.problems() == [(Problem.CYCLE, old.next_of(vmas[2]))]


def test_a_tail_that_two_lists_share_is_of_the_nearer(old: OldKernel) -> None:
    first, second, third, tail = old.vmas(4)
    old.link(first, second, tail)
    old.link(third, tail)
    far, near = old.mm(mmap=first), old.mm(mmap=third)
    entries = old.walk_list()
    assert entries.vma[entries.mm == far].tolist() == [first, second]
    assert entries.vma[entries.mm == near].tolist() == [third, tail]
    assert old.problems() == [(Problem.SHARED, old.next_of(second))]


@pytest.mark.parametrize(("pointer", "problem"), [(WILD, Problem.NON_CANONICAL), (CROOKED, Problem.MISALIGNED)])
def test_a_pointer_that_cannot_be_one_ends_the_list(old: OldKernel, pointer: int, problem: Problem) -> None:
    vmas = old.vmas(2)
    old.link(*vmas, pointer)
    old.mm(mmap=vmas[0])
    broken = old.mm(mmap=pointer)
    assert old.walk_list().vma.tolist() == vmas
    head = old.machine.at("mm_struct", broken, "mmap")
    assert sorted(old.problems()) == sorted([(problem, old.next_of(vmas[1])), (problem, head)])


def test_a_vma_that_is_not_in_the_dump_is_listed_and_ends_the_list(old: OldKernel) -> None:
    (first,) = old.vmas(1)
    lost = old.machine.room(4096, 4096)
    old.machine.drop(lost)
    old.link(first, lost)
    old.mm(mmap=first)
    assert old.walk_list().vma.tolist() == [first, lost]
    assert old.problems() == [(Problem.UNREADABLE, old.next_of(first))]


def test_an_empty_tree_has_no_node(old: OldKernel) -> None:
    old.mm()
    tree = old.walk_tree()
    assert (len(tree.entries), len(tree.nodes)) == (0, 0)
    assert old.problems() == []


def test_nodes_are_in_the_order_of_the_tree(old: OldKernel) -> None:
    root, left, right, inner = old.vmas(4)
    left_word = old.child(root, "rb_left", old.node(left))
    right_word = old.child(root, "rb_right", old.node(right))
    inner_word = old.child(left, "rb_right", old.node(inner))
    mm = old.mm(rb_root=old.node(root))
    alone = old.vmas(1)[0]
    other = old.mm(rb_root=old.node(alone))
    entries, nodes = old.walk_tree()
    mine = entries.mm == mm
    assert entries.vma[mine].tolist() == [left, inner, root, right]
    assert entries.order[mine].tolist() == [0, 1, 2, 3]
    root_word = old.machine.at("mm_struct", mm, "mm_rb.rb_node")
    assert entries.slot[mine].tolist() == [left_word, inner_word, root_word, right_word]
    assert entries.vma[entries.mm == other].tolist() == [alone]
    assert nodes.parent[:4].tolist() == [2, 0, -1, 2]
    assert nodes.left[:4].tolist() == [-1, -1, 0, -1]
    assert nodes.right[:4].tolist() == [1, -1, 3, -1]
    assert nodes.depth[:4].tolist() == [2, 3, 1, 2]
    assert old.problems() == []


@pytest.mark.parametrize(("pointer", "problem"), [(WILD, Problem.NON_CANONICAL), (CROOKED, Problem.MISALIGNED)])
def test_a_child_that_cannot_be_one_is_not_followed_but_noted(old: OldKernel, pointer: int, problem: Problem) -> None:
    root, right = old.vmas(2)
    word = old.child(root, "rb_left", pointer)
    old.child(root, "rb_right", old.node(right))
    old.mm(rb_root=old.node(root))
    entries, nodes = old.walk_tree()
    assert entries.vma.tolist() == [root, right]
    assert (nodes.has_left[0], nodes.left[0]) == (True, -1)
    assert old.problems() == [(problem, word)]


def test_a_child_that_leads_back_up_is_a_cycle(old: OldKernel) -> None:
    root, left = old.vmas(2)
    old.child(root, "rb_left", old.node(left))
    word = old.child(left, "rb_left", old.node(root))
    old.mm(rb_root=old.node(root))
    assert old.walk_tree().entries.vma.tolist() == [left, root]
    assert old.problems() == [(Problem.CYCLE, word)]


def test_a_node_that_two_parents_have_is_visited_once(old: OldKernel) -> None:
    root, left, right, shared = old.vmas(4)
    old.child(root, "rb_left", old.node(left))
    old.child(root, "rb_right", old.node(right))
    words = {
        old.child(left, "rb_right", old.node(shared)),
        old.child(right, "rb_left", old.node(shared)),
    }
    old.mm(rb_root=old.node(root))
    entries = old.walk_tree().entries
    assert sorted(entries.vma.tolist()) == sorted([root, left, right, shared])
    ((problem, word),) = old.problems()
    assert problem == Problem.CYCLE
    assert words - set(entries.slot.tolist()) == {word}  # the other is the one that was followed


def test_a_node_that_is_not_in_the_dump_keeps_its_place(old: OldKernel) -> None:
    (root,) = old.vmas(1)
    lost = old.machine.room(4096, 4096)
    old.machine.drop(lost)
    word = old.child(root, "rb_left", old.node(lost))
    old.mm(rb_root=old.node(root))
    assert old.walk_tree().entries.vma.tolist() == [lost, root]
    assert old.problems() == [(Problem.UNREADABLE, word)]


def test_kernels_of_today_have_neither() -> None:
    kernel = Machine().kernel()
    mms = Mms.zeros(0)
    assert walk_list(kernel, mms, NONE, ProblemLog()) is None
    assert walk_rbtree(kernel, mms, ProblemLog()) is None
