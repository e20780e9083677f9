"""What each task says of itself: when it ran last, when it was queued, when it started.

Of a task that is on a CPU it is exact: every tick notes the time in it (update_curr, kernel/sched/fair.c). These clocks
lie far away from those of the kernel, as is needed where half of memory is older than the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I32, I64, U32, U64, Bools
from vmaforensics.views.clocks.passed_over import passed_over
from vmaforensics.views.clocks.samples import Bound, Clock, TimeSamples, samples_at
from vmaforensics.views.structures.per_cpu import on_each_cpu

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.clocks.bases import TimeBases
    from vmaforensics.views.processes.tasks import Tasks

_TASK_NEW = 0x800  # include/linux/sched.h: between sched_fork and wake_up_new_task
_PF_IDLE = 0x2
_CLOSE = 100_000_000  # ns; a CPU that is no further than that from its task may hang
_RAN = ("se.exec_start", "sched_info.last_arrival", "sched_info.last_queued")


@table(struct="task_struct")
class _Clocks(Table):
    task: U64
    executed: U64 = member("se.exec_start?")
    arrived: U64 = member("sched_info.last_arrival?")
    queued: U64 = member("sched_info.last_queued?")
    started: I64 = member("start_time?")
    on_cpu: U32 = member("on_cpu?")


@table(struct="task_struct")
class _Running(Table):
    on_cpu: U32 = member("on_cpu?")
    flags: U32 = member("flags")
    cpu: I32 = member("thread_info.cpu|cpu?", fill=-1)
    executed: U64 = member("se.exec_start?")


@table(struct="rq")
class _CpuClocks(Table):
    clock: U64 = member("clock?")
    task: U64 = member("clock_task?")


@table()
class TaskTimes(Table):
    """When each task was last seen to run; sorted by task."""

    task: U64
    ran: I64  # ns of CLOCK_MONOTONIC; that it will run is as good; 0: it has not, or cannot be told
    started: I64
    pa: U64  # physical address of what says so
    running: Bools  # on a CPU
    bypassed: Bools  # its neighbours on the list of tasks point at each other, though it lives
    passed_over: Bools  # so it was while it lived
    passed_by: Bools  # so one of both had it while it lived
    followed: Bools  # what came after it came to the list behind it
    beside: I64  # when the younger of both began, ns of CLOCK_MONOTONIC
    gone: Bools  # what was read after it says that it had ended
    ok: Bools


def task_times(kernel: Kernel, bases: TimeBases, tasks: Tasks) -> TaskTimes:
    """A row for each of ``tasks``.

    What is moved to another CPU while it waits for one loses the time at which it ran (migrate_task_rq_fair,
    kernel/sched/fair.c), but not that at which it was queued.
    """
    rows, ok = kernel.gather(_Clocks, tasks.task)
    found = TaskTimes.zeros(len(rows))
    says = kernel.offset("task_struct", _RAN[0]) if kernel.has("task_struct", _RAN[0]) else 0
    at = kernel.space.translate(tasks.task + np.uint64(says))
    ran = np.maximum.reduce([bases.of_scheduler(word) for word in (rows.executed, rows.arrived, rows.queued)])
    found.task[:], found.ran[:], found.started[:], found.pa[:] = tasks.task, ran, rows.started, at.pa
    found.running[:], found.ok[:] = rows.on_cpu != 0, ok & at.mapped & tasks.ok
    seen = passed_over(kernel, tasks)
    found.bypassed[:], found.passed_over[:], found.passed_by[:] = seen.bypassed, seen.proven, seen.by_one
    found.followed[:], found.beside[:], found.gone[:] = seen.followed, seen.beside, seen.gone
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
    parts.append(_running(kernel, bases, settled))
    return TimeSamples.concatenate(parts)


def _running(kernel: Kernel, bases: TimeBases, tasks: Tasks) -> TimeSamples:
    """Exact ones. The time that tasks are charged for falls behind that of their CPU where others took it away
    (update_rq_clock_task), by as much for all of them. A CPU that hangs notes nothing, and its own clock stands too."""
    cpus = on_each_cpu(kernel, "runqueues")
    if not len(cpus) or not kernel.has("rq", "clock_task") or not kernel.has("task_struct", _RAN[0]):
        return TimeSamples.zeros(0)
    rows, ok = kernel.gather(_Running, tasks.task)
    clocks, known = kernel.gather(_CpuClocks, cpus)
    clock, behind = bases.of_scheduler(clocks.clock), (clocks.clock - clocks.task).astype(np.int64)
    ok &= (rows.on_cpu == 1) & ((rows.flags & _PF_IDLE) == 0) & (rows.cpu >= 0) & (rows.cpu < len(cpus))
    cpu = np.where(ok, rows.cpu, 0)
    times = bases.of_scheduler(rows.executed) + behind[cpu]
    ok &= known[cpu] & (behind[cpu] >= 0) & (rows.executed > 0) & (np.abs(clock[cpu] - times) > _CLOSE)
    at = tasks.task + np.uint64(kernel.offset("task_struct", _RAN[0]))
    return samples_at(kernel, Clock.TASK_RUNS, at, times, ok, bound=Bound.EXACT)
