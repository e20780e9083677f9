"""Which task each CPU runs: ``curr`` of its run queue (struct rq, kernel/sched/sched.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I32, U64, Bools, Bytes16
from vmaforensics.views.structures.per_cpu import per_cpu_offsets

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
    queues = kernel.symbols.get("runqueues")
    if queues is None or not kernel.has("rq", "curr"):
        return None
    with np.errstate(over="ignore"):
        places = per_cpu_offsets(kernel) + np.uint64(queues)
    tasks, read = kernel.gather_member("rq", "curr", places)
    rows, ok = kernel.gather(RunningTasks, tasks)
    rows.cpu[:], rows.task[:], rows.ok[:] = np.arange(len(rows)), np.where(read, tasks, np.uint64(0)), read & ok
    # The run queue of a CPU that never came online has no task, not even an idle one.
    return rows.take(~(read & (tasks == 0)))
