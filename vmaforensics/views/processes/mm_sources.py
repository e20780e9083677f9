"""Who else knows of an address space or a process: every record that holds mm_structs or task_structs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import difference, distinct, rows_of, values_at
from vmaforensics.columns.types import I64, U16, U64, Bools
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.processes.mm_lists import TreeRoots, on_lru_lists, on_pgd_list, tree_roots
from vmaforensics.views.processes.mms import Mms, read_mms
from vmaforensics.views.processes.pid_idr import tasks_by_pid
from vmaforensics.views.processes.tasks import PF_EXITING, Tasks, read_tasks
from vmaforensics.views.slab.caches import ObjectKind
from vmaforensics.views.slab.objects import State
from vmaforensics.views.structures.per_cpu import per_cpu_offsets
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.slab.objects import SlabView


# include/linux/sched.h; of task->__state
TASK_DEAD = 0x80
TASK_NEW = 0x800


class Source(IntFlag):
    """A record that knows of tasks or mms."""

    TASK_LIST = 1  # init_task.tasks, thread_head; of an mm: a task on them uses it
    PID_INDEX = 2  # init_pid_ns.idr
    SLAB = 4  # an allocated object of the cache
    RUN_QUEUE = 8  # a CPU runs it
    PGD_LIST = 16
    LRU_GEN = 32
    TREE_ROOT = 64  # a root maple node points back to it

    @property
    def label(self) -> str:
        """What people call it; of several, joined."""
        names = {
            1: "task list",
            2: "pid index",
            4: "slab",
            8: "run queue",
            16: "pgd_list",
            32: "lru_gen list",
            64: "maple tree root",
        }
        return ", ".join(name for bit, name in names.items() if self & bit)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcesView:
    """Tasks and mms, with who knows of each; see :func:`gather_sources`."""

    tasks: Tasks  # sorted by address
    task_sources: U16  # Source flags of each task
    executing: Bools  # in_execve of each task: exec is about to give it another mm
    mms: Mms  # sorted by address; task, pid and comm are those of mm->owner, or of last_user, if it has no user
    mm_sources: U16
    owner: U64  # mm->owner of each mm, 0 without CONFIG_MEMCG
    last_user: U64  # a task off the CPUs that has no mm, but active_mm of it; 0: none. No kernel leaves one
    kernel_own: Bools  # the mm that the kernel itself patches its text through
    roots: TreeRoots  # maple nodes that say they are the root of one of mms
    whole: Source  # those that were read whole, so that something can be said not to be there

    def hidden(self) -> Mms:
        """Address spaces in use that the task list does not lead to.

        Left out are the kernel's own, and those of one VMA: what exec is making has only its stack yet.
        """
        fits = (self.mm_sources & np.uint16(Source.TASK_LIST)) == 0
        fits &= self.mms.ok & (self.mms.users > 0) & (self.mms.map_count > 1) & ~self.kernel_own
        return self.mms.take(fits)

    def unlisted_yet(self) -> Bools:
        """Which of ``tasks`` fork is still making: they come to the list of tasks last (copy_process)."""
        new = (self.tasks.state & TASK_NEW) != 0
        unlisted: Bools = new & ((self.task_sources & np.uint16(Source.TASK_LIST)) == 0)
        return unlisted

    def task_rows(self, addresses: U64) -> I64:
        """Row in ``tasks`` of each task address, -1 where it is not there."""
        return rows_of(self.tasks.task, addresses)


class _Known(NamedTuple):
    """Addresses, ascending, and the :class:`Source` flags of each."""

    addresses: U64
    sources: U16


def with_indexed(tasks: Tasks, sources: SourcesView) -> Tasks:
    """``tasks`` of a task list that is broken, with those that only the pid index still leads to, in their order.

    Where the list is whole, what is missing from it was taken out, and stays out.
    """
    every, known = sources.tasks, sources.task_sources
    lost = (known & np.uint16(Source.PID_INDEX) != 0) & (known & np.uint16(Source.TASK_LIST) == 0)
    rows = every.take(lost & every.ok & (every.pid > 0) & (every.exit_state == 0))
    rows.leader[:] = rows.pid == rows.tgid
    found = Tasks.concatenate([tasks, rows])
    return found.sort_by(found.tgid, ~found.leader, found.pid, found.task)


def gather_sources(kernel: Kernel, tasks: Tasks, slab: SlabView | None, log: ProblemLog) -> SourcesView:
    """Collect tasks and mms from every record; ``tasks`` are those of the task list.

    >>> sources = gather_sources(kernel, tasks, slab, log)
    >>> sources.mms.mm[(sources.mm_sources & Source.TASK_LIST) == 0]
    """
    whole = Source.TASK_LIST if tasks.ok.all() else Source(0)
    by_task = [
        (Source.TASK_LIST, tasks.task),
        (Source.SLAB, _without_given_up(kernel, _allocated(slab, ObjectKind.TASK))),
        (Source.RUN_QUEUE, _running(kernel)),
    ]
    if (indexed := tasks_by_pid(kernel, log)) is not None:
        by_task.append((Source.PID_INDEX, indexed.addresses))
        whole |= Source.PID_INDEX if indexed.whole else Source(0)
    known_tasks = _merge(by_task, leave_out=kernel.symbols.get("init_task") or 0)
    every = _read_every(kernel, tasks, known_tasks.addresses, log)
    # Where the allocator has something else than a task, there is no row.
    task_sources = values_at(known_tasks.sources, rows_of(known_tasks.addresses, every.task))

    in_use = every.ok & (every.mm != 0)
    by_mm = [
        (source, every.mm[in_use & ((task_sources & np.uint16(source)) != 0)])
        for source in (Source.TASK_LIST, Source.PID_INDEX)
    ]
    by_mm.append((Source.SLAB, _allocated(slab, ObjectKind.MM)))
    known = _merge(by_mm).addresses
    known = known[kernel.arch.kernel_pointer(known)]
    for source, listed in (
        (Source.PGD_LIST, on_pgd_list(kernel, known, log)),
        (Source.LRU_GEN, on_lru_lists(kernel, known, log)),
    ):
        if listed is not None:
            by_mm.append((source, listed.addresses))
            whole |= source if listed.whole else Source(0)
    roots = tree_roots(kernel, slab, known)
    by_mm.append((Source.TREE_ROOT, roots.mm))
    known_mms = _merge(by_mm)
    usable = known_mms.addresses[kernel.arch.kernel_pointer(known_mms.addresses)]
    owner, _ = kernel.gather_member("mm_struct", "owner?", usable)
    last_user = _last_users(kernel, usable, every)
    mms = _read_mms(kernel, usable, np.where(owner != 0, owner, last_user), every, log)
    return SourcesView(
        tasks=every,
        task_sources=task_sources,
        executing=_executing(kernel, every.task),
        mms=mms,
        mm_sources=values_at(known_mms.sources, rows_of(known_mms.addresses, mms.mm)),
        owner=values_at(owner, rows_of(usable, mms.mm)),
        last_user=values_at(last_user, rows_of(usable, mms.mm)),
        kernel_own=np.isin(mms.mm, _patching(kernel)),
        roots=roots,
        whole=whole,
    )


def _allocated(slab: SlabView | None, kind: ObjectKind) -> U64:
    """Allocated objects; none where the cache is merged with others, whose objects are of another kind."""
    if slab is None or (slab.caches.users[slab.caches.kind == kind] != 1).any():
        return np.zeros(0, np.uint64)
    objects = slab.of(kind)
    return objects.take(objects.state == State.ALLOCATED).address


def _without_given_up(kernel: Kernel, tasks: U64) -> U64:
    """Tasks, but for those that fork gave up: they were never on a list, and wait for RCU with words that lead to what
    is freed (bad_fork_free in copy_process, kernel/fork.c).

    None of them has a kernel stack to run on. What has run is an exit_state before it is TASK_DEAD (do_exit).
    """
    state, ok = kernel.gather_member("task_struct", "__state|state", tasks)
    ended, _ = kernel.gather_member("task_struct", "exit_state", tasks)
    stack, read = kernel.gather_member("task_struct", "stack", tasks)
    kept: U64 = tasks[~(ok & read & (state == TASK_DEAD) & (ended == 0) & (stack == 0))]
    return kept


def _merge(parts: list[tuple[Source, U64]], leave_out: int = 0) -> _Known:
    """Which sources have which address; 0 and ``leave_out`` are none."""
    every = distinct(np.concatenate([addresses for _, addresses in parts]))
    every = every[(every != 0) & (every != np.uint64(leave_out))]
    bits = np.zeros(len(every), np.uint16)
    for source, addresses in parts:
        bits[np.isin(every, addresses)] |= np.uint16(source)
    return _Known(every, bits)


def _read_every(kernel: Kernel, listed: Tasks, addresses: U64, log: ProblemLog) -> Tasks:
    """The tasks at ``addresses`` (ascending), of which ``listed`` are decoded."""
    others = np.setdiff1d(addresses, listed.task, assume_unique=True)
    # What the task list does not lead to is no fault of the task list.
    read = read_tasks(kernel, others, leader=False, log=ProblemLog())
    log.add(View.SOURCES, Problem.UNREADABLE, 0, read.task[~read.ok])
    rows = Tasks.concatenate([listed.take(np.isin(listed.task, addresses)), read])
    return rows.sort_by(rows.task)


def _executing(kernel: Kernel, tasks: U64) -> Bools:
    """``in_execve`` of each task."""
    bits, _ = kernel.gather_member("task_struct", "in_execve?", tasks)
    executing: Bools = bits != 0
    return executing


def _read_mms(kernel: Kernel, mms: U64, owner: U64, tasks: Tasks, log: ProblemLog) -> Mms:
    """The mms (ascending) decoded as those of processes are, under the name of a task that uses or owns each."""
    users = tasks.take(tasks.ok & (tasks.mm != 0))
    users = users.sort_by(users.mm, users.tgid, users.pid)
    user, owning = rows_of(users.mm, mms), rows_of(tasks.task, owner)
    named = Tasks.concatenate([users, tasks])
    named = named.take_or_fill(np.where(user >= 0, user, np.where(owning >= 0, len(users) + owning, -1)))
    rows = read_mms(kernel, named.replace(mm=mms, ok=np.ones(len(mms), np.bool_)), ProblemLog())
    lost = rows.mm[~rows.ok & ~np.isin(rows.mm, users.mm)]
    stale = difference(mms[user < 0], rows.mm)
    log.add(View.SOURCES, Problem.UNREADABLE, lost, lost)
    log.add(View.SOURCES, Problem.STALE, 0, stale, stale)
    return rows


def _last_users(kernel: Kernel, mms: U64, tasks: Tasks) -> U64:
    """The task that ran in each of ``mms`` (ascending) though it has no mm, and is on no CPU; 0 for none.

    Who has no mm runs in that of the task before and lets go of it with the CPU (context_switch, kernel/sched/core.c).
    """
    off = tasks.ok & (tasks.mm == 0) & (tasks.exit_state == 0) & ((tasks.flags & PF_EXITING) == 0)
    if kernel.has("task_struct", "on_cpu"):
        off &= kernel.gather_member("task_struct", "on_cpu", tasks.task)[0] == 0
    else:  # without CONFIG_SMP
        running = _running(kernel)
        off &= ~np.isin(tasks.task, running) & (len(running) > 0)
    kept = tasks.take(off)
    kept = kept.sort_by(kept.active_mm, kept.pid)
    return values_at(kept.task, rows_of(kept.active_mm, mms))


def _running(kernel: Kernel) -> U64:
    """What each CPU runs (``rq->curr``, kernel/sched/sched.h)."""
    at = kernel.symbols.get("runqueues")
    if at is None or not kernel.has("rq", "curr"):
        return np.zeros(0, np.uint64)
    with np.errstate(over="ignore"):
        current, ok = kernel.gather_member("rq", "curr", np.uint64(at) + per_cpu_offsets(kernel))
    return current[ok & kernel.arch.kernel_pointer(current)]


def _patching(kernel: Kernel) -> U64:
    """The mm that text is patched through, which no process has: poking_mm, text_poke_mm since 6.16."""
    named = [kernel.symbols.get(name) for name in ("poking_mm", "text_poke_mm")]
    words, ok = kernel.words(np.array([at for at in named if at is not None], np.uint64), 1)
    found: U64 = words[ok, 0]
    return found
