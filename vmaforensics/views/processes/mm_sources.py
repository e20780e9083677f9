"""Who else knows of an address space or a process: every record that holds mm_structs or task_structs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import rows_of
from vmaforensics.kernel.space.pointers import kernel_pointer
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.processes.mm_lists import on_lru_lists, on_pgd_list, tree_roots
from vmaforensics.views.processes.mms import Mms, read_mms
from vmaforensics.views.processes.pid_idr import tasks_by_pid
from vmaforensics.views.processes.tasks import Tasks, read_tasks
from vmaforensics.views.slab.objects import State
from vmaforensics.views.slab.slab_pages import ObjectKind
from vmaforensics.views.structures.per_cpu import per_cpu_offsets
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views


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
    task_sources: NDArray[np.uint16]  # Source flags of each task
    executing: NDArray[np.bool_]  # in_execve of each task: exec is about to give it another mm
    mms: Mms  # sorted by address; task, pid and comm are those of mm->owner if it has no user
    mm_sources: NDArray[np.uint16]
    owner: NDArray[np.uint64]  # mm->owner of each mm, 0 without CONFIG_MEMCG
    kernel_own: NDArray[np.bool_]  # the mm that the kernel itself patches its text through
    roots: NDArray[np.void]  # dtype ROOTS: maple nodes that say they are the root of one of mms
    whole: Source  # those that were read whole, so that something can be said not to be there

    def hidden(self) -> Mms:
        """Address spaces in use that the task list does not lead to; exec's new one, with but its
        stack, and the kernel's own are left out."""
        fits = (self.mm_sources & np.uint16(Source.TASK_LIST)) == 0
        fits &= self.mms.ok & (self.mms.users > 0) & (self.mms.map_count > 1) & ~self.kernel_own
        return self.mms.take(fits)

    def task_rows(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Row in ``tasks`` of each task address, -1 where it is not there."""
        return rows_of(self.tasks.task, addresses)


def gather_sources(kernel: Kernel, views: Views, log: ProblemLog) -> SourcesView:
    """Collect tasks and mms from every record; ``views.tasks``, ``views.mms`` and ``views.slab`` must be there.

    >>> sources = gather_sources(kernel, views, log)
    >>> sources.mms["mm"][(sources.mm_sources & Source.TASK_LIST) == 0]
    """
    whole = Source.TASK_LIST
    if not views.tasks.ok.all():
        whole = Source(0)
    by_task: list[tuple[Source, NDArray[np.uint64]]] = [(Source.TASK_LIST, views.tasks.task)]
    found = tasks_by_pid(kernel, log)
    if found is not None:
        by_task.append((Source.PID_INDEX, found[0]))
        whole |= Source.PID_INDEX if found[1] else Source(0)
    by_task.append((Source.SLAB, _allocated(views, ObjectKind.TASK)))
    by_task.append((Source.RUN_QUEUE, _running(kernel)))
    addresses, sources = _union(by_task)
    idle = addresses == np.uint64(kernel.symbols.get("init_task") or 0)
    addresses, sources = addresses[~idle], sources[~idle]
    tasks, executing = _tasks(kernel, views, addresses, log)

    by_mm = [
        (source, tasks.mm[(sources & np.uint16(source) != 0) & tasks.ok & (tasks.mm != 0)])
        for source in (Source.TASK_LIST, Source.PID_INDEX)
    ]
    by_mm.append((Source.SLAB, _allocated(views, ObjectKind.MM)))
    known = _union(by_mm)[0]
    known = known[kernel_pointer(known)]
    for source, answer in (
        (Source.PGD_LIST, on_pgd_list(kernel, known, log)),
        (Source.LRU_GEN, on_lru_lists(kernel, known, log)),
    ):
        if answer is not None:
            by_mm.append((source, answer[0]))
            whole |= source if answer[1] else Source(0)
    roots = tree_roots(kernel, views.slab, known)
    by_mm.append((Source.TREE_ROOT, roots["mm"]))
    mms, mm_sources = _union(by_mm)
    usable = kernel_pointer(mms)
    mms, mm_sources = mms[usable], mm_sources[usable]
    rows, owner = _mms(kernel, mms, tasks, log)
    return SourcesView(
        tasks=tasks,
        task_sources=sources,
        executing=executing,
        mms=rows,
        mm_sources=mm_sources,
        owner=owner,
        kernel_own=np.isin(rows.mm, _patching(kernel)),
        roots=roots,
        whole=whole,
    )


def _allocated(views: Views, kind: ObjectKind) -> NDArray[np.uint64]:
    """Allocated objects; none where the cache is merged with others, whose objects are of another kind."""
    if views.slab is None:
        return np.zeros(0, np.uint64)
    caches = views.slab.caches[views.slab.caches["kind"] == kind]
    rows = views.slab.of(kind)
    rows = rows[(rows["state"] == State.ALLOCATED) & bool((caches["users"] == 1).all())]
    found: NDArray[np.uint64] = rows["address"]
    return found


def _union(
    parts: list[tuple[Source, NDArray[np.uint64]]],
) -> tuple[NDArray[np.uint64], NDArray[np.uint16]]:
    """``(addresses, ascending, the sources that have each)``; 0 is left out."""
    every = np.unique(np.concatenate([part for _, part in parts]))
    every = every[every != 0]
    bits = np.zeros(len(every), np.uint16)
    for source, part in parts:
        bits[np.isin(every, part)] |= np.uint16(source)
    return every, bits


def _tasks(
    kernel: Kernel, views: Views, addresses: NDArray[np.uint64], log: ProblemLog
) -> tuple[Tasks, NDArray[np.bool_]]:
    listed = views.tasks.sort_by(views.tasks.task)
    at = rows_of(listed.task, addresses)
    # What the task list does not lead to is no fault of the task list.
    others = read_tasks(kernel, addresses[at < 0], leader=False, log=ProblemLog())
    log.add(View.SOURCES, Problem.UNREADABLE, 0, others.task[~others.ok])
    rows = Tasks.concatenate([listed.take(at[at >= 0]), others])
    rows = rows.sort_by(rows.task)
    if not kernel.has("task_struct", "in_execve"):
        return rows, np.zeros(len(rows), np.bool_)
    executing, ok = kernel.gather_member("task_struct", "in_execve", addresses)
    return rows, ok & (executing != 0)


def _mms(kernel: Kernel, mms: NDArray[np.uint64], tasks: Tasks, log: ProblemLog) -> tuple[Mms, NDArray[np.uint64]]:
    """The mms decoded as those of processes are, under the name of a task that uses or owns each; their owners."""
    owner, _ = kernel.gather_member("mm_struct", "owner?", mms)
    users = tasks.take(tasks.ok & (tasks.mm != 0))
    users = users.sort_by(users.mm, users.tgid, users.pid)
    user = rows_of(users.mm, mms)
    both = Tasks.concatenate([users, tasks])
    at = rows_of(tasks.task, owner)
    stand_in = both.take_or_fill(np.where(user >= 0, user, np.where(at >= 0, at + len(users), -1)))
    stand_in.mm[:], stand_in.ok[:] = mms, True
    rows = read_mms(kernel, stand_in, ProblemLog())
    lost = rows.mm[~rows.ok & (user < 0)]
    log.add(View.SOURCES, Problem.UNREADABLE, lost, lost)
    return rows, owner


def _running(kernel: Kernel) -> NDArray[np.uint64]:
    """What each CPU runs (``rq->curr``, kernel/sched/sched.h)."""
    at = kernel.symbols.get("runqueues")
    if at is None or not kernel.has("rq", "curr"):
        return np.zeros(0, np.uint64)
    with np.errstate(over="ignore"):
        current, ok = kernel.gather_member("rq", "curr", np.uint64(at) + per_cpu_offsets(kernel))
    return current[ok & kernel_pointer(current)]


def _patching(kernel: Kernel) -> NDArray[np.uint64]:
    """The mm that text is patched through, which no process has: poking_mm, text_poke_mm since 6.16."""
    named = [kernel.symbols.get(name) for name in ("poking_mm", "text_poke_mm")]
    words, ok = kernel.words(np.array([at for at in named if at is not None], np.uint64), 1)
    found: NDArray[np.uint64] = words[ok, 0]
    return found
