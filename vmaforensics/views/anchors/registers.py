"""What the kernel keeps of each thread's user-mode state: saved registers and pointers the thread handed over.

On entry from user mode the registers are saved at the top of the kernel stack (``task_pt_regs``,
arch/x86/include/asm/processor.h). How large the stack is and what lies above the registers are macros, so
the place is found by trying those there are: a user code segment has to be at the right offset.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I32, U64, Bools
from vmaforensics.kernel.space.pointers import kernel_pointer
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.image.image import CpuState
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
    user: Bools  # ip and sp are those of flat user code, and current
    cs: U64
    ip: U64
    sp: U64
    stack: U64 = member("stack")  # lowest address of the kernel stack
    running: Bools = member("on_cpu?")  # on a CPU when the image was taken
    cpu: I32 = member("thread_info.cpu|cpu?", fill=-1)
    in_exec: Bools = member("in_execve?")  # between two programs: the registers may still be the old one's
    # User addresses the thread handed over. The second spelling is that of 7.2 and 7.3.
    fsbase: U64 = member("thread.fsbase?")  # thread-local storage; saved when the thread last left a CPU
    clear_child_tid: U64 = member("clear_child_tid?")
    robust_list: U64 = member("robust_list|futex.robust_list?")
    rseq: U64 = member("rseq.usrptr|rseq?")
    sas_sp: U64 = member("sas_ss_sp?")  # alternate signal stack

    def pointers(self) -> dict[str, U64]:
        """The user addresses that a thread handed to the kernel, by name; 0 where it did not."""
        return {
            "fsbase": self.fsbase,
            "clear_child_tid": self.clear_child_tid,
            "robust_list": self.robust_list,
            "rseq": self.rseq,
            "sas_sp": self.sas_sp,
        }


_PF_KTHREAD = 0x00200000  # include/linux/sched.h
# arch/x86/include/asm/segment.h: __USER_CS and __USER32_CS. Others are of the local descriptor table, whose
# segments need not begin at 0.
_FLAT_CODE = (0x33, 0x23)
_USER_DATA = 0x2B  # __USER_DS
_STACK_SIZES = (16 << 10, 32 << 10)  # THREAD_SIZE, without and with KASAN (page_64_types.h)
_PADDING = 16  # TOP_OF_KERNEL_STACK_PADDING with CONFIG_X86_FRED (thread_info.h), else 0
_KERNEL_HALF = np.uint64(1 << 63)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the saved registers lie: ``stack + size - padding - sizeof(pt_regs)``, and how sure that is."""

    size: int  # bytes of a kernel stack
    padding: int
    fitting: int  # threads with user selectors at that place
    tried: int  # threads whose stack is in the image
    offsets: dict[str, int]  # of the registers ip and sp in pt_regs


def read_threads(kernel: Kernel, tasks: Tasks, cpus: tuple[CpuState, ...], log: ProblemLog) -> tuple[Threads, Place]:
    """The user-mode state of every thread that has an address space, in task order.

    ``user`` is False where no user state is known: kernel threads and workers that never were in user
    mode, a stack that is not in the dump, a thread that ran in user mode on a CPU whose registers the
    image does not have (what its stack holds then is of an earlier entry).
    """
    used = tasks.ok & kernel_pointer(tasks.mm) & ((tasks.flags & _PF_KTHREAD) == 0)
    rows, ok = kernel.gather(Threads, tasks.task[used])
    rows.task[:], rows.mm[:], rows.pid[:], rows.tgid[:] = (
        column[used] for column in (tasks.task, tasks.mm, tasks.pid, tasks.tgid)
    )
    log.add(View.ANCHORS, Problem.UNREADABLE, rows.mm[~ok], rows.task[~ok])

    place = _place(kernel, rows.stack[ok])
    size = kernel.sizeof("pt_regs")
    with np.errstate(over="ignore"):
        rows.registers[:] = rows.stack + np.uint64(place.size - place.padding - size)
    regs, held = kernel.gather("pt_regs", rows.registers, ["ip", "sp", "cs", "ss"])
    log.add(View.ANCHORS, Problem.UNREADABLE, rows.mm[ok & ~held], rows.registers[ok & ~held])
    rows.registers[~(ok & held)] = 0
    rows.cs[:], rows.ip[:], rows.sp[:] = (regs[name].astype(np.uint64) & _mask(name) for name in ("cs", "ip", "sp"))
    # copy_thread zeroes both for workers that the kernel makes out of user threads (io_uring, vhost).
    never = (rows.ip == 0) & (rows.sp == 0)
    rows.user[:] = ok & held & _selectors(regs) & ~never
    _take_from_cpus(rows, cpus)
    return rows, place


def _mask(register: str) -> np.uint64:
    # The upper bits of the word with cs have served other purposes (FRED: struct fred_cs).
    return np.uint64(0xFFFF if register == "cs" else 0xFFFFFFFF_FFFFFFFF)


def _selectors(regs: NDArray[np.void]) -> NDArray[np.bool_]:
    cs, ss = (regs[name].astype(np.uint64) & np.uint64(0xFFFF) for name in ("cs", "ss"))
    flat: NDArray[np.bool_] = np.isin(cs, np.array(_FLAT_CODE, np.uint64)) & (ss == _USER_DATA)
    return flat


def _place(kernel: Kernel, stacks: NDArray[np.uint64]) -> Place:
    """The size and padding with which most stacks have user selectors where they should be."""
    size = kernel.sizeof("pt_regs")
    offsets = {name: kernel.offset("pt_regs", name) for name in ("ip", "sp")}
    best = Place(size=_STACK_SIZES[0], padding=0, fitting=0, tried=0, offsets=offsets)
    for stack_size in _STACK_SIZES:
        for padding in (0, _PADDING):
            with np.errstate(over="ignore"):
                regs, ok = kernel.gather("pt_regs", stacks + np.uint64(stack_size - padding - size), ["cs", "ss"])
            if stack_size == best.size and padding == 0:
                best = replace(best, tried=int(ok.sum()))
            fitting = int((ok & _selectors(regs)).sum())
            if fitting > best.fitting:
                best = replace(best, size=stack_size, padding=padding, fitting=fitting)
    return best


def _take_from_cpus(rows: Threads, cpus: tuple[CpuState, ...]) -> None:
    """A thread that was on a CPU: where that was in user mode, its registers are the thread's."""
    known = {one.cpu: one for one in cpus if one.rip is not None and one.rsp is not None}
    for row in np.flatnonzero(rows.running).tolist():
        state = known.get(int(rows.cpu[row]))
        if state is None or state.rip is None or state.rsp is None:
            rows.user[row] = False
        elif state.rip < _KERNEL_HALF:
            rows.ip[row], rows.sp[row] = state.rip, state.rsp
            rows.registers[row], rows.cs[row], rows.user[row] = 0, _FLAT_CODE[0], True
