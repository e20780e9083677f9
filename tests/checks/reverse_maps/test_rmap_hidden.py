"""RMAP-FILE-HIDDEN and RMAP-ANON-HIDDEN on reverse maps made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from checks.handmade_rmap import add_reverse_maps
from checks.handmade_views import Process, add_problem, drop_entry, findings, mm_of, views_of
from vmaforensics.views.problems import Problem
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

_TEXT, _STACK = 0x400000, 0x7F0000
_BOTH = pytest.mark.parametrize(
    ("rule", "start", "end"), [("RMAP-FILE-HIDDEN", _TEXT, 0x402000), ("RMAP-ANON-HIDDEN", _STACK, 0x7F4000)]
)


def _views(start: int) -> Views:
    """A VMA that is in the reverse maps alone."""
    views = views_of(Process(pid=100))
    add_reverse_maps(views)
    drop_entry(views, start)
    return views


def test_vmas_of_an_index_are_none() -> None:
    views = views_of(Process(pid=100), Process(pid=101))
    add_reverse_maps(views)
    assert findings(views, "RMAP-FILE-HIDDEN") == findings(views, "RMAP-ANON-HIDDEN") == []


@_BOTH
def test_a_vma_in_no_index_is_found_by_its_tree(rule: str, start: int, end: int) -> None:
    views = _views(start)
    (found,) = findings(views, rule)
    assert (found.mm, found.start, found.end) == (mm_of(100), start, end)
    other = {"RMAP-FILE-HIDDEN": "RMAP-ANON-HIDDEN", "RMAP-ANON-HIDDEN": "RMAP-FILE-HIDDEN"}[rule]
    assert findings(views, other) == []


@_BOTH
def test_nothing_is_hidden_from_an_index_that_was_not_read_whole(rule: str, start: int, end: int) -> None:
    views = _views(start)
    add_problem(views, View.MAPLE, Problem.UNREADABLE, mm=mm_of(100))
    assert findings(views, rule) == []


@_BOTH
def test_an_address_space_without_users_is_being_torn_down(rule: str, start: int, end: int) -> None:
    views = _views(start)
    views.mms.users[0] = 0
    assert findings(views, rule) == []


def test_the_mark_of_a_detached_vma_is_told() -> None:
    views = _views(_TEXT)
    (found,) = findings(views, "RMAP-FILE-HIDDEN")
    assert "marked detached" not in found.evidence[0].what
    views.vmas.detached[0] = True
    (found,) = findings(views, "RMAP-FILE-HIDDEN")
    assert "marked detached" in found.evidence[0].what
