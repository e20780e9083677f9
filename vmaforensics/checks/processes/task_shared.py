"""TASK-SHARED: open files, working directory, handlers or namespaces count other tasks than lead to them.

*Compared:* `fs_struct.users`, `files_struct.count`, `sighand_struct.count` and `nsproxy.count` with the number of tasks
whose `fs`, `files`, `sighand` and `nsproxy` lead there, of all tasks that any record knows.

*Guaranteed by:* `copy_fs`, `copy_files`, `copy_sighand` (kernel/fork.c) and `copy_namespaces` (kernel/nsproxy.c)
count a task that shares its parent's, which leads there from its beginning: what fork is making may be counted or not;
`exit_fs`, `exit_files`, `__exit_signal` and `exit_task_namespaces` count it off as they clear its word; `unshare`,
`setns` and `exec` exchange a task's for one of its own. Since 5.12 nobody else keeps the first two: `/proc/PID/fd`
looks at `files` under a lock (before, readers counted for a moment, and so did requests that workers of io_uring took
over). What kernel threads and init were given first the kernel counts itself, too. More tasks than are counted are
never legal: the count would come to 0 while it is in use.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.processes.sources import about_task, parent_copies, whole_sources
from vmaforensics.checks.rule import BUG, SMEAR, Apart, Confidence, Rule, Severity
from vmaforensics.columns.lookup import first_rows, values_at
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.processes.kin import SharedKind
from vmaforensics.views.processes.mm_sources import Source
from vmaforensics.views.view import View
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

_MOST = 16  # processes that are told of one structure; of more, the first stands for all

RULE = Rule(
    id="TASK-SHARED",
    title="what a process shares with others is counted for other tasks",
    severity=Severity.HIGH,
    why="A task whose files or whose root are exchanged shows another's in /proc/PID/fd, cwd and root, or uses what it "
    "does not show; with another's handlers a signal runs what somebody chose, with other namespaces it leaves its "
    "container. The counts stay with those that had them.",
    benign=(SMEAR, BUG),
    compares="fs_struct.users, files_struct.count, sighand_struct.count and nsproxy.count with the tasks that lead "
    "there",
    views=(View.TASKS, View.SOURCES),
    transient="a task that ends, or exchanges what it shares; readers of /proc/PID/fd and io_uring up to 5.11",
    by_hand=("crash: struct task_struct.fs,files,sighand,nsproxy TASK", "crash: struct files_struct.count ADDRESS"),
    steps=("task", "word"),
    rank=557,
    changed_by=(),
    in_flight=(
        Apart(Operation.EXIT, 1),
        Apart(Operation.EXEC, 1),
        Apart(Operation.RELEASE, 1),
        Apart(Operation.UNSHARE, 1),
    ),
)


def check(context: Context) -> Iterator[Finding]:
    """A finding for each process that leads to a structure which counts fewer tasks than lead there, or more."""
    shared, kin, sources = context.views.shared, context.views.kin, context.views.sources
    if shared is None or kin is None or sources is None:
        return
    more = (shared.users >= 0) & (shared.tasks > shared.users)
    every = bool(whole_sources(context, sources) & (Source.TASK_LIST | Source.PID_INDEX)) and _all_read(context)
    fewer = (shared.tasks + shared.coming < shared.users) & ~shared.kept & every
    for place in np.flatnonzero(more | fewer).tolist():
        kind = SharedKind(int(shared.kind[place]))
        leads = kind.of(kin) == shared.address[place]
        rows = sources.task_rows(kin.task[leads])
        rows = rows[(rows >= 0) & (values_at(sources.tasks.pid, rows) > 0)]
        processes = rows[first_rows(sources.tasks.tgid[rows])]
        processes = processes[np.argsort(sources.tasks.tgid[processes], kind="stable")]
        for row in processes[: _MOST if len(processes) <= _MOST else 1].tolist():
            yield _told(context, place, row, Severity.HIGH if more[place] else Severity.MEDIUM, len(processes))


def _all_read(context: Context) -> bool:
    """Could each task be read that any record knows, but for those that are copies of others still?"""
    kin, sources = context.views.kin, context.views.sources
    assert kin is not None
    assert sources is not None
    return bool(np.isin(sources.tasks.task, np.concatenate([kin.task, parent_copies(context)])).all())


def _told(context: Context, place: int, row: int, severity: Severity, processes: int) -> Finding:
    """Of several processes that lead there, which one does so by right is not known."""
    shared = context.views.shared
    assert shared is not None
    kind = SharedKind(int(shared.kind[place]))
    users, tasks = int(shared.users[place]), int(shared.tasks[place])
    those = f"{counted(tasks, 'task')} of {counted(processes, 'process', 'es')}"
    said = f"{kind.struct} counts {users}, and {those} lead there"
    evidence = Evidence(
        what=said, view=View.TASKS.label, address=int(shared.address[place]), found=str(users), expected=str(tasks)
    )
    finding = about_task(context, RULE, row, 0, f"its {said}", [evidence])
    confidence = Confidence.HIGH if processes == 1 else Confidence.MEDIUM
    return replace(
        finding,
        apart=abs(users - tasks),
        told_of=int(shared.address[place]),
        by_others=True,
        severity=severity,
        confidence=confidence,
    )
