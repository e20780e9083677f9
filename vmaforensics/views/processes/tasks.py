"""Tasks by the kernel's own lists: ``init_task.tasks`` for leaders, ``signal->thread_head`` for threads.

for_each_process and for_each_thread of include/linux/sched/signal.h, without trusting either list to end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import first_rows
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I32, U32, U64, Bools, Bytes16
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.views.problems import Problem, ProblemLog
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


_MOST = 1 << 22  # PID_MAX_LIMIT


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
    found: list[int] = []
    while len(found) < _MOST:
        at = found[-1] if found else first
        after, pointer, problem = _step(kernel, at, "tasks.next", seen)
        if after == first:
            break
        if problem is not None:
            log.add(View.TASKS, problem, 0, at + kernel.offset("task_struct", "tasks.next"), pointer)
            found += _backwards(kernel, first, seen)
            break
        seen.add(after)
        found.append(after)
    return read_tasks(kernel, np.array(found, np.uint64), leader=True, log=log)


def _backwards(kernel: Kernel, first: int, seen: set[int]) -> list[int]:
    """The tasks that ``prev`` pointers lead to from ``first`` on and ``seen`` does not have, in list order."""
    found: list[int] = []
    while len(found) < _MOST:
        after, _, problem = _step(kernel, found[-1] if found else first, "tasks.prev", seen)
        if problem is not None:
            break
        seen.add(after)
        found.append(after)
    return found[::-1]


class _Step(NamedTuple):
    """Where one pointer of the task list leads."""

    task: int  # the task_struct
    pointer: int  # to the list_head in it
    problem: Problem | None  # why it is not followed


def _step(kernel: Kernel, task: int, path: str, seen: set[int]) -> _Step:
    """Follow the pointer ``path`` of ``task``; ``seen`` are tasks that were visited."""
    words, ok = kernel.words(np.array([task + kernel.offset("task_struct", path)], np.uint64), 1)
    if not ok[0]:
        return _Step(0, 0, Problem.UNREADABLE)
    pointer = int(words[0, 0])
    after = (pointer - kernel.offset("task_struct", "tasks")) % (1 << 64)
    if not kernel.arch.kernel_pointer(words[0])[0]:
        return _Step(after, pointer, Problem.NON_CANONICAL)
    return _Step(after, pointer, Problem.CYCLE if after in seen else None)


def _threads(kernel: Kernel, leaders: Tasks, log: ProblemLog) -> Tasks:
    """All thread lists at once, one thread of each per step."""
    base = kernel.offset("task_struct", "thread_node")
    usable = leaders.ok & kernel.arch.kernel_pointer(leaders.signal)
    head = leaders.signal[usable] + np.uint64(kernel.offset("signal_struct", "thread_head"))
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
        seen = np.union1d(seen, task[live])
        head, here = head[live], after[live]
    return read_tasks(kernel, np.setdiff1d(seen, leaders.task), leader=False, log=log)


def read_tasks(kernel: Kernel, addresses: U64, *, leader: bool, log: ProblemLog) -> Tasks:
    """Decode the ``task_struct`` at each of ``addresses``, a row for each; ``leader`` is the same for all."""
    rows, ok = kernel.gather(Tasks, addresses)
    rows.task[:], rows.ok[:], rows.leader[:] = addresses, ok, leader
    log.add(View.TASKS, Problem.UNREADABLE, 0, addresses[~ok])
    return rows
