"""CPU-CR3-UNKNOWN on CPUs made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from checks.handmade_anchors import add_anchors
from checks.handmade_views import Process, add_problem, findings, mm_of, views_of
from vmaforensics.views.anchors.cpus import Cpus, RootOwner
from vmaforensics.views.problems import Problem
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.views.views import Views


def _views(owner: RootOwner) -> Views:
    views = views_of(Process(pid=100))
    cpus = Cpus.of(1, cpu=[3], table_register=[0x5003], root=[0x5000], owner=[owner], mm=[mm_of(100)])
    add_anchors(views, cpus=cpus)
    return views


@pytest.mark.parametrize("owner", list(RootOwner))
def test_only_tables_of_nobody_and_of_no_task_are_found(owner: RootOwner) -> None:
    found = findings(_views(owner), "CPU-CR3-UNKNOWN")
    assert len(found) == (owner in (RootOwner.UNKNOWN, RootOwner.TASKLESS))
    if owner is RootOwner.UNKNOWN:
        assert found[0].title == "CPU 3 runs on page tables at physical 0x5000, which are no process's"
        assert found[0].evidence[0].what == "CR3 of CPU 3 is 0x5003"


def test_what_the_kernel_loaded_is_told_where_it_is_known() -> None:
    views = _views(RootOwner.UNKNOWN)
    assert views.anchors is not None
    views.anchors.cpus.loaded_mm[0], views.anchors.cpus.loaded_from[0] = mm_of(100), 0x9000
    (found,) = findings(views, "CPU-CR3-UNKNOWN")
    assert found.evidence[1].address == 0x9000


def test_a_task_or_mm_that_was_lost_may_be_the_one() -> None:
    views = _views(RootOwner.UNKNOWN)
    add_problem(views, View.TASKS, Problem.CUT_SHORT)
    assert findings(views, "CPU-CR3-UNKNOWN") == []
    views = _views(RootOwner.UNKNOWN)
    views.mms.ok[0] = False
    assert findings(views, "CPU-CR3-UNKNOWN") == []
