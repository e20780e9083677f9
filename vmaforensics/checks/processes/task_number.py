"""TASK-NUMBER: task says another number than the kernel knows it by.

*Compared:* `task->pid` with the number in its `struct pid` (`thread_pid->numbers[0].nr`), and `task->tgid` with that of
its `group_leader`.

*Guaranteed by:* `copy_process` (kernel/fork.c) sets both from one `struct pid`, and nothing changes them but exec in a
thread that is not the first, which exchanges them together (`de_thread`, `exchange_tids`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.processes.sources import about_task
from vmaforensics.checks.rule import BUG, SMEAR, Rule, Severity
from vmaforensics.columns.lookup import rows_of, sort_order, values_at
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="TASK-NUMBER",
    title="task says another number than the kernel knows it by",
    severity=Severity.HIGH,
    why="System calls and /proc find a process by its struct pid; tools that read memory, and the kernel's log, show "
    "the number in the task. Who changes the one leads the others to a process that is not there.",
    benign=(SMEAR, BUG),
    attack=("T1014", "T1036"),
    compares="pid and tgid of each task with the numbers of its struct pid and of its leader",
    views=(View.TASKS, View.SOURCES),
    transient="fork, before the task is on the list; exec in a thread that is not the first, while it takes the "
    "leader's place",
    by_hand=("crash: struct task_struct.pid,tgid,thread_pid,group_leader TASK",),
    steps=("task",),
    rank=533,
    changed_by=(Operation.EXEC,),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each such task that has memory."""
    sources, numbers = context.views.sources, context.views.pid_numbers
    if sources is None or numbers is None:
        return
    tasks = sources.tasks
    order = sort_order(tasks.task)
    leader = values_at(order, rows_of(tasks.task[order], numbers.leader), -1)
    led = numbers.ok & (leader >= 0) & values_at(numbers.ok, leader)
    # What fork makes has its own number before its own struct pid, and comes to the list after both (copy_process).
    unborn = sources.unlisted_yet()
    judged = tasks.ok & numbers.ok & (tasks.mm != 0) & (tasks.exit_state == 0) & ~sources.executing & ~unborn
    own = judged & (tasks.pid != numbers.number)
    group = judged & led & (tasks.tgid != values_at(numbers.number, leader))
    for row in np.flatnonzero(own | group).tolist():
        number = int(numbers.number[row])
        said, known, what = (
            (int(tasks.pid[row]), number, "pid")
            if own[row]
            else (int(tasks.tgid[row]), int(numbers.number[leader[row]]), "tgid")
        )
        evidence = [
            Evidence(
                what=f"{what} of the task is {said}",
                view=View.TASKS.label,
                address=int(tasks.task[row]),
                found=str(said),
                expected=str(known),
            ),
            Evidence(
                what=f"its struct pid has {number}",
                view=View.SOURCES.label,
                address=int(numbers.place[row]),
                found=str(number),
            ),
        ]
        title = f"{what} of the task is {said}, and the kernel knows it as {known}"
        yield about_task(context, RULE, row, int(tasks.mm[row]), title, evidence)
