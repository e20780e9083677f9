"""MM-OWNER: address space whose owner uses another.

*Compared:* `mm->owner` of every address space that some task uses with the tasks: it has to be a task whose `mm` leads
back.

*Guaranteed by:* `mm_init_owner` (kernel/fork.c) sets it to the task that the address space is made for; a task that
leaves it, by exit or exec, passes it on to another that uses it (`mm_update_next_owner`, kernel/exit.c), and to nobody
if there is none. A task that is just leaving (PF_EXITING) may still stand there. Kernels without memory cgroups have no
such word.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.processes.sources import about_task, parent_copies
from vmaforensics.checks.rule import BUG, SMEAR, Apart, Rule, Severity
from vmaforensics.columns.lookup import rows_of, values_at
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.processes.tasks import PF_EXITING, PF_KTHREAD
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="MM-OWNER",
    title="address space whose owner uses another",
    severity=Severity.HIGH,
    why="What an address space is charged to hangs on its owner, and tools that start from address spaces name it. It "
    "is always a task that uses it.",
    benign=(SMEAR, BUG),
    compares="mm->owner of each address space with the tasks whose mm leads there",
    views=(View.SOURCES, View.TASKS),
    transient="a task that exits or execs is about to pass it on",
    by_hand=("crash: struct mm_struct.owner MM", "crash: struct task_struct.mm,comm TASK"),
    steps=("mm", "task"),
    rank=558,
    changed_by=(),
    in_flight=(Apart(Operation.EXIT, 1), Apart(Operation.EXEC, 1), Apart(Operation.NEW_TASK, 1)),
)


def check(context: Context) -> Iterator[Finding]:
    """A finding for each address space in use that belongs to somebody else."""
    sources = context.views.sources
    if sources is None or not sources.owner.any():
        return
    tasks = sources.tasks
    using = tasks.ok & (tasks.mm != 0) & ((tasks.flags & np.uint32(PF_EXITING | PF_KTHREAD)) == 0) & (tasks.pid > 0)
    using &= ~np.isin(tasks.task, parent_copies(context))
    user = np.flatnonzero(using)
    user = user[np.argsort(tasks.mm[user], kind="stable")]
    mine = rows_of(tasks.mm[user], sources.mms.mm)
    owner = sources.task_rows(sources.owner)
    shown = values_at(tasks.mm, owner)
    leaving = (values_at(tasks.flags, owner) & np.uint32(PF_EXITING)) != 0
    wrong = (mine >= 0) & (sources.owner != 0) & (owner >= 0) & (shown != sources.mms.mm) & ~leaving
    for row in np.flatnonzero(wrong).tolist():
        task, mm = int(user[mine[row]]), int(sources.mms.mm[row])
        named = f"pid {int(tasks.pid[owner[row]])}"
        evidence = Evidence(
            what=f"mm->owner is {named}, whose mm is {int(shown[row]):#x}",
            view=View.SOURCES.label,
            address=mm,
            found=f"{int(sources.owner[row]):#x}",
            expected=f"{int(tasks.task[task]):#x}",
        )
        title = f"its address space says that {named} owns it, which uses another"
        yield replace(about_task(context, RULE, task, mm, title, [evidence]), apart=1, by_others=True)
