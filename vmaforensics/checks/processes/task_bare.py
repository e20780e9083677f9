"""TASK-BARE: living process lacks what every process has.

*Compared:* of each living process with memory, the words that lead to its number, leader, signals, handlers, rights,
kernel stack, working directory, open files and namespaces: none is NULL. Open files are asked of the first thread
alone, for workers of the kernel's own, which are threads too, have none.

*Guaranteed by:* `copy_process` (kernel/fork.c) sets them before the task is on any list. `exit_files`, `exit_fs` and
`exit_task_namespaces` clear theirs once PF_EXITING is set (`do_exit`, kernel/exit.c), all others are cleared once
`exit_state` is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.processes.sources import about_task, parent_copies
from vmaforensics.checks.rule import BUG, SMEAR, Rule, Severity
from vmaforensics.views.processes.essentials import UNTIL_EXIT, UNTIL_RELEASED
from vmaforensics.views.processes.tasks import PF_EXITING, PF_KTHREAD
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="TASK-BARE",
    title="living process lacks what every process has",
    severity=Severity.HIGH,
    why="Tools pass over what has no number, no leader or no open files, as over what is about to end. A process that "
    "has lost one of these words alone has it hidden.",
    benign=(SMEAR, BUG),
    attack=("T1014", "T1564"),
    compares="thread_pid, group_leader, signal, sighand, cred, stack, fs, files and nsproxy of each living process",
    views=(View.TASKS, View.SOURCES),
    transient="none: all are set before a task is on a list, and cleared when it exits",
    by_hand=("crash: struct task_struct.thread_pid,group_leader,signal,sighand,cred,fs,files,nsproxy,flags TASK",),
    steps=("task",),
    rank=531,
    changed_by=(),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each such task."""
    sources, has = context.views.sources, context.views.essentials
    if sources is None or has is None:
        return
    tasks = sources.tasks
    judged = has.ok & (tasks.mm != 0) & (tasks.exit_state == 0) & ((tasks.flags & PF_KTHREAD) == 0)
    judged &= ~sources.unlisted_yet() & ~np.isin(tasks.task, parent_copies(context))
    staying = judged & ((tasks.flags & PF_EXITING) == 0)
    first = tasks.pid == tasks.tgid
    columns = has.columns()
    lacks = {name: judged & (columns[name] == 0) for name in UNTIL_RELEASED}
    lacks |= {name: staying & (columns[name] == 0) & (first | (name != "files")) for name in UNTIL_EXIT}
    for row in np.flatnonzero(np.any(list(lacks.values()), axis=0)).tolist():
        names = " and ".join(name for name, lacking in lacks.items() if lacking[row])
        evidence = Evidence(
            what=f"{names} of the task: NULL", view=View.TASKS.label, address=int(tasks.task[row]), found="0x0"
        )
        title = f"thread {int(tasks.pid[row])} lives and has no {names}"
        yield about_task(context, RULE, row, int(tasks.mm[row]), title, [evidence])
