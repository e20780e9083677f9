"""TASK-GROUP: thread is not on the list of its process that /proc goes by.

Kernels up to 6.6, which keep threads on two lists.

*Compared:* `thread_group` of each living thread that `signal->thread_head` has: both of its pointers lead to a thread
of the same process, and these lead back; only what is a process by itself leads to itself.

*Guaranteed by:* `copy_process` (kernel/fork.c) puts a thread on both lists, `__unhash_process` (kernel/exit.c) takes it
off both, under the lock of its signal handlers. `next_thread`, which `/proc/PID/task` goes by, follows `thread_group`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.processes.sources import about_task, known_to
from vmaforensics.checks.rule import BUG, SMEAR, Apart, Rule, Severity
from vmaforensics.columns.lookup import values_at
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.processes.mm_sources import Source
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

_MOST = 16  # threads that are told of one process

RULE = Rule(
    id="TASK-GROUP",
    title="thread is not on the list of its process that /proc goes by",
    severity=Severity.HIGH,
    why="A thread that is taken off this list runs on, and neither /proc/PID/task nor what the kernel does to all "
    "threads of a process knows of it.",
    benign=(SMEAR, BUG),
    attack=("T1014", "T1564"),
    compares="thread_group of each thread that signal->thread_head has with that of its neighbours",
    views=(View.TASKS,),
    transient="a thread that is being made or released, under a spin lock",
    by_hand=("crash: struct task_struct.thread_group,thread_node TASK", "crash: list -H ADDRESS"),
    steps=("task",),
    rank=537,
    changed_by=(),
    in_flight=(Apart(Operation.NEW_TASK, 3), Apart(Operation.RELEASE, 3), Apart(Operation.DE_THREAD, 3)),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process with such threads: who was taken off, and who leads around it."""
    sources, kin = context.views.sources, context.views.kin
    if sources is None or kin is None or not kin.group_next.any():
        return
    tasks = sources.tasks
    row = sources.task_rows(kin.task)
    listed = (row >= 0) & values_at(known_to(sources.task_sources, Source.TASK_LIST), row)
    listed &= values_at(tasks.exit_state, row, 1) == 0
    wrong = np.flatnonzero(listed & ~kin.in_group)
    tgid = tasks.tgid[row[wrong]]
    for process in np.unique(tgid).tolist():
        places = wrong[tgid == process]
        evidence = [
            Evidence(
                what=f"thread_group of thread {int(tasks.pid[row[place]])} does not agree with that of its neighbours",
                view=View.TASKS.label,
                address=int(kin.task[place]),
                found=f"{int(kin.group_next[place]):#x}",
            )
            for place in places[:_MOST].tolist()
        ]
        title = f"threads that the list of the process does not lead to and back: {len(places)}"
        found = about_task(context, RULE, int(row[places[0]]), 0, title, evidence)
        yield replace(found, apart=len(places), by_others=True)
