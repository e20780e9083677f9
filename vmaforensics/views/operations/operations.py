"""Which operations on memory maps were under way: the stacks of all tasks that can be in the middle of one.

Most of them are not on a CPU: they were preempted, or wait for a lock or a page. A task that sleeps until something
from outside happens has nothing half done. Only frames count that are proven (``Frames.sure``): a word of the stack
that looks like a return address may be left over from an earlier call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct, is_first, values_at
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I32, I64, U8, U64, Bools
from vmaforensics.views.operations.copies import of_parents, unborn_copies
from vmaforensics.views.operations.operation import KNOWN, Operation, operations_by_function
from vmaforensics.views.stacks.frames import End
from vmaforensics.views.stacks.stacks import gather_stacks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vmaforensics.arch.registers import CpuState
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.mm_sources import SourcesView
    from vmaforensics.views.processes.mms import Mms
    from vmaforensics.views.processes.tasks import Tasks
    from vmaforensics.views.stacks.frames import Frames
    from vmaforensics.views.stacks.stacks import StacksView

# include/linux/sched.h
_UNINTERRUPTIBLE, _NOLOAD, _NEW, _WAITS = np.uint32(0x2), np.uint32(0x400), np.uint32(0x800), np.uint32(0xFF)
# With PREEMPT_RT a writer keeps the rt_mutex in it until it lets go (rwbase_write_lock, kernel/locking/rwbase_rt.c).
_OWNERS = ("mmap_lock.owner.counter", "mmap_lock.owner", "mmap_lock.rwbase.rtmutex.owner")
_OWNER_FLAGS = np.uint64(7)  # of rw_semaphore.owner (kernel/locking/rwsem.c), RT_MUTEX_HAS_WAITERS


@table()
class UnderWay(Table):
    """An operation that a task was in the middle of; by task, then by operation."""

    task: U64
    pid: I32
    tgid: I32
    operation: U8  # Operation
    mm: U64  # address space of the task, 0 for none
    anywhere: Bools  # it may be at work on others too
    stack: I32  # row of stacks.stacks
    frame: I64  # row of stacks.frames: the innermost of the operation


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationsView:
    """What tasks were in the middle of; see :func:`gather_operations`."""

    under_way: UnderWay
    stacks: StacksView  # of the tasks that could be in the middle of something, and of what CPUs run
    unclear: U64  # mms of tasks whose stacks could not be unwound to their beginnings, ascending
    all_clear: bool  # no stack of any task that may work on others' mms is unclear
    copies: U64  # tasks that are byte copies of their parents still, ascending
    delays_removal: bool  # of pages of files, until a batch of entries is flushed (tlb_flush_rmaps, 6.2)
    lock_owner: U64  # of each mm given, the task that write-holds its mmap lock; 0 for none

    def name(self, row: int) -> str:
        """The function that ``under_way[row]`` was recognised by."""
        function = int(self.stacks.frames.function[int(self.under_way.frame[row])])
        return self.stacks.names[function].decode("ascii", "replace")


def gather_operations(
    kernel: Kernel, sources: SourcesView, mms: Mms, cpus: Sequence[CpuState]
) -> OperationsView | None:
    """Unwind every task that is running, runnable or waits in the middle of something, and name what it is in.

    None where the image has nothing that stacks can be unwound by.
    """
    tasks = sources.tasks
    parents = of_parents(sources)
    needed = (
        tasks.ok
        & (tasks.exit_state == 0)
        & (_may_be_amid(tasks) | np.isin(tasks.task, tasks.task[parents[parents >= 0]]))
    )
    held = _held(kernel, mms)
    needed |= tasks.ok & np.isin(tasks.task, held)
    # In a switch a CPU is on the stack of the task before; the next, which is current already, left off elsewhere.
    needed |= tasks.ok & (kernel.gather_member("task_struct", "on_cpu?", tasks.task)[0] != 0)
    amid = tasks.take(needed)
    stacks = gather_stacks(kernel, amid, cpus)
    under_way = _under_way(kernel, amid, stacks)
    known = stacks.stacks.row >= 0
    whole = np.isin(stacks.stacks.end, (End.USER, End.BOTTOM, End.NO_STACK))
    lost = amid.mm[stacks.stacks.row[known & ~whole]]
    copying = under_way.task[under_way.operation == Operation.NEW_TASK]
    return OperationsView(
        under_way=under_way,
        stacks=stacks,
        unclear=distinct(lost[lost != 0]),
        all_clear=bool((lost != 0).all()) and bool(whole[~known].all()),
        copies=unborn_copies(kernel, sources, copying),
        delays_removal=kernel.symbols.get("tlb_flush_rmaps") is not None,
        lock_owner=held,
    )


def _may_be_amid(tasks: Tasks) -> Bools:
    """Tasks that run, could run, or wait for what the kernel itself will do.

    A sleep that signals end may be in the middle of something too, if only fatal ones do (TASK_KILLABLE). What is being
    forked (TASK_NEW) has not run yet.
    """
    state = tasks.state
    waits = ((state & _UNINTERRUPTIBLE) != 0) & ((state & _NOLOAD) == 0)
    amid: Bools = ((state & (_WAITS | _NEW)) == 0) | waits
    return amid


def _under_way(kernel: Kernel, tasks: Tasks, stacks: StacksView) -> UnderWay:
    """The operations that frames of ``stacks`` belong to, each once per task."""
    frames, named = stacks.frames, operations_by_function()
    bases = [_base_name(name) for name in stacks.names]
    by_function = [named.get(name, ()) for name in bases]
    named_frames = np.array([*bases, ""])[np.where(frames.sure, frames.function, -1)]
    function = np.array([at for at, found in enumerate(by_function) for _ in found], np.int64)
    operation = np.array([int(known) for found in by_function for known in found], np.int64)
    hits = []
    for at, known in zip(function.tolist(), operation.tolist(), strict=True):
        here = frames.sure & (frames.function == at)
        if bases[at] in KNOWN[Operation(known)].interrupted.split():
            here &= frames.precise
        hits.append((np.flatnonzero(here), known))
    frame = np.concatenate([np.zeros(0, np.int64), *(rows for rows, _ in hits)])
    kind = np.concatenate([np.zeros(0, np.int64), *(np.full(len(rows), known) for rows, known in hits)])
    order = np.lexsort((frame, kind, frames.stack[frame]))  # of one operation, the innermost frame first
    frame, kind = frame[order], kind[order]
    stack = frames.stack[frame].astype(np.int64)
    first = is_first(stack * len(KNOWN) + kind)
    atomic = np.array([KNOWN[known].atomic for known in Operation])
    on_cpu = (stacks.stacks.cpu[stack] >= 0) | _sleeping_locks(kernel)
    kept = first & (on_cpu | ~atomic[kind]) & ~_is_past(frames, named_frames, kind, stack)
    frame, kind, stack = frame[kept], kind[kept], stack[kept]
    row = stacks.stacks.row[stack]
    anywhere = np.array([KNOWN[known].anywhere for known in Operation])
    return UnderWay(
        task=stacks.stacks.task[stack],
        pid=values_at(tasks.pid, row),
        tgid=values_at(tasks.tgid, row),
        operation=kind.astype(np.uint8),
        mm=values_at(tasks.mm, row),
        anywhere=anywhere[kind],
        stack=stack.astype(np.int32),
        frame=frame,
    )


def _is_past(frames: Frames, names: NDArray[np.str_], kind: I64, stack: I64) -> Bools:
    """Is there a function on each stack that shows it to be past the operation, or not there yet?"""
    past = np.zeros(len(kind), np.bool_)
    for operation, known in KNOWN.items():
        if known.unless:
            past |= (kind == operation) & np.isin(stack, frames.stack[np.isin(names, known.unless.split())])
    return past


def _base_name(name: bytes) -> str:
    """A function's name without what the compiler puts behind it (.constprop.0, .isra.0, .part.0, .cold)."""
    return name.split(b".", 1)[0].decode("ascii", "replace")


def _sleeping_locks(kernel: Kernel) -> bool:
    """Does this kernel sleep where others spin (PREEMPT_RT)?"""
    return kernel.has("mm_struct", "mmap_lock.rwbase.readers.counter")


def _held(kernel: Kernel, mms: Mms) -> U64:
    """The task that each mmap lock says it is write-held by; 0 where it is not, or does not say."""
    owner, ok = kernel.gather_member("mm_struct", f"{'|'.join(_OWNERS)}?", mms.mm)
    held: U64 = np.where(ok & mms.ok & (mms.lock == 2), owner & ~_OWNER_FLAGS, np.uint64(0))
    return held
