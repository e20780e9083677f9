"""TASK-TRACER: task reports to another than its parent, and nobody traces it.

*Compared:* `parent` with `real_parent` of every task that lives and whose `ptrace` is 0. The first gets its SIGCHLD and
its stops; `TracerPid` in `/proc/PID/status` is that of `parent`, but only where `ptrace` is not 0 (`ptrace_parent`,
include/linux/ptrace.h).

*Guaranteed by:* `__ptrace_link` sets `ptrace` and `parent` together, `__ptrace_unlink` clears the one and sets the
other back to `real_parent` (kernel/ptrace.c), both under `tasklist_lock`; `forget_original_parent` (kernel/exit.c)
moves both for a task that is not traced; `ptrace_init_task` begins with both equal.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import BUG, SMEAR, Rule, Severity
from vmaforensics.columns.lookup import rows_of, sort_order
from vmaforensics.views.view import View
from vmaforensics.words.printable import comm_of, decoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="TASK-TRACER",
    title="task reports to another than its parent, and nobody traces it",
    severity=Severity.MEDIUM,
    why="A tracer reads and writes all memory and registers of what it traces. One that took its mark off still "
    "receives every stop, while TracerPid in /proc/PID/status says that there is none.",
    benign=(SMEAR, BUG),
    attack=("T1014", "T1055"),
    compares="parent with real_parent of each task whose ptrace is 0",
    views=(View.TASKS,),
    transient="none: both change under tasklist_lock",
    by_hand=("crash: struct task_struct.pid,ptrace,parent,real_parent TASK",),
    steps=("task",),
    rank=555,
    changed_by=(),
)


def check(context: Context) -> Iterator[Finding]:
    """Tasks with another parent than their real one, and without a tracer."""
    tasks, tracers = context.views.tasks, context.views.tracers
    if tracers is None:
        return
    living = tracers.ok & (tasks.exit_state == 0)
    wrong = np.flatnonzero(living & (tracers.ptrace == 0) & (tracers.parent != tracers.real_parent))
    by_address = sort_order(tasks.task)
    parents = rows_of(tasks.task[by_address], tracers.parent[wrong])
    for row, parent in zip(wrong.tolist(), parents.tolist(), strict=True):
        known = int(by_address[parent]) if parent >= 0 else None
        address = int(tracers.parent[row])
        reports_to = f"the task at {address:#x}" if known is None else f"pid {int(tasks.pid[known])}"
        name = decoded(comm_of(tasks.comm[row]))
        evidence = Evidence(
            what=f"ptrace is 0, and parent ({reports_to}) is not real_parent",
            view=View.TASKS.label,
            address=int(tasks.task[row]),
            found=f"{address:#x}",
            expected=f"{int(tracers.real_parent[row]):#x}",
        )
        title = f"{name} reports to {reports_to}, which is neither its parent nor marked as its tracer"
        finding = context.finding(RULE, int(tasks.mm[row]), title, [evidence])
        yield replace(finding, pid=int(tasks.tgid[row]), comm=comm_of(tasks.comm[row]))
