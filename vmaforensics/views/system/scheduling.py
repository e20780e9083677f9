"""What waits to run on each CPU, and since when tasks have not run (kernel/sched/sched.h, kernel/sched/stats.h)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I32, I64, U8, U32, U64, Bools
from vmaforensics.views.structures.per_cpu import per_cpu_offsets

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel


@table(struct="rq")
class Queues(Table):
    """A row for each possible CPU whose run queue could be read."""

    cpu: I32
    runnable: U32 = member("nr_running")  # tasks, the one that runs among them
    curr: U64 = member("curr")  # task_struct that runs
    idle: U64 = member("idle")
    clock: U64 = member("clock")  # ns, when it was last looked at


@table(struct="task_struct")
class Scheduling(Table):
    """A row for each task given, in their order."""

    cpu: I32 = member("thread_info.cpu|cpu?")  # that it is on, or was on last
    queued: U8 = member("on_rq?")  # 1: on a run queue, 2: on its way to another
    delayed: U8 = member("se.sched_delayed?")  # still on the run queue though it sleeps (since 6.12)
    since: U64 = member("sched_info.last_arrival?")  # rq->clock when it was given a CPU last
    waits_since: U64 = member("sched_info.last_queued?")  # when it became runnable without being given one; 0
    ok: Bools


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What :func:`read_schedule` found."""

    queues: Queues
    tasks: Scheduling
    now: int | None  # ns on the clock of run queues: the latest of them; None if none could be read

    def runnable(self, cpu: int) -> I64:
        """Rows of the tasks on the run queue of a CPU, the one that waits longest first."""
        on = self.tasks.ok & (self.tasks.queued != 0) & (self.tasks.delayed == 0) & (self.tasks.cpu == cpu)
        rows = np.flatnonzero(on)
        found: I64 = rows[np.argsort(self.tasks.waits_since[rows], kind="stable")]
        return found

    def slept(self) -> I64:
        """Nanoseconds since each task was given a CPU last; -1 where that is not known."""
        known = self.tasks.ok & (self.tasks.since != 0)
        return self._passed(np.where(known, self.tasks.since, np.uint64(0)))

    def waited(self) -> I64:
        """Nanoseconds since each task became runnable, of those that have not been given a CPU since; else -1."""
        return self._passed(np.where(self.tasks.ok & (self.tasks.queued != 0), self.tasks.waits_since, np.uint64(0)))

    def _passed(self, times: U64) -> I64:
        """From each point in time to now; -1 for 0, and 0 for what is yet to come: clocks of CPUs differ by little."""
        if self.now is None:
            return np.full(len(times), -1, np.int64)
        now = np.uint64(self.now)
        return np.where(times == 0, -1, (now - np.minimum(times, now)).astype(np.int64))


def read_schedule(kernel: Kernel, tasks: U64) -> Schedule:
    """The run queues, and of each of ``tasks`` where and when it ran."""
    offsets = per_cpu_offsets(kernel)
    variable = kernel.symbols.get("runqueues")
    if variable is None or kernel.types.struct("rq") is None or not kernel.has("rq", "clock"):
        queues = Queues.zeros(0)
    else:
        with np.errstate(over="ignore"):
            queues, ok = kernel.gather(Queues, offsets + np.uint64(variable % (1 << 64)))
        queues.cpu[:] = np.arange(len(offsets))
        # The run queue of a CPU that never came online has no task, not even an idle one.
        queues = queues.take(ok & (queues.curr != 0))
    rows, read = kernel.gather(Scheduling, tasks)
    rows.ok[:] = read
    now = max(queues.clock.tolist(), default=0)
    return Schedule(queues=queues, tasks=rows, now=now or None)
