"""Maple trees made by hand: an empty tree, one entry, full, dead, lost and impossible nodes, cycles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from handmade import LINUX_5_10, Machine

from vmaforensics.views.indices.maple import MapleTree, walk_maple
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.processes.mms import Mms

if TYPE_CHECKING:
    from collections.abc import Sequence

TOP = (1 << 64) - 1
VMA = 0xFFFF888000100000  # no memory: the walk does not read what entries lead to
LEAF, RANGE, ARANGE = 1, 2, 3
FULL = 16  # slots of maple_range_64


class Tree:
    """A kernel with one address space, and what walking its tree gives."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.mm = self.machine.put("mm_struct")
        self.log = ProblemLog()

    @staticmethod
    def enode(node: int, kind: int) -> int:
        return node | kind << 3 | 4

    def root(self, node: int, kind: int) -> None:
        self.machine.set("mm_struct", self.mm, "mm_mt.ma_root", self.enode(node, kind) | 2)
        self.machine.set(
            "maple_node", node, "raw", (self.machine.at("mm_struct", self.mm, "mm_mt") | 1).to_bytes(8, "little")
        )

    def node(self, struct: str, slots: Sequence[int], pivots: Sequence[int], end: int | None = None) -> int:
        """A node; ``end`` is written to its metadata."""
        node = self.machine.put(struct, {"slot": list(slots), "pivot": list(pivots)})
        if end is not None:
            self.machine.set(struct, node, "meta.end", end)
        return node

    def leaf(self, slots: Sequence[int], pivots: Sequence[int], end: int | None = None) -> int:
        return self.node("maple_range_64", slots, pivots, end)

    def slot(self, struct: str, node: int, number: int) -> int:
        """Address of a slot."""
        return self.machine.at(struct, node, "slot") + 8 * number

    def walk(self) -> MapleTree:
        root = self.machine.kernel().gather_member("mm_struct", "mm_mt.ma_root", np.array([self.mm], np.uint64))[0]
        mms = Mms.of(mm=[self.mm], ma_root=root, ok=[True])
        found = walk_maple(self.machine.kernel(), mms, self.log)
        assert found is not None
        return found

    def ranges(self) -> list[tuple[int, int, int]]:
        """(VMA, start, end) of every entry."""
        entries = self.walk().entries
        return list(zip(entries.vma.tolist(), entries.start.tolist(), entries.end.tolist(), strict=True))

    def problems(self) -> list[tuple[Problem, int]]:
        table = self.log.table()
        return list(zip(map(Problem, table.problem.tolist()), table.where.tolist(), strict=True))


@pytest.fixture
def tree() -> Tree:
    return Tree()


def test_an_empty_tree_has_neither_entry_nor_node(tree: Tree) -> None:
    entries, nodes = tree.walk()
    assert (len(entries), len(nodes)) == (0, 0)
    assert tree.problems() == []


def test_a_kernel_without_maple_trees_has_no_such_index() -> None:
    assert walk_maple(Machine(LINUX_5_10).kernel(), Mms.zeros(0), ProblemLog()) is None


def test_one_leaf_with_one_entry(tree: Tree) -> None:
    # 0x0 to 0xfff nothing, the VMA, nothing up to the top: a pivot of 0 behind the last in use.
    leaf = tree.leaf([0, VMA, 0], [0xFFF, 0x2FFF], end=2)
    tree.root(leaf, LEAF)
    entries, nodes = tree.walk()
    assert (entries.vma.tolist(), entries.start.tolist(), entries.end.tolist()) == ([VMA], [0x1000], [0x3000])
    assert (entries.mm.tolist(), entries.order.tolist()) == ([tree.mm], [0])
    assert entries.slot.tolist() == [tree.slot("maple_range_64", leaf, 1)]
    assert (nodes.address.tolist(), nodes.leaf.tolist(), nodes.end.tolist()) == ([leaf], [True], [2])
    assert (nodes.low.tolist(), nodes.high.tolist()) == ([0], [TOP])
    assert nodes.pivots[0, :3].tolist() == [0xFFF, 0x2FFF, TOP]
    assert nodes.parent_word.tolist() == nodes.expected_parent.tolist()
    assert tree.problems() == []


def test_a_full_leaf_has_its_metadata_in_the_last_slot(tree: Tree) -> None:
    vmas = [VMA + 256 * number for number in range(FULL)]
    tree.root(tree.leaf(vmas, [0x1000 * number + 0xFFF for number in range(FULL - 1)]), LEAF)
    found = tree.ranges()
    assert [vma for vma, _, _ in found] == vmas
    assert found[-1] == (vmas[-1], 0x1000 * (FULL - 1), 0)  # one past the last index of all


def test_a_leaf_whose_last_pivot_is_its_maximum_is_full_but_for_one(tree: Tree) -> None:
    vmas = [VMA + 256 * number for number in range(FULL - 1)]
    pivots = [0x1000 * number + 0xFFF for number in range(FULL - 2)]
    leaf = tree.leaf(vmas, [*pivots, TOP], end=FULL - 2)
    tree.root(leaf, LEAF)
    entries, nodes = tree.walk()
    assert entries.vma.tolist() == vmas
    assert nodes.end.tolist() == [FULL - 2]


def two_levels(tree: Tree, children: Sequence[int], last: Sequence[int], struct: str = "maple_arange_64") -> int:
    """A root above leaves, of which each but the last ends at the index given; end and parents as they should be."""
    end = len(children) - 1
    root = tree.node(struct, [tree.enode(child, LEAF) for child in children], last, end)
    for number, child in enumerate(children):
        tree.machine.word(child, root | number << 3 | 6)
    tree.root(root, ARANGE if struct == "maple_arange_64" else RANGE)
    return root


