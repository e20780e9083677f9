"""RB-SHAPE and RB-GAP on red-black trees made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from checks.handmade_views import Process, add_problem, findings, mm_of, views_of
from vmaforensics.views.problems import Problem
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.views.indices.rbtree import RbNodes
    from vmaforensics.views.views import Views

SEVEN = Process(vmas=[f"{at:x}-{at + 0x2000:x} rw-p" for at in range(0x10000, 0x2C000, 0x4000)])


def _tree(*processes: Process) -> tuple[Views, RbNodes]:
    views = views_of(*processes, index="list")
    assert views.rb_nodes is not None
    return views, views.rb_nodes


def test_a_tree_in_order_has_no_finding() -> None:
    for count in range(1, 8):
        views, _ = _tree(Process(vmas=SEVEN.vmas[:count]), Process(pid=101))
        assert findings(views, "RB-SHAPE") == []
        assert findings(views, "RB-GAP") == []


def test_no_tree_no_finding() -> None:
    views = views_of(Process())
    assert findings(views, "RB-SHAPE") == findings(views, "RB-GAP") == []


def test_a_parent_pointer_that_leads_elsewhere() -> None:
    views, nodes = _tree(SEVEN)
    nodes.parent_word[0] = int(nodes.address[6]) | 1
    (found,) = findings(views, "RB-SHAPE")
    assert (found.start, found.end) == (0x10000, 0x12000)
    (evidence,) = found.evidence
    assert (evidence.address, evidence.found) == (nodes.address[0], f"{int(nodes.address[6]):#x}")
    assert evidence.expected == f"{int(nodes.address[1]):#x}"


def test_a_parent_pointer_that_is_taken_away() -> None:
    views, nodes = _tree(SEVEN)
    nodes.parent_word[1] = 0  # and red, as what hangs below it is black
    found = findings(views, "RB-SHAPE")
    assert any("does not lead to its parent" in item.what for one in found for item in one.evidence)
    views.vmas.ok[views.vma_rows(views.rbtree.vma[1:2])] = False  # type: ignore[union-attr]
    found = findings(views, "RB-SHAPE")
    assert not any("does not lead to its parent" in item.what for one in found for item in one.evidence)


def test_colours_that_no_insertion_leaves() -> None:
    views, nodes = _tree(SEVEN)
    root = int(np.flatnonzero(nodes.parent < 0)[0])
    nodes.parent_word[root] = 0
    (found,) = findings(views, "RB-SHAPE")
    assert "is the root and red" in found.evidence[0].what
    nodes.parent_word[root] = 1
    nodes.parent_word[0] &= ~np.uint64(1)  # one leaf of seven black nodes
    (found,) = findings(views, "RB-SHAPE")
    assert all("different numbers of black nodes" in item.what for item in found.evidence)
    assert len(found.evidence) == 1  # of its parent; above that the longer way counts


def test_a_red_child_of_a_red_node() -> None:
    views, nodes = _tree(SEVEN)
    nodes.parent_word[[0, 2, 4, 6]] &= ~np.uint64(1)
    assert findings(views, "RB-SHAPE") == []  # the lowest level may be red
    nodes.parent_word[[1, 5]] &= ~np.uint64(1)
    (found,) = findings(views, "RB-SHAPE")
    assert [item.address for item in found.evidence] == [nodes.address[1], nodes.address[5]]


def test_a_gap_that_is_not_the_largest_below() -> None:
    views, _ = _tree(Process(pid=100), Process(pid=101, vmas=SEVEN.vmas))
    first = 2  # VMAs of the process before
    views.vmas.gap[first + 5] = 0x9000
    (found,) = findings(views, "RB-GAP")
    assert found.mm == mm_of(101)
    assert (found.evidence[0].found, found.evidence[0].expected) == ("0x9000", "0x2000")


def test_nothing_is_said_of_gaps_and_colours_of_a_tree_that_was_not_read_whole() -> None:
    views, nodes = _tree(SEVEN)
    views.vmas.gap[3] = 0
    nodes.parent_word[nodes.parent < 0] = 0
    add_problem(views, View.RBTREE, Problem.UNREADABLE, mm_of(100))
    assert findings(views, "RB-GAP") == findings(views, "RB-SHAPE") == []
