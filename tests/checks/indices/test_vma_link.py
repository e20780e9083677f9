"""VMA-LINK and MT-RESERVED: what walks met, as findings."""

from __future__ import annotations

import pytest

from checks.handmade_views import Process, add_problem, findings, mm_of, views_of
from vmaforensics.checks.finding import Severity
from vmaforensics.views.problems import Problem
from vmaforensics.views.view import View

BROKEN = {
    Problem.NON_CANONICAL,
    Problem.MISALIGNED,
    Problem.BAD_TAG,
    Problem.CYCLE,
    Problem.SHARED,
    Problem.NULL_CHILD,
    Problem.STALE,
}


def test_no_problem_no_finding() -> None:
    assert findings(views_of(Process()), "VMA-LINK") == []


@pytest.mark.parametrize("problem", Problem, ids=lambda problem: problem.name)
def test_a_word_that_could_be_read_and_not_followed(problem: Problem) -> None:
    """What is not in the dump is no finding, nor is a dead node, which MT-NODE is about."""
    views = views_of(Process(), Process(pid=101))
    add_problem(views, View.MAPLE, problem, mm_of(101), where=0x1234, value=0x5678)
    found = findings(views, "VMA-LINK")
    assert len(found) == (problem in BROKEN)
    for item in found:
        assert (item.mm, item.pid, item.start) == (mm_of(101), 101, None)
        assert (item.evidence[0].address, item.evidence[0].found) == (0x1234, "0x5678")


def test_a_word_within_a_vma_names_its_range() -> None:
    views = views_of(Process())
    where = int(views.vmas.vma[1]) + 16
    add_problem(views, View.LIST, Problem.CYCLE, mm_of(100), where=where)
    (found,) = findings(views, "VMA-LINK")
    assert (found.start, found.end) == (0x7F0000, 0x7F4000)


def test_each_view_is_a_finding_of_its_own() -> None:
    views = views_of(Process(), index="list")
    for view in (View.LIST, View.RBTREE):
        add_problem(views, view, Problem.CYCLE, mm_of(100))
    assert [found.evidence[0].view for found in findings(views, "VMA-LINK")] == ["vm_next list", "rbtree"]


def test_the_mark_of_a_failed_fork_is_information() -> None:
    views = views_of(Process())
    assert findings(views, "MT-RESERVED") == []
    add_problem(views, View.MAPLE, Problem.RESERVED, mm_of(100), where=0x1234, value=0x406)
    (found,) = findings(views, "MT-RESERVED")
    assert (found.mm, found.severity, found.evidence[0].found) == (mm_of(100), Severity.INFO, "0x406")
    assert findings(views, "VMA-LINK") == []


def test_what_is_nobodys_is_one_finding_with_a_count() -> None:
    """Links in VMAs that no index leads to may name any mm."""
    views = views_of(Process())
    for number in range(200):
        add_problem(views, View.ANON_RMAP, Problem.STALE, 0xFFFF_8880_1234_0000 + 64 * number, where=0x1000 + number)
    (found,) = findings(views, "VMA-LINK")
    assert found.mm == 0
    assert "199 more" in found.title
