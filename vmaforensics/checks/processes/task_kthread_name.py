"""TASK-KTHREAD-NAME: process bears the name of a kernel thread.

*Compared:* `comm` of each task that has memory of its own with the names of kernel threads: those in brackets, which
only `ps` writes so, and those of kernel threads of this image up to a slash (`kworker/`).

*Guaranteed by:* nothing: `prctl(PR_SET_NAME)` and `/proc/PID/comm` set any name. A program's file may be named so too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.processes.sources import about_task
from vmaforensics.checks.rule import SMEAR, Confidence, Rule, Severity
from vmaforensics.columns.lookup import distinct
from vmaforensics.views.processes.tasks import PF_EXITING, PF_KTHREAD
from vmaforensics.views.view import View
from vmaforensics.words.printable import comm_of, decoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="TASK-KTHREAD-NAME",
    title="process bears the name of a kernel thread",
    severity=Severity.LOW,
    confidence=Confidence.LOW,
    why="In a list of processes it is passed over as one of the kernel's own threads.",
    benign=(SMEAR, "programs that set such a name on purpose, as some workers of file systems do"),
    attack=("T1036.004", "T1036.005"),
    compares="comm of tasks with memory with names in brackets, and with the names of kernel threads",
    views=(View.TASKS,),
    transient="none",
    by_hand=("crash: struct task_struct.comm,flags,mm TASK", "crash: ps -k"),
    steps=("task",),
    rank=556,
    changed_by=(),
)

_PF_USER_WORKER = 0x10 | 0x4000  # PF_IO_WORKER, PF_USER_WORKER: the kernel's own threads with memory (sched.h)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process; its first task with such a name is named."""
    sources = context.views.sources
    if sources is None:
        return
    tasks = sources.tasks
    kernel = tasks.ok & ((tasks.flags & PF_KTHREAD) != 0) & (tasks.mm == 0)
    own = {comm_of(comm).split(b"/")[0] + b"/" for comm in distinct(tasks.comm[kernel]) if b"/" in comm_of(comm)}
    shows = tasks.ok & (tasks.mm != 0) & (tasks.exit_state == 0)
    shows &= (tasks.flags & (PF_KTHREAD | PF_EXITING | _PF_USER_WORKER)) == 0
    names, which = np.unique(tasks.comm, return_inverse=True)
    borrowed = np.array([_borrowed(comm_of(name), own) for name in names], np.bool_)
    told: set[int] = set()
    for row in np.flatnonzero(shows & borrowed[which]).tolist():
        if int(tasks.tgid[row]) in told:
            continue
        told.add(int(tasks.tgid[row]))
        name = decoded(comm_of(tasks.comm[row]))
        what = f"comm of a task with memory is {name}, as a kernel thread's"
        evidence = Evidence(what=what, view=View.TASKS.label, address=int(tasks.task[row]), found=name)
        title = f"process bears the name of a kernel thread, {name}"
        yield about_task(context, RULE, row, int(tasks.mm[row]), title, [evidence])


def _borrowed(name: bytes, own: set[bytes]) -> bool:
    """Is it a name in brackets, or does it begin like one of the kernel's?"""
    bracketed = name.startswith(b"[") and (name.endswith(b"]") or len(name) == 15)
    return bracketed or any(name.startswith(prefix) for prefix in own)
