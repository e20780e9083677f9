"""ANCHOR-OUTSIDE on addresses made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from checks.handmade_anchors import add_anchors
from checks.handmade_views import Process, add_problem, findings, mm_of, views_of
from vmaforensics.views.problems import Problem
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmaforensics.views.views import Views

_NOWHERE = 0x600000


def _first(views: Views) -> None:
    views.mms.start_stack[0] = _NOWHERE


def _last(views: Views) -> None:
    views.mms.start_code[0], views.mms.end_code[0] = 0x400000, _NOWHERE


def _heap(views: Views) -> None:
    views.mms.start_brk[0], views.mms.brk[0] = _NOWHERE, _NOWHERE + 0x1000


def _vector(views: Views) -> None:
    assert views.anchors is not None
    views.anchors.mms.random[0] = _NOWHERE


def _pointer(views: Views) -> None:
    assert views.anchors is not None
    views.anchors.threads.robust_list[0] = _NOWHERE


_EDITS = pytest.mark.parametrize(
    ("edit", "name"),
    [
        (_first, "start_stack"),
        (_last, "end_code"),
        (_heap, "brk"),
        (_vector, "AT_RANDOM"),
        (_pointer, "robust_list of a thread"),
    ],
)


def test_addresses_in_vmas_are_none() -> None:
    views = views_of(Process())
    add_anchors(views)
    views.mms.start_code[0], views.mms.end_code[0] = 0x400000, 0x402000  # the end is one past the last byte
    views.mms.start_brk[0] = views.mms.brk[0] = _NOWHERE  # a heap without a byte
    assert findings(views, "ANCHOR-OUTSIDE") == []


@_EDITS
def test_an_address_in_no_vma_is_named(edit: Callable[[Views], None], name: str) -> None:
    views = views_of(Process(pid=100), Process(pid=101))
    add_anchors(views)
    edit(views)
    (found,) = findings(views, "ANCHOR-OUTSIDE")
    assert found.mm == mm_of(100)
    assert [item.what.split(" names ")[0] for item in found.evidence] == [name]


@_EDITS
def test_a_map_that_was_not_read_whole_says_nothing(edit: Callable[[Views], None], name: str) -> None:
    views = views_of(Process(pid=100))
    add_anchors(views)
    edit(views)
    add_problem(views, View.MAPLE, Problem.UNREADABLE, mm=mm_of(100))
    assert findings(views, "ANCHOR-OUTSIDE") == []