@pytest.mark.parametrize("struct", ["maple_arange_64", "maple_range_64"])
def test_leaves_below_a_root_are_in_the_order_of_their_indices(tree: Tree, struct: str) -> None:
    low = tree.leaf([VMA, 0], [0x1FFF], end=1)
    high = tree.leaf([VMA + 256, 0], [0x5FFF], end=1)
    root = two_levels(tree, [low, high], [0x3FFF], struct)
    entries, nodes = tree.walk()
    assert entries.vma.tolist() == [VMA, VMA + 256]
    assert (entries.start.tolist(), entries.end.tolist()) == ([0, 0x4000], [0x2000, 0x6000])
    assert entries.order.tolist() == [0, 1]
    assert nodes.address.tolist() == [root, low, high]
    assert (nodes.parent.tolist(), nodes.parent_slot.tolist()) == ([-1, 0, 0], [-1, 0, 1])
    assert (nodes.depth.tolist(), nodes.gapped.tolist()) == ([1, 2, 2], [struct == "maple_arange_64", False, False])
    assert (nodes.low.tolist(), nodes.high.tolist()) == ([0, 0, 0x4000], [TOP, 0x3FFF, TOP])
    assert nodes.expected_parent.tolist() == nodes.parent_word.tolist()
    assert tree.problems() == []


def test_a_dead_node_is_told_and_followed(tree: Tree) -> None:
    leaf = tree.leaf([VMA], [], end=0)
    tree.root(leaf, LEAF)
    tree.machine.word(leaf, leaf)  # mte_set_node_dead
    assert [vma for vma, _, _ in tree.ranges()] == [VMA]
    assert tree.problems() == [(Problem.DEAD, tree.machine.at("mm_struct", tree.mm, "mm_mt.ma_root"))]


def test_a_child_that_leads_back_to_the_root_is_a_cycle(tree: Tree) -> None:
    leaf = tree.leaf([VMA], [], end=0)
    root = two_levels(tree, [leaf, leaf], [0xFFF])
    word = tree.slot("maple_arange_64", root, 1)
    tree.machine.word(word, tree.enode(root, ARANGE))
    assert [vma for vma, _, _ in tree.ranges()] == [VMA]
    assert tree.problems() == [(Problem.CYCLE, word)]


def test_a_leaf_that_two_slots_lead_to_is_read_once(tree: Tree) -> None:
    leaf = tree.leaf([VMA], [], end=0)
    root = two_levels(tree, [leaf, leaf], [0xFFF])
    assert [vma for vma, _, _ in tree.ranges()] == [VMA]
    assert tree.problems() == [(Problem.CYCLE, tree.slot("maple_arange_64", root, 1))]


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        (0xFFFF888000001000 | LEAF << 3, Problem.BAD_TAG),  # not the bit every enode has
        (0xFFFF888000001000 | 7 << 3 | 4, Problem.BAD_TAG),  # no such type
        (0xFFFF888000001000 | LEAF << 3 | 4 | 1, Problem.BAD_TAG),
        (0xFFFF888000001000 | LEAF << 3 | 4 | 0x80, Problem.BAD_TAG),  # not the start of a node
        (0x5000 | LEAF << 3 | 4, Problem.NON_CANONICAL),
        (0, Problem.NULL_CHILD),
    ],
)
def test_a_slot_that_cannot_lead_to_a_node_is_not_followed(tree: Tree, word: int, problem: Problem) -> None:
    leaf = tree.leaf([VMA], [], end=0)
    root = two_levels(tree, [leaf, leaf], [0xFFF])
    at = tree.slot("maple_arange_64", root, 1)
    tree.machine.word(at, word)
    assert [vma for vma, _, _ in tree.ranges()] == [VMA]
    assert tree.problems() == [(problem, at)]


def test_a_root_that_is_no_node_is_not_followed(tree: Tree) -> None:
    tree.machine.set("mm_struct", tree.mm, "mm_mt.ma_root", VMA)  # a direct entry: for index 0 only
    assert tree.ranges() == []
    assert tree.problems() == [(Problem.BAD_TAG, tree.machine.at("mm_struct", tree.mm, "mm_mt.ma_root"))]


def test_a_leaf_that_is_not_in_the_dump_takes_its_entries_along(tree: Tree) -> None:
    here = tree.leaf([VMA], [], end=0)
    lost = tree.machine.room(4096, 4096)
    tree.machine.room(4096, 4096)
    root = two_levels(tree, [here, lost], [0xFFF])
    tree.machine.drop(lost)
    assert [vma for vma, _, _ in tree.ranges()] == [VMA]
    assert tree.problems() == [(Problem.UNREADABLE, tree.slot("maple_arange_64", root, 1))]


@pytest.mark.parametrize(
    ("entry", "problem", "kept"),
    [
        (0x406, Problem.RESERVED, False),  # XA_ZERO_ENTRY: a fork that failed half way
        (0x1000, Problem.NON_CANONICAL, True),
        (VMA + 4, Problem.MISALIGNED, True),
    ],
)
def test_an_entry_that_is_no_vma_is_a_problem(tree: Tree, entry: int, problem: Problem, kept: bool) -> None:
    leaf = tree.leaf([VMA, entry, 0], [0xFFF, 0x1FFF], end=2)
    tree.root(leaf, LEAF)
    assert [vma for vma, _, _ in tree.ranges()] == ([VMA, entry] if kept else [VMA])
    assert tree.problems() == [(problem, tree.slot("maple_range_64", leaf, 1))]


def test_what_lies_behind_the_end_is_not_in_the_tree(tree: Tree) -> None:
    tree.root(tree.leaf([VMA, 0, VMA + 256], [0xFFF], end=1), LEAF)
    assert [vma for vma, _, _ in tree.ranges()] == [VMA]
    assert tree.problems() == []
