"""MM-DECOY: process shows the memory map of another address space.

*Compared:* `mm` of each user task with its `active_mm`, and with the `mm_struct`s that name the task as their `owner`.

*Guaranteed by:* `exec_mmap` (fs/exec.c) sets both; `mm_update_next_owner` keeps `owner`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.processes.decoys import decoys
from vmaforensics.checks.processes.sources import about_task, mm_evidence
from vmaforensics.checks.rule import BUG, SMEAR, Rule, Severity
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="MM-DECOY",
    title="process shows the memory map of another address space",
    severity=Severity.HIGH,
    why="mm, active_mm and the owner of an address space name each other. A process whose mm was exchanged runs "
    "on its own memory, while /proc and most tools show that of another.",
    benign=(SMEAR, "a process that was about to run another program", BUG),
    attack=("T1014", "T1564", "T1036"),
    compares="mm of each user task with its active_mm, and with the mm_struct that names the task its owner",
    views=(View.TASKS, View.SOURCES),
    transient="exec (in_execve), which sets both together",
    by_hand=("crash: struct task_struct.mm,active_mm TASK", "crash: struct mm_struct.owner MM"),
    steps=("task", "mm"),
    rank=530,
    changed_by=(Operation.EXEC,),
)


def check(context: Context) -> Iterator[Finding]:
    """Processes that show another address space than their own."""
    sources = context.views.sources
    if sources is None:
        return
    tasks = sources.tasks
    for decoy in context.shared(decoys):
        row, evidence = decoy.task_row, []
        shown = int(tasks.mm[row])
        if decoy.by_active_mm:
            evidence.append(
                Evidence(
                    what="active_mm of a user task is another than its mm",
                    view=View.SOURCES.label,
                    address=int(tasks.task[row]),
                    found=f"{int(tasks.active_mm[row]):#x}",
                    expected=f"{shown:#x}",
                )
            )
        for owned in decoy.owned:
            evidence += mm_evidence(sources, owned)
        title = f"the process shows the memory map of another address space, {shown:#x}; its own is {decoy.mm:#x}"
        yield about_task(context, RULE, row, decoy.mm, title, evidence)
