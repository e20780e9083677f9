"""TASK-TRACER: a tracer that took its mark off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from checks.handmade_views import Process, findings, task_of, views_of
from vmaforensics.views.processes.tracers import Tracers

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

TRACED, TRACER = 100, 200


def traced(ptrace: int, *, ok: bool = True) -> Views:
    """A process whose parent is another than the one it was forked by."""
    views = views_of(Process(pid=TRACED, comm=b"sshd"), Process(pid=TRACER))
    init = task_of(1)
    parent = np.where(views.tasks.pid == TRACED, np.uint64(task_of(TRACER)), np.uint64(init))
    count = len(views.tasks)
    views.tracers = Tracers.of(
        ptrace=np.where(views.tasks.pid == TRACED, ptrace, 0),
        parent=parent,
        real_parent=[init] * count,
        ok=[ok] * count,
    )
    return views


def test_a_tracer_without_its_mark_is_found() -> None:
    (finding,) = findings(traced(ptrace=0), "TASK-TRACER")
    assert finding.pid == TRACED
    assert f"pid {TRACER}" in finding.title
    assert finding.evidence[0].found == f"{task_of(TRACER):#x}"


def test_a_debugger_is_nothing_to_report() -> None:
    assert findings(traced(ptrace=1), "TASK-TRACER") == []


def test_a_task_that_could_not_be_read_is_not_accused() -> None:
    assert findings(traced(ptrace=0, ok=False), "TASK-TRACER") == []


def test_a_process_that_has_exited_is_not_accused() -> None:
    views = traced(ptrace=0)
    views.tasks.exit_state[:] = 0x20  # EXIT_ZOMBIE
    assert findings(views, "TASK-TRACER") == []


def test_without_the_view_there_is_nothing_to_compare() -> None:
    assert findings(views_of(Process()), "TASK-TRACER") == []
