"""Who traces whom: the task that a task reports to, which is its tracer while it is traced (kernel/ptrace.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U32, U64, Bools

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.tasks import Tasks


@table(struct="task_struct")
class Tracers(Table):
    """A row for each row of the tasks it was made from, in their order."""

    ptrace: U32 = member("ptrace")  # PT_*; 0: nobody traces the task
    parent: U64 = member("parent")  # task_struct that gets its SIGCHLD and waits for it: of a traced task the tracer
    real_parent: U64 = member("real_parent")  # task_struct of the parent by fork
    ok: Bools  # False: the task_struct is not in the dump


def read_tracers(kernel: Kernel, tasks: Tasks) -> Tracers:
    """The tracer of each of ``tasks``.

    What cannot be read is no problem of its own: walking the tasks has reported it.
    """
    tracers, ok = kernel.gather(Tracers, tasks.task)
    return tracers.replace(ok=ok & tasks.ok)
