"""What the kernel keeps of each thread's user-mode state: saved registers and pointers the thread handed over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I32, U64, Bools
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.processes.tasks import PF_KTHREAD
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.arch.interface import Architecture
    from vmaforensics.arch.registers import CpuState, Place
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.tasks import Tasks


@table(struct="task_struct")
class Threads(Table):
    """The user-mode state of each thread that has an address space, in task order; see :func:`read_threads`."""

    task: U64  # address of the task_struct
    mm: U64
    pid: I32  # of the thread
    tgid: I32
    registers: U64  # address of the saved registers; 0 for those of a CPU that was in user mode
    user: Bools  # ip and sp are those of ordinary user code, and current
    ip: U64
    sp: U64
    stack: U64 = member("stack")  # lowest address of the kernel stack
    running: Bools = member("on_cpu?")  # on a CPU when the image was taken
    cpu: I32 = member("thread_info.cpu|cpu?", fill=-1)
    in_exec: Bools = member("in_execve?")  # between two programs: the registers may still be the old one's
    tls: U64  # thread-local storage (arch.thread_pointer); saved when the thread last left a CPU
    # User addresses the thread handed over. The second spelling is that of 7.2 and 7.3.
    clear_child_tid: U64 = member("clear_child_tid?")
    robust_list: U64 = member("robust_list|futex.robust_list?")
    rseq: U64 = member("rseq.usrptr|rseq?")
    sas_sp: U64 = member("sas_ss_sp?")  # alternate signal stack

    def pointers(self, thread_pointer: str) -> dict[str, U64]:
        """The user addresses that a thread handed to the kernel, by name; 0 where it did not.

        ``thread_pointer`` is what the architecture calls the register of thread-local storage.
        """
        return {
            thread_pointer: self.tls,
            "clear_child_tid": self.clear_child_tid,
            "robust_list": self.robust_list,
            "rseq": self.rseq,
            "sas_sp": self.sas_sp,
        }


def read_threads(kernel: Kernel, tasks: Tasks, cpus: tuple[CpuState, ...], log: ProblemLog) -> tuple[Threads, Place]:
    """The user-mode state of every thread that has an address space, in task order.

    ``user`` is False where no user state is known: kernel threads and workers that never were in user
    mode, a stack that is not in the dump, a thread that ran in user mode on a CPU whose registers the
    image does not have (what its stack holds then is of an earlier entry).
    """
    used = tasks.ok & kernel.arch.kernel_pointer(tasks.mm) & ((tasks.flags & PF_KTHREAD) == 0)
    rows, ok = kernel.gather(Threads, tasks.task[used])
    rows.task[:], rows.mm[:], rows.pid[:], rows.tgid[:] = (
        column[used] for column in (tasks.task, tasks.mm, tasks.pid, tasks.tgid)
    )
    log.add(View.ANCHORS, Problem.UNREADABLE, rows.mm[~ok], rows.task[~ok])

    rows.tls[:], _ = kernel.gather_member("task_struct", f"{kernel.arch.thread_pointer.path}?", rows.task)

    place = kernel.arch.find_saved_registers(kernel, rows.stack[ok])
    saved = kernel.arch.saved_registers(kernel, rows.stack, place)
    held = saved.where != 0
    with np.errstate(over="ignore"):
        log.add(
            View.ANCHORS, Problem.UNREADABLE, rows.mm[ok & ~held], (rows.stack + np.uint64(place.offset))[ok & ~held]
        )
    rows.registers[:] = np.where(ok & held, saved.where, np.uint64(0))
    rows.ip[:], rows.sp[:] = saved.ip, saved.sp
    # copy_thread zeroes both for workers that the kernel makes out of user threads (io_uring, vhost).
    never = (rows.ip == 0) & (rows.sp == 0)
    rows.user[:] = ok & saved.user & ~never
    _take_from_cpus(kernel.arch, rows, cpus)
    return rows, place


def _take_from_cpus(arch: Architecture, rows: Threads, cpus: tuple[CpuState, ...]) -> None:
    """A thread that was on a CPU: where that was in user mode, its registers are the thread's."""
    known = {state.cpu: state for state in cpus}
    for row in np.flatnonzero(rows.running).tolist():
        state = known.get(int(rows.cpu[row]))
        if state is None or state.ip is None or state.sp is None:
            rows.user[row] = False
        elif not arch.is_kernel_address(state.ip):
            rows.ip[row], rows.sp[row] = state.ip, state.sp
            rows.registers[row], rows.user[row] = 0, True
