"""Which task each CPU runs: ``curr`` of its run queue (struct rq, kernel/sched/sched.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I32, U64, Bools, Bytes16
from vmaforensics.views.stacks.cpus import read_run_queues

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel


@table(struct="task_struct")
class RunningTasks(Table):
    """A row for each CPU that was ever online."""

    cpu: I32
    task: U64  # address of the task_struct; 0 where it could not be read
    pid: I32 = member("pid")  # 0 for the idle task
    tgid: I32 = member("tgid")
    comm: Bytes16 = member("comm")
    ok: Bools


def read_running(kernel: Kernel) -> RunningTasks | None:
    """The task of every CPU; None where the run queues cannot be found."""
    queues = read_run_queues(kernel)
    if not queues.ok.any():
        return None
    rows, ok = kernel.gather(RunningTasks, queues.curr)
    rows.cpu[:], rows.task[:], rows.ok[:] = queues.cpu, np.where(queues.ok, queues.curr, np.uint64(0)), queues.ok & ok
    # The run queue of a CPU that never came online has no task, not even an idle one.
    return rows.take(~(queues.ok & (queues.curr == 0)))
