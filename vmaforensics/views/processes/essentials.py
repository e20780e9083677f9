"""What every living task has: its number, its process, its handlers, its rights; and where its kernel stack is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U64, Bools

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.tasks import Tasks


@table(struct="task_struct")
class Essentials(Table):
    """A row for each row of a table of tasks: addresses, 0 for none."""

    task: U64
    ok: Bools  # it could be read
    thread_pid: U64 = member("thread_pid")  # struct pid
    group_leader: U64 = member("group_leader")  # task_struct
    signal: U64 = member("signal")  # signal_struct
    sighand: U64 = member("sighand")  # sighand_struct
    real_cred: U64 = member("real_cred")
    cred: U64 = member("cred")
    fs: U64 = member("fs")  # fs_struct
    files: U64 = member("files")  # files_struct
    nsproxy: U64 = member("nsproxy")
    stack: U64 = member("stack")  # lowest address of its kernel stack
    saved: U64  # stack pointer with which it last left a CPU, or with which it will first come to one
    off_stack: Bools  # that could be read, and lies outside of the stack


# Columns of :class:`Essentials`: what a task has until it is released (__exit_signal, __unhash_process and
# put_task_struct), and what only until it exits (exit_files, exit_fs and exit_task_namespaces).
UNTIL_RELEASED: Final = ("thread_pid", "group_leader", "signal", "sighand", "real_cred", "cred", "stack")
UNTIL_EXIT: Final = ("fs", "files", "nsproxy")


def read_essentials(kernel: Kernel, tasks: Tasks) -> Essentials:
    """Read them of each of ``tasks``.

    A task leaves a CPU on its own stack (__switch_to_asm), and a new one is given a place on it (copy_thread).
    Raises :class:`KernelNotFoundError` for a missing member.
    """
    rows, ok = kernel.gather(Essentials, tasks.task)
    saved, read = kernel.gather_member("task_struct", kernel.arch.saved_stack, tasks.task)
    with np.errstate(over="ignore"):
        above = saved - rows.stack
    size = np.uint64(kernel.arch.stack_size(kernel))
    off = ok & read & (rows.stack != 0) & (above >= size)
    return rows.replace(task=tasks.task, ok=ok & tasks.ok, saved=saved, off_stack=off)
