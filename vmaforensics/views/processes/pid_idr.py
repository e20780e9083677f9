"""Tasks by process id: ``init_pid_ns.idr`` holds every ``struct pid``, and each of those its tasks.

Every process has a number in the first pid namespace, whatever others it is in (alloc_pid, kernel/pid.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.processes.mm_lists import Listed
from vmaforensics.views.slab.homes import PID, TASK, Homes
from vmaforensics.views.structures.xarray import all_pointers
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64
    from vmaforensics.kernel.kernel import Kernel

_CHAIN = 1 << 8  # steps along hlists: a pid has one task, and another for a moment while a thread execs


def tasks_by_pid(kernel: Kernel, log: ProblemLog) -> Listed | None:
    """Every ``task_struct`` that the index leads to; None if the kernel has no such index."""
    at = kernel.symbols.get("init_pid_ns")
    if at is None or not kernel.has("pid_namespace", "idr.idr_rt.xa_head") or not kernel.has("pid", "tasks"):
        kernel.identity.problems.append("no init_pid_ns with an xarray: processes are not looked up by pid")
        return None
    head = np.array([at + kernel.offset("pid_namespace", "idr.idr_rt.xa_head")], np.uint64)
    words, ok = kernel.words(head, 1)
    log.add(View.SOURCES, Problem.UNREADABLE, 0, head[~ok])
    # A number is taken (with a NULL) before its struct pid is put there; that is no pointer.
    found = all_pointers(kernel, words[ok, 0], View.SOURCES, log)
    pids = found.pointers
    wild = ~kernel.arch.kernel_pointer(pids)
    log.add(View.SOURCES, Problem.NON_CANONICAL, 0, head[0], pids[wild])
    stale = ~wild & kernel.shared(Homes).strangers(PID, pids)
    log.add(View.SOURCES, Problem.STALE, 0, head[0], pids[stale])
    tasks = _tasks_of(kernel, distinct(pids[~wild & ~stale]), log)
    return Listed(tasks.addresses, found.whole and tasks.whole and bool(ok[0]) and not stale.any())


def _tasks_of(kernel: Kernel, pids: U64, log: ProblemLog) -> Listed:
    """Tasks on the list of kind PIDTYPE_PID (the first) of each ``struct pid``, all lists at once."""
    link = np.uint64(kernel.offset("task_struct", "pid_links"))
    at = pids + np.uint64(kernel.offset("pid", "tasks"))
    seen = np.zeros(0, np.uint64)
    whole = True
    for _ in range(_CHAIN):
        words, ok = kernel.words(at, 1)
        log.add(View.SOURCES, Problem.UNREADABLE, 0, at[~ok])
        whole &= bool(ok.all())
        after = words[:, 0]
        wild = ok & (after != 0) & ~kernel.arch.kernel_pointer(after)
        log.add(View.SOURCES, Problem.NON_CANONICAL, 0, at[wild], after[wild])
        again = ok & np.isin(after, seen)
        log.add(View.SOURCES, Problem.CYCLE, 0, at[again], after[again])
        good = ok & (after != 0) & ~wild & ~again
        stale = good & kernel.shared(Homes).strangers(TASK, after - link)
        log.add(View.SOURCES, Problem.STALE, 0, at[stale], after[stale])
        whole &= not stale.any()
        at = distinct(after[good & ~stale])
        if not len(at):
            break
        seen = distinct(seen, at)
    else:
        log.add(View.SOURCES, Problem.CUT_SHORT, 0, at[:1], len(seen))
        whole = False
    return Listed(seen - link, whole)
