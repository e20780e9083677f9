"""Tasks by the kernel's own lists: ``init_task.tasks`` for leaders, ``signal->thread_head`` for threads.

for_each_process and for_each_thread of include/linux/sched/signal.h, without trusting either list to end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import difference, distinct, first_rows
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I32, U32, U64, Bools, Bytes16
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.kernel.structures.type_sources import lacking_of_threads
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.slab.homes import SIGNAL, TASK, Homes
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel


@table(struct="task_struct")
class Tasks(Table):
    """Threads and processes: a row is a ``task_struct`` (include/linux/sched.h)."""

    task: U64  # address of the task_struct
    pid: I32 = member("pid")  # in the first pid namespace, as tgid
    tgid: I32 = member("tgid")  # what users call the process id
    comm: Bytes16 = member("comm")
    mm: U64 = member("mm")  # 0 for kernel threads and what has exited
    active_mm: U64 = member("active_mm")  # the mm the CPU uses while the task runs
    signal: U64 = member("signal")  # signal_struct, which the threads of a process share
    parent: U64 = member("real_parent")  # task_struct
    start: U64 = member("start_boottime|real_start_time?")  # ns since boot
    flags: U32 = member("flags")  # PF_*
    state: U32 = member("__state|state")  # TASK_*
    exit_state: I32 = member("exit_state")  # EXIT_*; 0 while it lives
    leader: Bools  # found as the leader of its thread group
    ok: Bools  # False: the task_struct is not in the dump, only its address is known


# Of task_struct.flags (include/linux/sched.h).
PF_EXITING = 0x4
PF_KTHREAD = 0x00200000
_MOST = 1 << 22  # PID_MAX_LIMIT
_TOGETHER = 256  # tasks whose memory the allocator is asked for at once


def walk_tasks(kernel: Kernel, log: ProblemLog) -> Tasks:
    """Every task that the lists lead to, idle task excluded; sorted by tgid, leaders first, and pid.

    Raises :class:`KernelNotFoundError` when ``init_task`` is unknown.
    """
    first = kernel.symbols.get("init_task")
    if first is None:
        raise KernelNotFoundError("the symbol init_task is unknown, so no task list can be walked")
    leaders = _leaders(kernel, first, log)
    threads = _threads(kernel, leaders, log)
    rows = Tasks.concatenate([leaders, threads])
    rows = rows.take(np.sort(first_rows(rows.task)))
    return rows.sort_by(rows.tgid, ~rows.leader, rows.pid, rows.task)


def _leaders(kernel: Kernel, first: int, log: ProblemLog) -> Tasks:
    """The list of processes from ``init_task`` on, one step each: a list has to be followed.

    Where it breaks off, its other direction still leads to the tasks behind the break.
    """
    seen = {first}
    found, end = _chain(kernel, first, "tasks.next", seen)
    if end.problem is not None:
        at = found[-1] if found else first
        log.add(View.TASKS, end.problem, 0, at + kernel.offset("task_struct", "tasks.next"), end.pointer)
        found += _chain(kernel, first, "tasks.prev", seen)[0][::-1]
    return read_tasks(kernel, np.array(found, np.uint64), leader=True, log=log)


def _chain(kernel: Kernel, first: int, path: str, seen: set[int]) -> tuple[list[int], _Step]:
    """The tasks that the pointers ``path`` lead to from ``first`` on, and the step that ended it.

    That is one back to ``first``, to a task in ``seen``, which is added to, or to one that lies where no task lives and
    does not point back.
    """
    found: list[int] = []
    typed = 0  # as many of them are known to be tasks
    step = _Step(first, 0, None)
    over = False
    while not over and len(found) < _MOST:
        step = _step(kernel, found[-1] if found else first, path, seen)
        if step.task == first:
            step = step._replace(problem=None)
        over = step.task == first or step.problem is not None
        if not over:
            seen.add(step.task)
            found.append(step.task)
        if over or len(found) - typed == _TOGETHER:
            stale = _first_stale(kernel, [first, *found], path, typed)
            typed = len(found)
            if stale is not None:
                seen.difference_update(found[stale:])
                pointer = (found[stale] + kernel.offset("task_struct", "tasks")) % (1 << 64)
                return found[:stale], _Step(found[stale], pointer, Problem.STALE)
    return found, step


def _first_stale(kernel: Kernel, chain: list[int], path: str, typed: int) -> int | None:
    """Number of the first task behind the ``typed`` ones that is none: ``chain`` leads to it, and has it at 1 more.

    A task made by hand points back to the one before; foreign memory does not.
    """
    tasks = np.array(chain[typed + 1 :], np.uint64)
    stale = np.flatnonzero(kernel.shared(Homes).strangers(TASK, tasks))
    if not len(stale):
        return None
    other = "tasks.prev" if path == "tasks.next" else "tasks.next"
    back, ok = kernel.gather_member("task_struct", other, tasks[stale])
    before = np.array(chain, np.uint64)[typed + stale] + np.uint64(kernel.offset("task_struct", "tasks"))
    wrong = stale[~(ok & (back == before))]
    return typed + int(wrong[0]) if len(wrong) else None


class _Step(NamedTuple):
    """Where one pointer of the task list leads."""

    task: int  # the task_struct
    pointer: int  # to the list_head in it
    problem: Problem | None  # why it is not followed


def _step(kernel: Kernel, task: int, path: str, seen: set[int]) -> _Step:
    """Follow the pointer ``path`` of ``task``; ``seen`` are tasks that were visited."""
    pointer = kernel.space.word(task + kernel.offset("task_struct", path))
    if pointer is None:
        return _Step(0, 0, Problem.UNREADABLE)
    after = (pointer - kernel.offset("task_struct", "tasks")) % (1 << 64)
    if not kernel.arch.kernel_pointer(np.array([pointer], np.uint64))[0]:
        return _Step(after, pointer, Problem.NON_CANONICAL)
    return _Step(after, pointer, Problem.CYCLE if after in seen else None)


def _threads(kernel: Kernel, leaders: Tasks, log: ProblemLog) -> Tasks:
    """All thread lists at once, one thread of each per step."""
    if kernel.types_damaged and lacking_of_threads(kernel.types):
        kernel.untyped["the lists of threads"] = None
        return read_tasks(kernel, np.zeros(0, np.uint64), leader=False, log=log)
    base = kernel.offset("task_struct", "thread_node")
    usable = leaders.ok & kernel.arch.kernel_pointer(leaders.signal)
    homes = kernel.shared(Homes)
    stale = usable & homes.strangers(SIGNAL, leaders.signal)
    signal_at = np.uint64(kernel.offset("task_struct", "signal"))
    log.add(View.TASKS, Problem.STALE, 0, leaders.task[stale] + signal_at, leaders.signal[stale])
    usable &= ~stale
    thread_head = np.uint64(kernel.offset("signal_struct", "thread_head"))
    head = leaders.signal[usable] + thread_head
    here = head  # the list_head each list has come to; its first word is next
    seen = np.zeros(0, np.uint64)
    while len(here) and len(seen) < _MOST:
        data, ok = kernel.words(here, 1)
        after = data[:, 0]
        log.add(View.TASKS, Problem.UNREADABLE, 0, here[~ok])
        live = ok & (after != head)
        wild = live & ~kernel.arch.kernel_pointer(after)
        log.add(View.TASKS, Problem.NON_CANONICAL, 0, here[wild], after[wild])
        live &= ~wild
        task = after - np.uint64(base)
        again = live & np.isin(task, seen)
        log.add(View.TASKS, Problem.CYCLE, 0, here[again], after[again])
        live &= ~again
        stale = live & homes.strangers(TASK, task)
        log.add(View.TASKS, Problem.STALE, 0, here[stale], after[stale])
        if stale.any():
            # A task made by hand names the process it is of; foreign memory does not.
            signal, named = kernel.gather_member("task_struct", "signal", task)
            live &= ~stale | (named & (signal == head - thread_head))
        seen = distinct(seen, task[live])
        head, here = head[live], after[live]
    return read_tasks(kernel, difference(seen, leaders.task), leader=False, log=log)


def read_tasks(kernel: Kernel, addresses: U64, *, leader: bool, log: ProblemLog) -> Tasks:
    """Decode the ``task_struct`` at each of ``addresses``, a row for each; ``leader`` is the same for all."""
    rows, ok = kernel.gather(Tasks, addresses)
    rows.task[:], rows.ok[:], rows.leader[:] = addresses, ok, leader
    log.add(View.TASKS, Problem.UNREADABLE, 0, addresses[~ok])
    return rows
