"""Processes that the list of tasks passes over though they lived when it was read: proved by the order of reading.

A process stays on the list, between the same neighbours but for those that exit, until release_task (kernel/exit.c);
what is new comes to the end of it. Memory is read by ascending addresses. So if its neighbours point at each other and
lie below what says that the process lives, they did so while it should have been between them. Of neighbours that were
there before the reading began, the word of one suffices: what has taken the place of one that ended would be behind it.

That it lives say its own state, and what __unhash_process and exit_mm take from it before or with its place on the
list: its threads' list, a thread that names it as its leader, its pid, the owner of its memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import rows_of
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I32, I64, U64

if TYPE_CHECKING:
    from vmaforensics.columns.types import Bools
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.tasks import Tasks

_PF_EXITING = 0x4  # include/linux/sched.h
_NOWHERE = (1 << 64) - 1


@table(struct="task_struct")
class _Links(Table):
    after: U64 = member("tasks.next")  # list_head
    before: U64 = member("tasks.prev")
    started: I64 = member("start_time?", fill=(1 << 63) - 1)
    leader: U64 = member("group_leader?")
    pid: U64 = member("thread_pid?")  # struct pid


@table(struct="signal_struct")
class _Signals(Table):
    threads: I32 = member("nr_threads?")
    first: U64 = member("thread_head.next")  # list_head in the first thread


class PassedOver(NamedTuple):
    """Which tasks live, but their neighbours on the list point at each other."""

    bypassed: Bools
    proven: Bools  # both neighbours were read first, so that it was so while the task lived
    by_one: Bools  # at least one was
    beside: I64  # when the younger of both neighbours began, ns of CLOCK_MONOTONIC


def passed_over(kernel: Kernel, tasks: Tasks) -> PassedOver:
    """For each of ``tasks``."""
    link = kernel.offset("task_struct", "tasks")
    with np.errstate(over="ignore"):
        links, ok = kernel.gather(_Links, tasks.task)
        before, held = kernel.gather(_Links, links.before - np.uint64(link))
        after, too = kernel.gather(_Links, links.after - np.uint64(link))
    leaders = tasks.pid == tasks.tgid  # what threads have there was copied as they were made
    joined = leaders & ok & held & too & (links.before != links.after)
    joined &= (before.after == links.after) & (after.before == links.before) & living(tasks)
    says = _places(kernel, links.before), _places(kernel, links.after + np.uint64(8))
    alive = np.where(joined, _alive(kernel, tasks, links), np.uint64(0))
    return PassedOver(
        joined, np.maximum(*says) < alive, np.minimum(*says) < alive, np.maximum(before.started, after.started)
    )


def living(tasks: Tasks) -> Bools:
    """Which of ``tasks`` have not begun to exit."""
    alive: Bools = tasks.ok & (tasks.exit_state == 0) & ((tasks.flags & _PF_EXITING) == 0)
    return alive


def _alive(kernel: Kernel, tasks: Tasks, links: _Links) -> U64:
    """Where what was read last says that each of ``tasks`` was not released yet: a physical address, 0 for nowhere."""
    exits = _places(kernel, tasks.task + np.uint64(kernel.offset("task_struct", "exit_state")))
    last = np.where(living(tasks), exits, np.uint64(0))
    signals, read = kernel.gather(_Signals, tasks.signal)
    node = np.uint64(kernel.offset("task_struct", "thread_node"))
    heads = tasks.signal + np.uint64(kernel.offset("signal_struct", "thread_head"))
    last = _later(kernel, last, heads, read & (signals.threads > 0) & (signals.first == tasks.task + node))
    if kernel.has("task_struct", "pid_links") and kernel.has("pid", "tasks"):
        pids = links.pid + np.uint64(kernel.offset("pid", "tasks"))  # hlist_head of PIDTYPE_PID, the first
        words, read = kernel.words(pids, 1)
        own = tasks.task + np.uint64(kernel.offset("task_struct", "pid_links"))
        last = _later(kernel, last, pids, read & (words[:, 0] == own))
    if kernel.has("mm_struct", "owner"):
        owner, read = kernel.gather_member("mm_struct", "owner", tasks.mm)
        owners = tasks.mm + np.uint64(kernel.offset("mm_struct", "owner"))
        last = _later(kernel, last, owners, read & (tasks.mm != 0) & (owner == tasks.task))
    # A thread that has not begun to exit keeps the leader of its group.
    threads = np.flatnonzero(living(tasks) & (links.leader != 0) & (links.leader != tasks.task))
    row = rows_of(np.sort(tasks.task), links.leader[threads])
    order = np.argsort(tasks.task)
    np.maximum.at(last, order[row[row >= 0]], exits[threads[row >= 0]])
    last[last == _NOWHERE] = 0
    return last


def _later(kernel: Kernel, last: U64, words: U64, says: Bools) -> U64:
    return np.maximum(last, np.where(says, _places(kernel, words), np.uint64(0)))


def _places(kernel: Kernel, addresses: U64) -> U64:
    """Physical addresses; the last there is where nothing maps an address."""
    where = kernel.space.translate(addresses)
    return np.where(where.mapped, where.pa, np.uint64(_NOWHERE))
