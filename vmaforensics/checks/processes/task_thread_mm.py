"""TASK-THREAD-MM: thread uses another address space than the rest of its process.

*Compared:* `mm` of all living threads of a thread group (`task->signal`, which they share).

*Guaranteed by:* `copy_process` (kernel/fork.c) refuses CLONE_THREAD without CLONE_SIGHAND and that without CLONE_VM;
`exec` ends the other threads (`de_thread`, fs/exec.c) before it sets `mm`. Threads that have ended, or are about to,
have none (`exit_mm`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.processes.sources import about_task
from vmaforensics.checks.rule import BUG, SMEAR, Rule, Severity
from vmaforensics.columns.lookup import sort_order
from vmaforensics.columns.runs import begins_run, run_lasts, run_starts
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.processes.mm_sources import TASK_NEW
from vmaforensics.views.processes.tasks import PF_EXITING, PF_KTHREAD
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="TASK-THREAD-MM",
    title="thread uses another address space than the rest of its process",
    severity=Severity.HIGH,
    why="Tools show a process by its first thread. Another thread that was given other memory runs there unseen.",
    benign=(SMEAR, BUG),
    attack=("T1014", "T1564", "T1055"),
    compares="mm of the threads of each thread group with each other",
    views=(View.TASKS, View.SOURCES),
    transient="none: exec ends the other threads first",
    by_hand=("crash: struct task_struct.mm,active_mm,signal TASK", "crash: set PID; ps -g"),
    steps=("task", "mm"),
    rank=532,
    changed_by=(Operation.EXEC,),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each thread whose address space most of its process does not use, the leader if it is even."""
    sources = context.views.sources
    if sources is None:
        return
    tasks = sources.tasks
    living = tasks.ok & (tasks.signal != 0) & (tasks.exit_state == 0)
    living &= ((tasks.flags & (PF_KTHREAD | PF_EXITING)) == 0) & ((tasks.state & TASK_NEW) == 0) & ~sources.executing
    rows = np.flatnonzero(living)
    rows = rows[sort_order(tasks.signal[rows], tasks.pid[rows] != tasks.tgid[rows], tasks.pid[rows])]
    starts = run_starts(begins_run(tasks.signal[rows]))
    lasts = run_lasts(starts, len(rows))
    mm = tasks.mm[rows]
    uneven = (
        np.flatnonzero(np.minimum.reduceat(mm, starts) != np.maximum.reduceat(mm, starts))
        if len(starts)
        else np.zeros(0, np.int64)
    )
    for group in uneven.tolist():
        threads = rows[starts[group] : lasts[group] + 1]
        values, first, count = np.unique(tasks.mm[threads], return_index=True, return_counts=True)
        usual = int(values[np.lexsort((first, -count))[0]])
        for row in threads[tasks.mm[threads] != np.uint64(usual)].tolist():
            shown = int(tasks.mm[row])
            evidence = Evidence(
                what=f"mm of thread {int(tasks.pid[row])} of process {int(tasks.tgid[row])}",
                view=View.TASKS.label,
                address=int(tasks.task[row]),
                found=f"{shown:#x}",
                expected=f"{usual:#x}",
            )
            title = f"thread {int(tasks.pid[row])} uses the address space {shown:#x}, its process {usual:#x}"
            yield about_task(context, RULE, row, usual, title, [evidence])
