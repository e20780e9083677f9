"""The number of each task by its ``struct pid``, which /proc and system calls go by (kernel/pid.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I32, U64, Bools
from vmaforensics.views.slab.homes import PID, Homes

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.tasks import Tasks


@table(struct="task_struct")
class PidNumbers(Table):
    """A row for each row of a table of tasks."""

    task: U64
    ok: Bools  # the number was read; a task that has been given back has none
    place: U64 = member("thread_pid")  # struct pid
    leader: U64 = member("group_leader")  # task_struct
    number: I32  # in the first pid namespace


def read_pid_numbers(kernel: Kernel, tasks: Tasks) -> PidNumbers:
    """Read ``thread_pid->numbers[0].nr`` of each task. Raises :class:`KernelNotFoundError` for a missing member."""
    rows, ok = kernel.gather(PidNumbers, tasks.task)
    places = distinct(rows.place)
    known = (places != 0) & ~kernel.shared(Homes).strangers(PID, places)
    number, read = kernel.gather_signed("upid", "nr", places + np.uint64(kernel.offset("pid", "numbers")))
    where = np.searchsorted(places, rows.place)
    return rows.replace(
        task=tasks.task,
        ok=ok & tasks.ok & (known & read)[where] if len(places) else ok,
        number=number[where].astype(np.int32) if len(places) else rows.number,
    )
