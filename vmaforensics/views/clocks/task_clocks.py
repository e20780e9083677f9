"""What each task says of itself: when it ran last, when it was queued, when it started."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I64, U32, U64, Bools
from vmaforensics.views.clocks.passed_over import passed_over
from vmaforensics.views.clocks.samples import Clock, TimeSamples, samples_at

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.clocks.bases import TimeBases
    from vmaforensics.views.processes.tasks import Tasks

_TASK_NEW = 0x800  # include/linux/sched.h: between sched_fork and wake_up_new_task
_RAN = ("se.exec_start", "sched_info.last_arrival", "sched_info.last_queued")


@table(struct="task_struct")
class _Clocks(Table):
    task: U64
    executed: U64 = member("se.exec_start?")
    arrived: U64 = member("sched_info.last_arrival?")
    queued: U64 = member("sched_info.last_queued?")
    started: I64 = member("start_time?")
    on_cpu: U32 = member("on_cpu?")


@table()
class TaskTimes(Table):
    """When each task was last seen to run; sorted by task."""

    task: U64
    ran: I64  # ns of CLOCK_MONOTONIC; 0: it has not, or cannot be told
    started: I64
    pa: U64  # physical address of what says so
    running: Bools  # on a CPU
    bypassed: Bools  # its neighbours on the list of tasks point at each other, though it lives
    passed_over: Bools  # so it was while it lived
    ok: Bools


def task_times(kernel: Kernel, bases: TimeBases, tasks: Tasks) -> TaskTimes:
    """A row for each of ``tasks``."""
    rows, ok = kernel.gather(_Clocks, tasks.task)
    found = TaskTimes.zeros(len(rows))
    says = kernel.offset("task_struct", _RAN[0]) if kernel.has("task_struct", _RAN[0]) else 0
    at = kernel.space.translate(tasks.task + np.uint64(says))
    ran = np.maximum(bases.of_scheduler(rows.executed), bases.of_scheduler(rows.arrived))
    found.task[:], found.ran[:], found.started[:], found.pa[:] = tasks.task, ran, rows.started, at.pa
    found.running[:], found.ok[:] = rows.on_cpu != 0, ok & at.mapped & tasks.ok
    found.bypassed[:], found.passed_over[:] = passed_over(kernel, tasks)
    return found.sort_by(found.task)


def task_clocks(kernel: Kernel, bases: TimeBases, tasks: Tasks) -> TimeSamples:
    """Lower bounds: no word of a task can be newer than the moment at which its page was read.

    A task that is only half made still has times of another, or none.
    """
    settled = tasks.take(tasks.ok & ((tasks.state & _TASK_NEW) == 0))
    parts = []
    for path in _RAN:
        if kernel.has("task_struct", path):
            clocks, ok = kernel.gather_member("task_struct", path, settled.task)
            at = settled.task + np.uint64(kernel.offset("task_struct", path))
            parts.append(samples_at(kernel, Clock.TASK_RAN, at, bases.of_scheduler(clocks), ok))
    if kernel.has("task_struct", "start_time"):
        started, ok = kernel.gather_signed("task_struct", "start_time", settled.task)
        at = settled.task + np.uint64(kernel.offset("task_struct", "start_time"))
        parts.append(samples_at(kernel, Clock.TASK_STARTED, at, started, ok))
    return TimeSamples.concatenate(parts)
