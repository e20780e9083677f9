"""VMA-UNLINKED on views made by hand."""

from __future__ import annotations

import pytest

from checks.handmade_views import Process, add_problem, drop_entry, findings, mm_of, views_of
from vmaforensics.views.problems import Problem
from vmaforensics.views.view import View

INDICES = {"vma_list": View.LIST, "rbtree": View.RBTREE}


def test_no_finding_where_both_indices_hold_the_same() -> None:
    assert findings(views_of(Process(), Process(pid=101), index="list"), "VMA-UNLINKED") == []


@pytest.mark.parametrize("index", INDICES)
def test_a_vma_that_one_index_lacks(index: str) -> None:
    views = views_of(Process(), Process(pid=101, vmas=("a000-b000 r-xp", "c000-d000 rw-p")), index="list")
    drop_entry(views, 0xC000, index)
    (found,) = findings(views, "VMA-UNLINKED")
    assert (found.mm, found.start, found.end) == (mm_of(101), 0xC000, 0xD000)
    assert f"hidden from the {INDICES[index].label}" in found.title


@pytest.mark.parametrize("index", INDICES)
def test_nothing_is_absent_from_an_index_that_was_not_read_whole(index: str) -> None:
    views = views_of(Process(), index="list")
    drop_entry(views, 0x400000, index)
    add_problem(views, INDICES[index], Problem.UNREADABLE, mm_of(100))
    assert findings(views, "VMA-UNLINKED") == []


def test_the_vma_of_another_process_does_not_count() -> None:
    views = views_of(Process(), Process(pid=101), index="list")
    assert views.rbtree is not None
    views.rbtree.mm[0] = mm_of(101)
    first, second = findings(views, "VMA-UNLINKED")
    assert (first.mm, second.mm) == (mm_of(100), mm_of(101))


def test_one_index_alone_has_nothing_to_differ_from() -> None:
    views = views_of(Process())
    drop_entry(views, 0x400000)
    assert findings(views, "VMA-UNLINKED") == []


def test_an_index_that_lost_all() -> None:
    views = views_of(Process(), index="list")
    assert views.rbtree is not None
    views.rbtree = views.rbtree.take(slice(0))
    (found,) = findings(views, "VMA-UNLINKED")
    assert len(found.evidence) == 2
