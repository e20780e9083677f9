"""TASK-KTHREAD-MM: kernel thread uses the memory of a process.

*Severity:* low, confidence low; both high where the thread is the `owner` of that memory, or no child of kthreadd: a
process with the mark of a kernel thread.

*Compared:* `mm` of tasks with PF_KTHREAD, `mm->owner`, and `real_parent` with the task of process 2.

*Guaranteed by:* kernel threads have no `mm` except between `kthread_use_mm` and `kthread_unuse_mm`, and never own it
(`mm_update_next_owner`, kernel/exit.c, passes over them). kthreadd starts them all (kernel/kthread.c), and is the
second process there is (`rest_init`, init/main.c); helpers that workers started have no `mm` before exec.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.processes.sources import about_task
from vmaforensics.checks.rule import BUG, SMEAR, Confidence, Rule, Severity
from vmaforensics.views.processes.tasks import PF_KTHREAD
from vmaforensics.views.view import View
from vmaforensics.words.printable import comm_of, decoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.processes.mm_sources import SourcesView

# Of a process that was marked as a kernel thread: it shows another kind of task than it is, as a decoy does.
_BENIGN_OF_PROCESS = (SMEAR, "a process that was about to run another program", BUG)

_KTHREADD = 2  # its pid

RULE = Rule(
    id="TASK-KTHREAD-MM",
    title="kernel thread uses the memory of a process",
    severity=Severity.LOW,
    confidence=Confidence.LOW,
    why="Kernel threads have no memory map. A process with the mark of a kernel thread is left out by tools that "
    "look for processes only.",
    benign=("a driver that works on behalf of a process (kthread_use_mm: vhost, shared virtual addressing)", SMEAR),
    attack=("T1014", "T1564", "T1036"),
    compares="PF_KTHREAD of each task with its mm, which should be NULL, and with the owner of that",
    views=(View.TASKS, View.SOURCES),
    transient="kthread_use_mm, for as long as a driver works on behalf of a process",
    by_hand=("crash: struct task_struct.flags,mm TASK",),
    steps=("task",),
    rank=550,
)


def check(context: Context) -> Iterator[Finding]:
    """Tasks with PF_KTHREAD and an mm.

    kthread_use_mm lends a kernel thread the mm of a process (vhost, io_uring of old, DMA). It stays that of its owner,
    which never is a kernel thread (mm_update_next_owner, kernel/exit.c): one that owns the mm it uses is a process
    that was marked, and so is one that kthreadd did not start. exec clears the mark of a helper last (begin_new_exec,
    fs/exec.c).
    """
    sources = context.views.sources
    if sources is None:
        return
    tasks = sources.tasks
    marked = tasks.ok & ((tasks.flags & PF_KTHREAD) != 0)
    kthreadd = tasks.task[marked & (tasks.pid == _KTHREADD) & (tasks.mm == 0)]
    owns = np.isin(tasks.task, sources.owner[sources.owner != 0])
    strange = ~np.isin(tasks.parent, kthreadd) & (tasks.parent != 0) & (len(kthreadd) > 0)
    for row in np.flatnonzero(marked & (tasks.mm != 0)).tolist():
        process = (owns[row] or strange[row]) and not sources.executing[row]
        finding = _borrower(context, sources, row)
        yield _process(finding, sources, row, owns=bool(owns[row])) if process else finding


def _borrower(context: Context, sources: SourcesView, row: int) -> Finding:
    name = decoded(comm_of(sources.tasks.comm[row]))
    title = f"kernel thread {name} uses the memory of a process"
    mm = int(sources.tasks.mm[row])
    evidence = Evidence(
        what="PF_KTHREAD is set, and mm is not NULL",
        view=View.TASKS.label,
        address=int(sources.tasks.task[row]),
        found=f"{mm:#x}",
        expected="0x0",
    )
    return about_task(context, RULE, row, mm, title, [evidence])


def _process(finding: Finding, sources: SourcesView, row: int, *, owns: bool) -> Finding:
    tasks = sources.tasks
    task, parent = int(tasks.task[row]), int(tasks.parent[row])
    what, where, found = (
        ("mm->owner of it is the thread itself", int(tasks.mm[row]), task)
        if owns
        else ("real_parent of it is not kthreadd", task, parent)
    )
    why = "owns its memory" if owns else "is no child of kthreadd"
    return replace(
        finding,
        title=f"{decoded(comm_of(tasks.comm[row]))} {why} and is marked as a kernel thread",
        evidence=(*finding.evidence, Evidence(what=what, view=View.SOURCES.label, address=where, found=f"{found:#x}")),
        severity=Severity.HIGH,
        confidence=Confidence.HIGH,
        benign=_BENIGN_OF_PROCESS,
    )
