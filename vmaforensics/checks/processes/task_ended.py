"""TASK-ENDED: task that is said to have ended still has its memory.

*Compared:* `exit_state` of each task with its `mm`.

*Guaranteed by:* `do_exit` (kernel/exit.c) gives the address space back (`exit_mm`) before `exit_notify` sets
`exit_state`, and nothing ever clears that again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.processes.sources import about_task
from vmaforensics.checks.rule import BUG, SMEAR, Rule, Severity
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="TASK-ENDED",
    title="task that is said to have ended still has its memory",
    severity=Severity.HIGH,
    why="Tools pass over what has ended. A process that is marked so runs on unseen.",
    benign=(SMEAR, BUG),
    attack=("T1014", "T1564"),
    compares="exit_state and mm of each task",
    views=(View.TASKS, View.SOURCES),
    transient="none: memory is given back first",
    by_hand=("crash: struct task_struct.exit_state,mm,flags TASK",),
    steps=("task", "mm"),
    rank=534,
    changed_by=(),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each such task."""
    sources = context.views.sources
    if sources is None:
        return
    tasks = sources.tasks
    for row in np.flatnonzero(tasks.ok & (tasks.exit_state != 0) & (tasks.mm != 0)).tolist():
        state, mm = int(tasks.exit_state[row]), int(tasks.mm[row])
        evidence = Evidence(
            what=f"exit_state is {state:#x}, and mm is {mm:#x}",
            view=View.TASKS.label,
            address=int(tasks.task[row]),
            found=f"{state:#x}",
            expected="0x0",
        )
        title = f"exit_state of thread {int(tasks.pid[row])} is {state:#x}, and it has an address space"
        yield about_task(context, RULE, row, mm, title, [evidence])
