"""HANDLER-OUTSIDE on signal handlers made by hand."""

from __future__ import annotations

from checks.handmade_anchors import add_anchors
from checks.handmade_views import Process, add_problem, findings, mm_of, views_of
from vmaforensics.views.problems import Problem
from vmaforensics.views.view import View

_PROCESSES = (Process(pid=100), Process(pid=101))


def test_handlers_in_vmas_are_none() -> None:
    views = views_of(*_PROCESSES)
    add_anchors(views)
    assert findings(views, "HANDLER-OUTSIDE") == []


def test_a_handler_and_a_restorer_in_no_vma_are_found() -> None:
    views = views_of(*_PROCESSES)
    handlers = add_anchors(views).handlers
    handlers.handler[1], handlers.restorer[1] = 0x600000, 0x601000
    (found,) = findings(views, "HANDLER-OUTSIDE")
    assert found.mm == mm_of(101)
    assert [item.what.split(" of ")[0] for item in found.evidence] == ["the handler", "the restorer"]
    assert {item.address for item in found.evidence} == {0x9000}


def test_a_map_that_was_not_read_whole_says_nothing() -> None:
    views = views_of(Process(pid=100))
    add_anchors(views).handlers.handler[0] = 0x600000
    add_problem(views, View.MAPLE, Problem.UNREADABLE, mm=mm_of(100))
    assert findings(views, "HANDLER-OUTSIDE") == []
