"""MT-NODE, MT-PIVOT, MT-NULL and MT-GAP on maple trees made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from checks.handmade_views import MAX_INDEX, Process, add_problem, findings, mm_of, views_of
from vmaforensics.views.problems import Problem
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

RULES = ("MT-NODE", "MT-PIVOT", "MT-NULL", "MT-GAP")
MANY = Process(pid=101, vmas=[f"{at:x}-{at + 0x3000:x} rw-p" for at in range(0x10000, 0x50000, 0x4000)])


def _trees() -> Views:
    """A tree of one leaf (row 0), and one of a root and three leaves (rows 1 to 4)."""
    views = views_of(Process(pid=100), MANY, per_leaf=12)
    assert views.maple_nodes.depth.tolist() == [1, 1, 2, 2, 2]
    return views


def _rules(views: Views) -> list[str]:
    return [rule for rule in RULES for _ in findings(views, rule)]


def test_trees_in_order_have_no_finding() -> None:
    assert _rules(_trees()) == []


def test_no_tree_no_finding() -> None:
    assert _rules(views_of(Process(), index="list")) == []


def test_a_parent_word_that_names_another_place() -> None:
    views = _trees()
    nodes = views.maple_nodes
    nodes.parent_word[3] = nodes.expected_parent[2]
    (found,) = findings(views, "MT-NODE")
    assert _rules(views) == ["MT-NODE"]
    assert (found.mm, found.start, found.end) == (mm_of(101), nodes.low[3], nodes.high[3] + 1)
    assert found.evidence[0].address == nodes.address[3]


def test_a_dead_node_that_is_still_part_of_the_tree() -> None:
    views = _trees()
    views.maple_nodes.parent_word[3] = views.maple_nodes.address[3]
    (found,) = findings(views, "MT-NODE")
    assert "dead maple node" in found.title


def test_leaves_lie_as_deep_as_ma_flags_say() -> None:
    views = _trees()
    views.mms.ma_flags[1] = 3 << 2
    (found,) = findings(views, "MT-NODE")
    assert len(found.evidence) == 3
    assert {(item.found, item.expected) for item in found.evidence} == {("0x2", "0x3")}


def test_an_inner_node_that_records_no_gaps() -> None:
    views = _trees()
    views.maple_nodes.gapped[1] = False
    (found,) = findings(views, "MT-NODE")
    assert "of a type this tree does not use" in found.title


@pytest.mark.parametrize(
    ("slot", "pivot"),
    [(1, 0x400000), (1, 0x3FFFFF - 0x1000), (0, MAX_INDEX), (4, 0x7FFFFF)],
    ids=["moved, which is VMA-RANGE", "not rising", "reaches the end early", "stops short of the end"],
)
def test_pivots_rise_to_the_end_of_the_node(slot: int, pivot: int) -> None:
    views = _trees()
    views.maple_nodes.pivots[0, slot] = pivot
    found = findings(views, "MT-PIVOT")
    assert len(found) == (pivot != 0x400000)
    assert all(item.mm == mm_of(100) for item in found)


def test_two_empty_ranges_side_by_side() -> None:
    views = _trees()
    views.maple_nodes.slots[0, 1] = 0  # the VMA at 0x400000, between two gaps
    (found,) = findings(views, "MT-NULL")
    assert found.mm == mm_of(100)
    assert len(found.evidence) == 2
    assert (found.start, found.end) == (0, 0x7F0000)


def test_two_empty_ranges_across_the_border_of_leaves() -> None:
    views = _trees()
    nodes = views.maple_nodes
    nodes.slots[2, nodes.end[2]] = nodes.slots[3, 0] = 0
    (found,) = findings(views, "MT-NULL")
    assert found.start is not None
    assert found.start < nodes.low[3] < (found.end or 0)


def test_the_trees_of_two_processes_are_not_neighbours() -> None:
    """Each ends with an empty range, and the next begins with one."""
    assert findings(views_of(Process(), Process(pid=101), Process(pid=102)), "MT-NULL") == []


def test_a_slot_behind_the_end_of_a_leaf() -> None:
    views = _trees()
    views.maple_nodes.slots[0, 15] = 4  # the metadata of a leaf
    assert _rules(views) == []
    views.maple_nodes.slots[0, 7] = 0x1234
    (found,) = findings(views, "MT-NULL")
    assert found.evidence[0].address == views.maple_nodes.address[0] + np.uint64(128 + 7 * 8)
    assert found.evidence[0].found == "0x1234"


def test_a_gap_that_is_not_the_one_there_is() -> None:
    views = _trees()
    views.maple_nodes.gaps[1, 1] -= 0x1000
    (found,) = findings(views, "MT-GAP")
    assert found.evidence[0].address == views.maple_nodes.address[3]
    assert (found.evidence[0].found, found.evidence[0].expected) == ("0x0", "0x1000")


def test_a_node_that_names_the_wrong_slot() -> None:
    views = _trees()
    nodes = views.maple_nodes
    nodes.gap_slot[1] = (int(nodes.gap_slot[1]) + 1) % 3
    (found,) = findings(views, "MT-GAP")
    assert "names the wrong slot" in found.title


def test_6_1_writes_one_past_every_slot_where_there_is_no_gap() -> None:
    """MAPLE_ARANGE64_META_MAX; only a subtree can be full, the whole tree never is."""
    views = _trees()
    nodes = views.maple_nodes
    nodes.slots[2:5][nodes.slots[2:5] == 0] = 0x1234
    nodes.slots[2:5][np.arange(16) > nodes.end[2:5, None]] = 0
    nodes.gaps[1], nodes.gap_slot[1] = 0, 15
    assert findings(views, "MT-GAP") == []
    nodes.gap_slot[1] = 2
    assert findings(views, "MT-GAP") == []


def test_nothing_is_said_of_gaps_below_a_node_that_was_not_read() -> None:
    views = _trees()
    views.maple_nodes.gaps[1, 1] += 0x1000
    views.maple_nodes.slots[0, 1] = 0
    add_problem(views, View.MAPLE, Problem.UNREADABLE, mm_of(101))
    add_problem(views, View.MAPLE, Problem.UNREADABLE, mm_of(100))
    assert _rules(views) == []
