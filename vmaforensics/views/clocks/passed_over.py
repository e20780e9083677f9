"""Processes that the list of tasks passes over though they lived when it was read: proved by the order of reading.

A process stays on the list, between the same neighbours but for those that exit, until release_task (kernel/exit.c);
what is new comes to the end of it. Memory is read by ascending addresses. So if its neighbours point at each other and
lie below what says that the process lives, they did so while it should have been between them. Of neighbours that were
there before the reading began, the word of one suffices: what has taken the place of one that ended would be behind it.
One that names another task as the next was on the list when that came to it, whenever it began itself.

That it lives say its own state, and what exit_notify, cgroup_release, __unhash_process and exit_mm take from it before
or with its place on the list: its threads' list, a thread that names it as its leader, its pid, the owner of its
memory, its children, and its neighbours on the lists of its parent's children and of its control group. These are often
its neighbours on the list of tasks too, and then both words lie in one page, which was read at one moment. Where what
was read later no longer has it, it is gone: however long it had slept, it has not slept on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import rows_of, values_at
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I32, I64, U64
from vmaforensics.views.processes.tasks import PF_EXITING

if TYPE_CHECKING:
    from vmaforensics.columns.types import Bools
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.tasks import Tasks

_NOWHERE = (1 << 64) - 1
_MOVED = "cg_list"  # from one list to another while the task lives
_LISTS = ("sibling", _MOVED)  # a task is on them as long as on the list of tasks, or not quite as long


@table(struct="task_struct")
class _Links(Table):
    after: U64 = member("tasks.next")  # list_head
    before: U64 = member("tasks.prev")
    started: I64 = member("start_time?", fill=(1 << 63) - 1)
    leader: U64 = member("group_leader?")
    parent: U64 = member("real_parent?")
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
    followed: Bools  # and what came after it came to the list behind it
    beside: I64  # when the younger of both neighbours began, ns of CLOCK_MONOTONIC
    gone: Bools  # what was read after it says that it had ended by then


class _Signs(NamedTuple):
    """What others say of each task."""

    last: U64  # where what was read last says that it was not released yet: a physical address, 0 for nowhere
    gone: Bools


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
    signs = _signs(kernel, tasks, links)
    # What lies in one page was read at one moment.
    alive = np.where(joined, signs.last | np.uint64(kernel.arch.page_size - 1), np.uint64(0))
    return PassedOver(
        joined,
        np.maximum(*says) < alive,
        np.minimum(*says) < alive,
        joined & (links.after != np.uint64((kernel.symbols.get("init_task") or 0) + link)),
        np.maximum(before.started, after.started),
        signs.gone,
    )


def living(tasks: Tasks) -> Bools:
    """Which of ``tasks`` have not begun to exit."""
    alive: Bools = tasks.ok & (tasks.exit_state == 0) & ((tasks.flags & PF_EXITING) == 0)
    return alive


def _signs(kernel: Kernel, tasks: Tasks, links: _Links) -> _Signs:
    exits = _places(kernel, tasks.task + np.uint64(kernel.offset("task_struct", "exit_state")))
    last = np.where(living(tasks), exits, np.uint64(0))
    gone = np.zeros(len(tasks), np.bool_)
    whole = living(tasks) & (tasks.pid == tasks.tgid)
    signals, read = kernel.gather(_Signals, tasks.signal)
    node = np.uint64(kernel.offset("task_struct", "thread_node"))
    heads = tasks.signal + np.uint64(kernel.offset("signal_struct", "thread_head"))
    last = _later(kernel, last, heads, read & (signals.threads > 0) & (signals.first == tasks.task + node))
    gone |= whole & read & (signals.first != tasks.task + node) & (_places(kernel, heads) > exits)
    attached = np.zeros(len(tasks), np.bool_)
    if kernel.has("task_struct", "pid_links") and kernel.has("pid", "tasks"):
        pids = links.pid + np.uint64(kernel.offset("pid", "tasks"))  # hlist_head of PIDTYPE_PID, the first
        words, read = kernel.words(pids, 1)
        own = tasks.task + np.uint64(kernel.offset("task_struct", "pid_links"))
        attached = read & (words[:, 0] == own)
        last = _later(kernel, last, pids, attached)
        gone |= whole & read & (words[:, 0] != own) & (_places(kernel, pids) > exits)
    if kernel.has("mm_struct", "owner"):
        owner, read = kernel.gather_member("mm_struct", "owner", tasks.mm)
        owners = tasks.mm + np.uint64(kernel.offset("mm_struct", "owner"))
        last = _later(kernel, last, owners, read & (tasks.mm != 0) & (owner == tasks.task))
    named = _Named(tasks.task)
    # A thread that has not begun to exit keeps the leader of its group, a child its parent.
    named.by(last, links.leader, exits, living(tasks) & (links.leader != tasks.task))
    # One that is still a copy of its parent has no pid of its own.
    named.by(last, links.parent, exits, living(tasks) & attached)
    for path in _LISTS:
        if kernel.has("task_struct", path):
            _beside(kernel, tasks, path, named, _Signs(last, gone))
    last[last == _NOWHERE] = 0
    return _Signs(last, gone)


def _beside(kernel: Kernel, tasks: Tasks, path: str, named: _Named, signs: _Signs) -> None:
    """What neighbours on the lists through a list_head of the tasks say of each other; ``signs`` are moved on."""
    offset = kernel.offset("task_struct", path)
    at = tasks.task + np.uint64(offset)
    around, read = kernel.words(at, 2)
    for side in (0, 1):
        with np.errstate(over="ignore"):
            others = around[:, side] - np.uint64(offset)
        row = named.rows(others)
        places = _places(kernel, at + np.uint64(8 * side))
        back = values_at(around[:, 1 - side], row) == at
        fine = read & living(tasks) & (others != tasks.task)
        named.by(signs.last, others, places, fine & back)
        if path != _MOVED:
            lives = (row >= 0) & values_at(fine, row)
            signs.gone[:] |= fine & lives & ~back & (values_at(places, row) > places)


class _Named:
    """Looks up tasks that others name."""

    def __init__(self, tasks: U64) -> None:
        self._order = np.argsort(tasks)
        self._tasks = tasks[self._order]

    def by(self, last: U64, names: U64, places: U64, who: Bools) -> None:
        """Move ``last`` of each task that one of ``who`` names on to the place of the word that does."""
        row = self.rows(names)
        who = who & (row >= 0)
        np.maximum.at(last, row[who], places[who])

    def rows(self, names: U64) -> I64:
        """The row of each of ``names``, -1 where it is none of the tasks."""
        return values_at(self._order, rows_of(self._tasks, names), -1)


def _later(kernel: Kernel, last: U64, words: U64, says: Bools) -> U64:
    return np.maximum(last, np.where(says, _places(kernel, words), np.uint64(0)))


def _places(kernel: Kernel, addresses: U64) -> U64:
    """Physical addresses; the last there is where nothing maps an address."""
    where = kernel.space.translate(addresses)
    return np.where(where.mapped, where.pa, np.uint64(_NOWHERE))
