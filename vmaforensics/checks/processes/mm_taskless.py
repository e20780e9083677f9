"""MM-TASKLESS: address space on its way belongs to no process.

*Compared:* the allocated `mm_struct`s that have page tables with those of all tasks. What each is follows from its
users, its owner and its VMAs. One in use with more than one VMA, and neither being built nor copied, is MM-HIDDEN.

*Guaranteed by:* nothing: `exit_mm`, `bprm_mm_init` and `dup_mm` leave such address spaces in every kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import Rule, Severity
from vmaforensics.columns.lookup import distinct
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.processes.taskless_mms import MmState
from vmaforensics.views.view import View
from vmaforensics.words.printable import comm_of, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="MM-TASKLESS",
    title="address space on its way belongs to no process",
    severity=Severity.INFO,
    why="Memory that a process has given up, or is about to get, maps pages like any other and is in no list of "
    "processes. On a busy machine there are some at any moment; on one that rests there are none.",
    benign=("a process that ends, begins another program or forks at that moment",),
    attack=(),
    compares="allocated mm_structs with page tables, with those of all tasks",
    views=(View.SLAB, View.SOURCES, View.TASKS),
    transient="exit_mmap, execve before exec_mmap, fork before the child has its mm",
    by_hand=("crash: struct mm_struct.mm_users,owner,map_count MM", hand.SLAB),
    steps=("mm",),
    rank=545,
)
_TOLD = (MmState.EXITING, MmState.EXEC, MmState.FORK, MmState.HELD)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each such address space."""
    taskless, sources = context.views.taskless, context.views.sources
    if taskless is None or sources is None:
        return
    told = np.isin(taskless.state, [int(state) for state in _TOLD]) & (taskless.mms.pgtables_bytes > 0)
    for row in np.flatnonzero(told).tolist():
        mm, state = int(taskless.mms.mm[row]), MmState(int(taskless.state[row]))
        owner = int(sources.task_rows(taskless.owner[row : row + 1])[0])
        whose = ""
        if owner >= 0:
            whose = f", of task {int(sources.tasks.pid[owner])} ({printable(comm_of(sources.tasks.comm[owner]))})"
        elif state is MmState.EXITING and (pid := _only_exiting(context, int((taskless.state == state).sum()))):
            whose = f", by task {pid}"
        size = context.pages(int(taskless.mms.total_vm[row]))
        evidence = Evidence(
            what=f"mm_users is {int(taskless.mms.users[row])}, mm_count {int(taskless.mms.count[row])}, "
            f"map_count {int(taskless.mms.map_count[row])}, total_vm {size}",
            view=View.SLAB.label,
            address=mm,
        )
        yield context.finding(RULE, mm, f"address space {mm:#x} is {state.text}{whose}", [evidence])


def _only_exiting(context: Context, count: int) -> int:
    """The one task that takes down a memory map, if there is one task and one map; else 0."""
    operations = context.views.operations
    if operations is None or count != 1:
        return 0
    pids = distinct(operations.under_way.pid[operations.under_way.operation == Operation.EXIT])
    return int(pids[0]) if len(pids) == 1 else 0
