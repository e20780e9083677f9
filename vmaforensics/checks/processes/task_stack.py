"""TASK-STACK: kernel stack of a task is not where it left it.

*Compared:* the stack pointer that the kernel keeps of each task (`thread.sp` on x86) with `task->stack`: it lies on
that stack.

*Guaranteed by:* `__switch_to_asm` (arch/x86/entry/entry_64.S) saves it as a task leaves a CPU, which it does on its own
stack; `copy_thread` (arch/x86/kernel/process.c) gives a new task a place on the stack that `dup_task_struct` made it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.processes.sources import about_task, parent_copies
from vmaforensics.checks.rule import BUG, SMEAR, Rule, Severity
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="TASK-STACK",
    title="kernel stack of a task is not where it left it",
    severity=Severity.HIGH,
    why="When the task is next on a CPU, the kernel goes on with what that pointer leads to. Where the stack is "
    "another's, tools show the registers of another as the task's own.",
    benign=(SMEAR, BUG),
    attack=("T1014", "T1055"),
    compares="the saved stack pointer of each task with its kernel stack",
    views=(View.TASKS, View.SOURCES),
    transient="none: a task leaves a CPU on its own stack",
    by_hand=("crash: struct task_struct.stack,thread.sp TASK", "crash: bt TASK"),
    steps=("task", "word"),
    rank=536,
    changed_by=(),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each such task that lives."""
    sources, has = context.views.sources, context.views.essentials
    if sources is None or has is None:
        return
    tasks = sources.tasks
    wrong = has.ok & has.off_stack & (tasks.exit_state == 0)
    wrong &= ~sources.unlisted_yet() & ~np.isin(tasks.task, parent_copies(context))
    for row in np.flatnonzero(wrong).tolist():
        saved, stack = int(has.saved[row]), int(has.stack[row])
        evidence = Evidence(
            what=f"the saved stack pointer is {saved:#x}, the stack begins at {stack:#x}",
            view=View.TASKS.label,
            address=int(tasks.task[row]),
            found=f"{saved:#x}",
            expected=f"{stack:#x}",
        )
        title = f"thread {int(tasks.pid[row])} left a CPU at {saved:#x}, which is not on its kernel stack"
        yield about_task(context, RULE, row, int(tasks.mm[row]), title, [evidence])
