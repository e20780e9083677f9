"""TASK-HIDDEN: process is missing from a record of all processes.

*Severity:* high; medium with low confidence where only the slab cache knows of it, and it is on no list of children.

*Compared:* the tasks of the task list with those of the index of process ids and of further records. Idle tasks, tasks
that exit or have just been made are left out, and a task that fork has just begun to make: a byte copy of its parent,
which is known by the parent's stack. A record that could not be read whole does not count.

*Guaranteed by:* `copy_process` (kernel/fork.c) and `__unhash_process` (kernel/exit.c) change both under
`tasklist_lock`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.processes.sources import about_task, known_to, parent_copies, whole_sources
from vmaforensics.checks.rule import BUG, SMEAR, Confidence, Rule, Severity
from vmaforensics.columns.lookup import distinct, rows_of, values_at
from vmaforensics.views.processes.mm_sources import TASK_NEW, Source
from vmaforensics.views.processes.tasks import PF_EXITING
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import I64, U64, Bools
    from vmaforensics.views.processes.mm_sources import SourcesView

_BOTH = Source.TASK_LIST | Source.PID_INDEX
_EXIT_DEAD = 0x10  # include/linux/sched.h
_MOST = 16  # tasks of a process that are listed, and processes that have a finding each

RULE = Rule(
    id="TASK-HIDDEN",
    title="process is missing from a record of all processes",
    severity=Severity.HIGH,
    why="The kernel adds a process to its list and to the index of process ids together, and takes it out of both "
    "together. Tools read one of them; a process that is only in the other is hidden from those.",
    benign=(SMEAR, "a process that was just being made or had just ended", BUG),
    compares="the tasks of init_task.tasks and thread_head with those of the pid index, and with the allocated "
    "task_structs and those the run queues name",
    views=(View.TASKS, View.SOURCES, View.SLAB),
    transient="a task being forked (TASK_NEW) is in neither; one that has exited leaves both before it is freed",
    by_hand=("crash: ps", "crash: task TASK", "drgn: find_task(PID)  # by the pid index"),
    steps=("task",),
    rank=520,
    changed_by=(),
)


class _Missing(NamedTuple):
    """Which tasks a record leaves out; parallel to ``SourcesView.tasks``."""

    on_list: Bools
    in_index: Bools
    both: Bools  # neither has it, and it is no task that comes or goes

    def any(self) -> Bools:
        """Those of which some record is missing."""
        return self.on_list | self.in_index | self.both


def check(context: Context) -> Iterator[Finding]:
    """One finding per process (tgid) of which the task list or the pid index leaves out some task; of many, one."""
    sources = context.views.sources
    if sources is None:
        return
    missing = _missing(sources, whole_sources(context, sources), parent_copies(context), _bypassed(context, sources))
    for which in (missing.on_list | missing.both, missing.in_index & ~missing.on_list & ~missing.both):
        yield from _of_processes(context, sources, missing, np.flatnonzero(which))


def _of_processes(context: Context, sources: SourcesView, missing: _Missing, wrong: I64) -> Iterator[Finding]:
    """What one record leaves out: the tasks ``wrong``."""
    tgids = sources.tasks.tgid[wrong]
    processes = len(distinct(tgids))
    if processes > _MOST:  # one broken link leaves out all that is behind it
        finding = _of_process(context, sources, missing, wrong.tolist())
        yield replace(finding, title=f"{processes:,} processes are not in every record: the first {finding.title}")
        return
    for tgid in distinct(tgids).tolist():
        yield _of_process(context, sources, missing, wrong[tgids == tgid].tolist())


def _bypassed(context: Context, sources: SourcesView) -> Bools:
    """Tasks of which it is known without the whole list that it passes them over."""
    clocks = context.views.clocks
    if clocks is None:
        return np.zeros(len(sources.tasks), np.bool_)
    return values_at(clocks.tasks.bypassed, rows_of(clocks.tasks.task, sources.tasks.task))


def _missing(sources: SourcesView, whole: Source, unborn: U64, passed: Bools) -> _Missing:
    """What exits leaves the list and the index together, but the object waits for its last user and for RCU; what is
    being forked is in neither yet, and in the beginning a byte copy of its parent. Idle tasks (pid 0) never are in
    either."""
    tasks, bits = sources.tasks, sources.task_sources
    alive = tasks.ok & (tasks.pid > 0) & (tasks.exit_state == 0)
    settled = alive & ((tasks.flags & PF_EXITING) == 0) & ((tasks.state & TASK_NEW) == 0)
    settled &= ~np.isin(tasks.task, unborn)
    released = tasks.exit_state == _EXIT_DEAD  # __unhash_process takes it out of the index first
    listed, indexed = known_to(bits, Source.TASK_LIST), known_to(bits, Source.PID_INDEX)
    return _Missing(
        on_list=(alive & indexed & ~listed & bool(whole & Source.TASK_LIST)) | (settled & ~listed & passed),
        in_index=tasks.ok & (tasks.pid > 0) & ~released & listed & ~indexed & bool(whole & Source.PID_INDEX),
        both=settled & ~listed & ~indexed & ((whole & _BOTH) == _BOTH),
    )


def _of_process(context: Context, sources: SourcesView, missing: _Missing, rows: list[int]) -> Finding:
    """The finding about the process whose tasks ``rows`` are left out."""
    tasks, bits = sources.tasks, sources.task_sources
    leader = next((row for row in rows if tasks.pid[row] == tasks.tgid[row]), rows[0])
    records = [
        source.label
        for source, which in ((Source.TASK_LIST, missing.on_list), (Source.PID_INDEX, missing.in_index))
        if which[leader] or missing.both[leader]
    ]
    what = "process" if tasks.pid[leader] == tasks.tgid[leader] else f"thread {int(tasks.pid[leader])}"
    title = f"{what} is not on the {' nor in the '.join(records)}"
    mm = int(tasks.mm[leader])
    evidence = [_of_task(sources, row) for row in rows[:_MOST]]
    finding = about_task(context, RULE, leader, mm, title, evidence)
    if missing.both[leader] and not known_to(bits[leader : leader + 1], Source.RUN_QUEUE)[0]:
        owned = sources.mms.mm[sources.owner == tasks.task[leader]]
        # If only the slab says so, a fork may just have begun.
        if mm not in owned.tolist() and not _is_child(context, int(tasks.task[leader])):
            return replace(finding, severity=Severity.MEDIUM, confidence=Confidence.LOW)
    return finding


def _is_child(context: Context, task: int) -> bool:
    """Is a task on a list of children? It comes there and goes from there together with all other lists."""
    kin = context.views.kin
    return kin is not None and bool(kin.linked[kin.task == np.uint64(task)].any())


def _of_task(sources: SourcesView, row: int) -> Evidence:
    known = Source(int(sources.task_sources[row]))
    return Evidence(
        what=f"task {int(sources.tasks.pid[row])} is known to: {known.label}",
        view=View.SOURCES.label,
        address=int(sources.tasks.task[row]),
        found=known.label,
        expected=_BOTH.label,
    )
