"""Whose child each process is by the lists of children, and what tasks share: open files, root and working directory,
handlers of signals, namespaces.

``copy_process`` (kernel/fork.c) puts the leader of a new thread group on ``real_parent->children``; the list goes on by
``sibling``. ``fs_struct.users`` and ``files_struct.count`` count the tasks that lead there, and so do
``sighand_struct.count`` and ``nsproxy.count``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.columns.lookup import is_in, rows_of
from vmaforensics.columns.runs import begins_run, run_lasts, run_starts
from vmaforensics.columns.table import Table, column, member, table
from vmaforensics.columns.types import I64, U8, U64, Bools
from vmaforensics.views.processes.tasks import PF_KTHREAD

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.tasks import Tasks


@table(struct="task_struct")
class Kin(Table):
    """A row for each task that could be read, in the order of the tasks it was made from."""

    task: U64
    next: U64 = member("sibling.next")
    prev: U64 = member("sibling.prev")
    real_parent: U64 = member("real_parent")  # task_struct; of all threads of a process the same
    group_next: U64 = member("thread_group.next?")  # list of the threads of a process; up to 6.6, later 0
    group_prev: U64 = member("thread_group.prev?")
    in_group: Bools  # the one leads to a thread of the process that leads back to it, and so does the other
    fs: U64 = member("fs")  # fs_struct; 0 in what has exited
    files: U64 = member("files")  # files_struct; 0 in what has exited
    sighand: U64 = member("sighand?")  # sighand_struct; 0 in what has been released
    nsproxy: U64 = member("nsproxy?")  # 0 in what has exited
    forward: U64  # task_struct on whose list of children it is, by the pointers onward; 0: not known
    backward: U64  # the same by the pointers back
    linked: Bools  # what its pointers on that list lead to, a task or the head, leads back to it


class SharedKind(IntEnum):
    """What tasks share."""

    FS = 0
    FILES = 1
    SIGHAND = 2
    NSPROXY = 3

    @property
    def struct(self) -> str:
        """The type."""
        return ("fs_struct", "files_struct", "sighand_struct", "nsproxy")[self]

    @property
    def counter(self) -> str:
        """The member that counts who has it, as it may be called."""
        counters = "count.refs.counter|count.counter|count"
        return ("users|users.refcount", "count.counter|count", counters, counters)[self]

    def of(self, kin: Kin) -> U64:
        """What each task has of the kind: addresses, 0 for none."""
        return (kin.fs, kin.files, kin.sighand, kin.nsproxy)[self]


@table()
class Shared(Table):
    """What tasks share, by kind and address."""

    kind: U8  # SharedKind
    address: U64
    task: U64  # the first task that leads there
    tasks: I64  # that lead there
    coming: I64  # that fork is making besides, and may have counted or not
    users: I64 = column(fill=-1)  # that it counts; -1: could not be read
    kept: Bools  # the kernel itself may count besides


_FIRST: Final = "init_task"


def read_kin(kernel: Kernel, tasks: Tasks, listed: U64, copies: U64, coming: U64) -> tuple[Kin, Shared]:
    """Kin of each of ``tasks`` but ``copies``, and what they share with each other and with the idle task of the first
    CPU.

    ``listed`` are the tasks that the list of tasks and ``signal->thread_head`` lead to, ``coming`` those that fork is
    making, of which ``copies`` are byte copies of their parents still. What cannot be read is no problem of its own:
    walking the tasks has reported it.
    """
    tasks = tasks.take(~np.isin(tasks.task, copies))
    every, tasks = tasks.task, tasks.take(tasks.ok)
    kin, ok = kernel.gather(Kin, tasks.task)
    kin.task[:] = tasks.task
    kin, tasks = kin.take(ok), tasks.take(ok)
    made, read = kernel.gather(Kin, coming)
    first = kernel.symbols.get(_FIRST)
    heads = np.concatenate([tasks.task, np.array([] if first is None else [first], np.uint64)])
    sibling, children = (np.uint64(kernel.offset("task_struct", name)) for name in ("sibling", "children"))
    with np.errstate(over="ignore"):
        places = tasks.task + sibling
        kin.forward[:] = _owner(places, kin.next, heads + children, heads)
        kin.backward[:] = _owner(places, kin.prev, heads + children, heads)
    kin.linked[:] = _linked(kernel, kin, places)
    if kernel.has("task_struct", "thread_group"):
        kin.in_group[:] = _in_group(kernel, kin, tasks, every, is_in(kin.task, listed))
    known = ~np.isin(kin.task, coming)
    return kin, _shared(kernel, kin.take(known), tasks.take(known), first, made.take(read))


def _owner(places: U64, after: U64, heads: U64, tasks: U64) -> U64:
    """Of each node the task whose head its list comes to; 0 where it comes to none of them.

    Every node looks twice as far in each round as in the one before.
    """
    order = np.argsort(places, kind="stable")
    by_place, by_head = places[order], np.argsort(heads, kind="stable")
    found = rows_of(heads[by_head], after)
    owner = np.where(found >= 0, tasks[by_head[np.maximum(found, 0)]], np.uint64(0))
    row = rows_of(by_place, after)
    jump = np.where(row >= 0, order[np.maximum(row, 0)], np.arange(len(places)))
    for _ in range(max(len(places), 1).bit_length()):
        owner = np.where(owner == 0, owner[jump], owner)
        jump = jump[jump]
    return owner


def _linked(kernel: Kernel, kin: Kin, places: U64) -> Bools:
    """Nothing leads back to a byte copy of a task; on no list, a node leads to itself (copy_process)."""
    order = np.argsort(places, kind="stable")
    found = np.zeros(len(kin), np.bool_)
    for lead, back, head in ((kin.next, kin.prev, "children.prev"), (kin.prev, kin.next, "children.next")):
        row = rows_of(places[order], lead)
        found |= (row >= 0) & (lead != places) & (back[order[np.maximum(row, 0)]] == places)
        said, ok = kernel.gather_member("task_struct", head, kin.real_parent)
        found |= ok & (said == places)
    return found


def _in_group(kernel: Kernel, kin: Kin, tasks: Tasks, every: U64, listed: Bools) -> Bools:
    """A process of several threads has none that leads to itself alone.

    Those are the ``listed``: what was released has left both lists (__unhash_process) and waits for RCU. A neighbour
    that could not be read is no witness: one of ``every`` task that is not among ``tasks``, or a lost page.
    """
    link = np.uint64(kernel.offset("task_struct", "thread_group"))
    places = tasks.task + link
    order = np.argsort(places, kind="stable")
    _, group = np.unique(tasks.tgid, return_inverse=True)
    count = np.bincount(group[listed], minlength=len(group))
    found: Bools = (kin.group_next != places) | (count[group] <= 1)
    for lead, back in ((kin.group_next, kin.group_prev), (kin.group_prev, kin.group_next)):
        row = rows_of(places[order], lead)
        other = order[np.maximum(row, 0)]
        agrees = (tasks.tgid[other] == tasks.tgid) & (back[other] == places)
        with np.errstate(over="ignore"):
            lost = is_in(lead - link, every) | (kernel.arch.kernel_pointer(lead) & ~kernel.words(lead, 2)[1])
        found &= np.where(row >= 0, agrees, lost)
    return found


def _shared(kernel: Kernel, kin: Kin, tasks: Tasks, first: int | None, coming: Kin) -> Shared:
    parts = []
    known = np.array([] if first is None else [first], np.uint64)
    idle, ok = kernel.gather(Kin, known)
    kernels = np.isin(kin.task, tasks.task[(tasks.flags & np.uint32(PF_KTHREAD)) != 0]) | (tasks.pid == 1)
    # Requests that workers of io_uring took over counted both (struct io_identity, 5.10 and 5.11).
    lent = kernel.has("io_identity", "fs") and kernel.has("io_identity", "files")
    for kind in SharedKind:
        mine, others = kind.of(kin), kind.of(idle)
        address, task = np.concatenate([mine, others[ok]]), np.concatenate([kin.task, known[ok]])
        used = kernel.arch.kernel_pointer(address)
        address, task = address[used], task[used]
        order = np.argsort(address, kind="stable")
        starts = run_starts(begins_run(address[order]))
        rows = Shared.of(
            len(starts),
            kind=np.full(len(starts), kind),
            address=address[order][starts],
            task=task[order][starts],
            tasks=run_lasts(starts, len(order)) - starts + 1,
        )
        led = rows_of(rows.address, kind.of(coming))
        rows.coming[:] = np.bincount(led[led >= 0], minlength=len(rows))
        path = next((name for name in kind.counter.split("|") if kernel.has(kind.struct, name)), None)
        if path is not None:
            users, read = kernel.gather_signed(kind.struct, path, rows.address)
            rows.users[read] = users[read]
        # Those that kernel threads and init were given first: variables of the kernel lead there too (7.0).
        rows.kept[:] = (lent and kind <= SharedKind.FILES) | np.isin(
            rows.address, np.concatenate([mine[kernels], others[ok]])
        )
        parts.append(rows)
    return Shared.concatenate(parts)
