"""Where unwinding begins: for each task what it left at the last switch, or the registers of the CPU it is on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.unwinding import Cursor, Found
from vmaforensics.columns.lookup import covering_rows, rows_of, values_at
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I32, U64, Bools
from vmaforensics.views.stacks.cpus import cpu_registers, read_run_queues
from vmaforensics.views.stacks.frames import End, How, Stacks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.arch.registers import CpuState
    from vmaforensics.arch.unwinding import Step, Unwinding
    from vmaforensics.columns.types import I64, U8
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.tasks import Tasks
    from vmaforensics.views.stacks.cpus import RunQueues

GOING = 255  # in Stacks.end: not ended yet


@table(struct="task_struct")
class _OnStack(Table):
    """What a task says of its stack."""

    low: U64 = member("stack")
    on_cpu: I32 = member("on_cpu?")  # int, since 7.2 a byte; none without SMP
    ok: Bools


@dataclass(frozen=True, slots=True, kw_only=True)
class Starts:
    """The innermost frame of each stack."""

    stacks: Stacks  # ``end`` is GOING where there is a frame to begin with
    cursor: Cursor
    how: U8  # How each begins
    on_cpu: Bools  # it may be on stacks of CPUs too
    queues: RunQueues
    states: tuple[CpuState, ...]  # of CPUs, ``cpu`` as the kernel counts
    state: I32  # of each stack: place in ``states``; -1: it was on no CPU whose registers are known


def find_starts(kernel: Kernel, unwinding: Unwinding, tasks: Tasks, cpus: Sequence[CpuState]) -> Starts:
    """Where each of ``tasks``, and each CPU's idle task, is. ``cpus`` is what the notes of the dump say."""
    queues = read_run_queues(kernel)
    states = cpu_registers(kernel, queues, cpus)
    idle = _idle_tasks(kernel, queues, tasks)
    stacks = Stacks.zeros(len(tasks) + len(idle))
    stacks.task[: len(tasks)], stacks.task[len(tasks) :] = tasks.task, queues.idle[idle]
    stacks.row[: len(tasks)] = np.arange(len(tasks))
    on_stack, ok = kernel.gather(_OnStack, stacks.task)
    stacks.low[:] = on_stack.low
    running = on_stack.on_cpu != 0
    idle_rows = len(tasks) + np.arange(len(idle))
    running[idle_rows] = queues.curr[idle] == queues.idle[idle]
    stacks.cpu[:] = _cpus(queues, stacks.task, running)

    state = _match(unwinding, states, stacks, running)
    begun = unwinding.running(states)
    sleeping = unwinding.sleeping(stacks.task)
    with_state = state >= 0
    stacks.cpu[with_state] = np.array([known.cpu for known in states], np.int32)[state[with_state]]
    cursor = _choose(sleeping.cursor, begun.cursor, state)
    found = sleeping.found.copy()
    found[with_state] = begun.found[state[with_state]]
    # A CPU that is about to switch has marked both tasks; the one it is not on any more has left what a sleeper leaves.
    unknown = running & ~with_state & np.bool_(not _all_known(queues, states))
    how = np.where(with_state, How.REGISTERS, How.SWITCH).astype(np.uint8)
    stacks.end[:] = GOING
    _end_by(stacks, found == Found.UNREADABLE, End.UNREADABLE, sleeping)
    _end_by(stacks, ~with_state & _is_outside(stacks, sleeping, unwinding.thread_size), End.OUTSIDE, sleeping)
    stacks.end[unknown] = End.NOT_SAVED
    stacks.end[with_state & (found == Found.NO_REGISTER)] = End.NOT_SAVED
    user = with_state & (found == Found.USER)
    stacks.end[user], stacks.user_ip[user], stacks.user_sp[user] = End.USER, cursor.ip[user], cursor.sp[user]
    dead = ok & (stacks.low == 0)
    stacks.end[dead], stacks.where[dead] = End.NO_STACK, 0
    stacks.end[~ok], stacks.where[~ok] = End.UNREADABLE, stacks.task[~ok]
    return Starts(
        stacks=stacks,
        cursor=cursor,
        how=how,
        on_cpu=with_state,
        queues=queues,
        states=states,
        state=state,
    )


def _idle_tasks(kernel: Kernel, queues: RunQueues, tasks: Tasks) -> I64:
    """CPUs whose idle task is known and not among ``tasks``."""
    usable = queues.ok & kernel.arch.kernel_pointer(queues.idle) & ~np.isin(queues.idle, tasks.task)
    return np.flatnonzero(usable).astype(np.int64)


def _cpus(queues: RunQueues, tasks: U64, running: Bools) -> I32:
    """The CPU whose current task each of ``tasks`` is, -1 for those that do not run."""
    order = np.argsort(queues.curr, kind="stable")
    at = rows_of(queues.curr[order], tasks)
    found: I32 = np.where(running, values_at(queues.cpu[order], at, -1), -1).astype(np.int32)
    return found


def _match(unwinding: Unwinding, states: tuple[CpuState, ...], stacks: Stacks, running: Bools) -> I32:
    """Which of ``states`` is each task's: that whose stack pointer lies on its stack, else that of its CPU.

    In a switch the current task and the stack pointer change one after the other.
    """
    state = np.full(len(stacks), -1, np.int32)
    order = np.argsort(stacks.low, kind="stable")
    low = stacks.low[order]
    sp = np.array([(known.sp or 0) % (1 << 64) for known in states], np.uint64)
    with np.errstate(over="ignore"):
        on = covering_rows(low, low + np.uint64(unwinding.thread_size), sp)
    for place, known in enumerate(states):
        if on[place] >= 0 and low[on[place]] != 0:
            state[order[on[place]]] = place
            continue
        current = np.flatnonzero(running & (stacks.cpu == known.cpu))
        state[current] = place
    return state


def _all_known(queues: RunQueues, states: tuple[CpuState, ...]) -> bool:
    """Are the registers of every CPU that runs something in the image?"""
    busy = queues.cpu[queues.ok & (queues.curr != 0)]
    return bool(len(busy)) and set(busy.tolist()) <= {known.cpu for known in states if known.words}


def _choose(sleeping: Cursor, begun: Cursor, state: I32) -> Cursor:
    """The cursor of each task: that of its state if it has one."""
    rows = np.flatnonzero(state >= 0)
    chosen = {name: values.copy() for name, values in sleeping.columns().items()}
    for name, values in begun.columns().items():
        if len(rows):
            chosen[name][rows] = values[state[rows]]
    return Cursor(**chosen)


def _is_outside(stacks: Stacks, sleeping: Step, size: int) -> Bools:
    """Did a task leave its registers elsewhere than on its stack?"""
    with np.errstate(over="ignore"):
        within = sleeping.where - stacks.low
        outside: Bools = (sleeping.size != 0) & (within > np.uint64(size) - sleeping.size)
    return outside


def _end_by(stacks: Stacks, rows: Bools, end: End, sleeping: Step) -> None:
    """These stacks have no frame to begin with."""
    stacks.end[rows], stacks.where[rows] = end, sleeping.where[rows]
