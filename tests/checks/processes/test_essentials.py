"""TASK-BARE, TASK-STACK and TASK-GROUP: on tables made by hand, and on images of the oldest and the newest kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import Edit, again_from_views
from tamper.identity_edits import (
    files_taken_away,
    number_taken_away,
    stack_exchanged,
    stack_pointer_moved,
    thread_off_group,
)
from tamper.table import names, serious

from checks.handmade_views import findings
from checks.processes.test_kin import FIRST, THREAD, family
from vmaforensics.views.processes.essentials import UNTIL_EXIT, UNTIL_RELEASED, Essentials
from vmaforensics.views.processes.tasks import PF_EXITING

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Sample
    from tamper.edits import Label

    from vmaforensics.views.views import Views

_ADDRESS = 0xFFFF_8880_0000_1000


def _views() -> Views:
    views = family()
    assert views.sources is not None
    tasks = views.sources.tasks
    has = views.essentials = Essentials.zeros(len(tasks))
    for column in has.columns().values():
        if column.dtype == np.uint64:
            column[:] = _ADDRESS
    has.task[:], has.ok[:] = tasks.task, True
    return views


def _row(views: Views, pid: int) -> int:
    assert views.sources is not None
    return int(np.flatnonzero(views.sources.tasks.pid == pid)[0])


def _taken(views: Views, pid: int, name: str) -> None:
    assert views.essentials is not None
    views.essentials.columns()[name][_row(views, pid)] = 0


def test_who_has_all_is_nothing_to_report() -> None:
    for rule in ("TASK-BARE", "TASK-STACK"):
        assert findings(_views(), rule) == []
        assert findings(family(), rule) == []


@pytest.mark.parametrize("name", [*UNTIL_RELEASED, *UNTIL_EXIT])
def test_a_living_process_that_lacks_one_is_found(name: str) -> None:
    views = _views()
    _taken(views, FIRST, name)
    (found,) = findings(views, "TASK-BARE")
    assert found.pid == FIRST
    assert found.title == f"thread {FIRST} lives and has no {name}"


def test_workers_have_no_open_files() -> None:
    """vhost_task_create (kernel/vhost_task.c): no_files."""
    views = _views()
    _taken(views, THREAD, "files")
    assert findings(views, "TASK-BARE") == []
    _taken(views, THREAD, "nsproxy")
    assert [found.title for found in findings(views, "TASK-BARE")] == [f"thread {THREAD} lives and has no nsproxy"]


@pytest.mark.parametrize(("name", "count"), [("files", 0), ("nsproxy", 0), ("sighand", 1)])
def test_what_exits_gives_back_files_and_namespaces_first(name: str, count: int) -> None:
    views = _views()
    assert views.sources is not None
    views.sources.tasks.flags[_row(views, FIRST)] |= np.uint32(PF_EXITING)
    _taken(views, FIRST, name)
    assert len(findings(views, "TASK-BARE")) == count
    views.sources.tasks.exit_state[_row(views, FIRST)] = 0x20
    assert findings(views, "TASK-BARE") == []


def test_a_stack_pointer_off_the_stack_is_found_in_what_lives() -> None:
    views = _views()
    assert views.sources is not None
    assert views.essentials is not None
    row = _row(views, FIRST)
    views.essentials.off_stack[row] = True
    (found,) = findings(views, "TASK-STACK")
    assert found.pid == FIRST
    views.sources.tasks.exit_state[row] = 0x10
    assert findings(views, "TASK-STACK") == []


@pytest.mark.parametrize("which", ["oldest", "newest"])
@pytest.mark.parametrize(
    "edit",
    [files_taken_away, number_taken_away, stack_exchanged, stack_pointer_moved, thread_off_group],
    ids=lambda edit: edit.__name__,
)
def test_an_edit_is_found(samples: list[Sample], which: str, edit: Callable[[Edit], Label]) -> None:
    sample = samples[0 if which == "oldest" else -1]
    if edit is thread_off_group and not sample.analysis.kernel.has("task_struct", "thread_group"):
        pytest.skip("threads are on one list alone")
    copy = Edit(sample.analysis)
    label = edit(copy)
    found = serious(again_from_views(sample.analysis, copy.overlay).findings, sample.analysis.findings, label.rank)
    assert [finding for finding in found if names(finding, label)], [(one.rule.id, one.pid) for one in found]
