"""TASK-PARENT: process is on the list of children of another than its parent, or has threads with another.

*Compared:* `real_parent` of every process with the task on whose list of children it is: `sibling` is followed in both
directions until the head, `children` of some task. And `real_parent` of all threads of a process with each other.
`/proc/PID/stat` and `ps` show `real_parent`.

*Guaranteed by:* `copy_process` (kernel/fork.c) puts the leader of a new thread group on `real_parent->children`, and
gives a new thread its creator's `real_parent`. `forget_original_parent` and `reparent_leader` (kernel/exit.c) move both
for all threads, `__unhash_process` takes the leader off the list when it takes it off the list of tasks; all of that
under `tasklist_lock`. Tracing moves `parent` alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.processes.sources import about_task
from vmaforensics.checks.rule import BUG, SMEAR, Apart, Rule, Severity
from vmaforensics.columns.lookup import rows_of, values_at
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.processes.mm_sources import SourcesView

RULE = Rule(
    id="TASK-PARENT",
    title="process has another parent than the lists of children say",
    severity=Severity.HIGH,
    why="Who started a process is the first question about it. The word that ps shows is one of two records: whoever "
    "changes it alone makes a process look as if an innocent one had started it.",
    benign=(SMEAR, BUG),
    compares="real_parent of each process with the list of children that it is on, and with that of its threads",
    views=(View.TASKS, View.SOURCES),
    transient="none at rest: both change under tasklist_lock; a process whose parent ends is being moved",
    by_hand=("crash: struct task_struct.real_parent,sibling,children TASK", "crash: ps -p PID"),
    steps=("task",),
    rank=559,
    changed_by=(),
    in_flight=(Apart(Operation.EXIT, 1 << 16), Apart(Operation.RELEASE, 1 << 16), Apart(Operation.NEW_TASK, 1)),
)


def check(context: Context) -> Iterator[Finding]:
    """A finding for each process or thread whose word is not as the lists say."""
    kin, sources = context.views.kin, context.views.sources
    if kin is None or sources is None:
        return
    tasks = sources.tasks
    row = sources.task_rows(kin.task)
    leads = (row >= 0) & (tasks.pid[row] == tasks.tgid[row]) & (tasks.pid[row] > 0)
    # One direction may be broken off, by a task that could not be read; but none may lead to the word.
    listed = np.where(kin.forward != 0, kin.forward, kin.backward)
    wrong = leads & (listed != 0) & (kin.forward != kin.real_parent) & (kin.backward != kin.real_parent)
    wrong &= (kin.forward == 0) | (kin.backward == 0) | (kin.forward == kin.backward)
    for place in np.flatnonzero(wrong).tolist():
        parent = int(listed[place])
        yield _told(context, sources, int(row[place]), int(kin.real_parent[place]), parent, "the list of children of")
    groups = np.sort(row[leads])
    leader = groups[np.argsort(tasks.tgid[groups], kind="stable")]
    if not len(leader):  # of no thread is the process known
        return
    mine = rows_of(tasks.tgid[leader], tasks.tgid[row])
    of_leader = values_at(kin.real_parent, rows_of(row, leader[np.maximum(mine, 0)]))
    threads = (row >= 0) & ~leads & (mine >= 0) & (tasks.exit_state[row] == 0) & (of_leader != 0)
    for place in np.flatnonzero(threads & (of_leader != kin.real_parent)).tolist():
        parent = int(of_leader[place])
        yield _told(
            context, sources, int(row[place]), int(kin.real_parent[place]), parent, "its process, whose parent is"
        )


def _told(context: Context, sources: SourcesView, row: int, says: int, other: int, whose: str) -> Finding:
    tasks = sources.tasks
    shown, known = _name(sources, says), _name(sources, other)
    evidence = Evidence(
        what=f"real_parent ({shown}) beside {whose} {known}",
        view=View.TASKS.label,
        address=int(tasks.task[row]),
        found=f"{says:#x}",
        expected=f"{other:#x}",
    )
    what = "process" if tasks.pid[row] == tasks.tgid[row] else f"thread {int(tasks.pid[row])}"
    title = f"{what} says that its parent is {shown}; by {whose.split(',')[0]} it is {known}"
    return replace(about_task(context, RULE, row, 0, title, [evidence]), apart=1, by_others=True)


def _name(sources: SourcesView, task: int) -> str:
    row = int(sources.task_rows(np.array([task], np.uint64))[0])
    return f"pid {int(sources.tasks.pid[row])}" if row >= 0 else f"the task at {task:#x}"
