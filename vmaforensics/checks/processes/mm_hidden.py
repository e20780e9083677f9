"""MM-HIDDEN: address space in use belongs to no process.

*Severity:* high; medium where fewer than two independent records know of it, or its owner has ended or is not known;
low where its owner is forking or executing. Where it has no owner, it is that of a task off the CPUs which has it as
`active_mm` and no `mm`.

*Compared:* the `mm_struct`s that page directories, reclaim, maple trees and the slab cache lead to, with those of all
tasks.

*Guaranteed by:* `mm_users` falls to 0 when the last user goes (`mmput`). A task without an `mm` lets go of `active_mm`
with the CPU (`context_switch`, kernel/sched/core.c).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.processes.decoys import decoys
from vmaforensics.checks.processes.sources import known_to, mm_evidence, whole_sources
from vmaforensics.checks.rule import BUG, FORKS, SMEAR, Apart, Confidence, Rule, Severity
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.processes.mm_sources import TASK_NEW, Source
from vmaforensics.views.processes.tasks import PF_EXITING
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.processes.mm_sources import SourcesView

_INDEPENDENT = Source.PGD_LIST | Source.LRU_GEN | Source.TREE_ROOT | Source.SLAB

RULE = Rule(
    id="MM-HIDDEN",
    title="address space in use belongs to no process",
    severity=Severity.HIGH,
    why="Page directories, reclaim and the allocator have records of address spaces of their own. One with VMAs "
    "and users that no process has is the memory of a process that was hidden.",
    benign=(
        SMEAR,
        "a process that was forking or about to run another program",
        "a process that has ended while somebody still held its memory",
        BUG,
    ),
    compares="the mm_structs of pgd_list, the lru_gen list, root maple nodes and the slab, if they have VMAs and "
    "users, with those of all tasks",
    views=(View.SOURCES, View.SLAB, View.TASKS),
    transient="fork and exec have one that no task has yet or has any more; a reader may hold one whose process ended",
    by_hand=("crash: struct mm_struct.owner,mm_users,map_count MM", hand.SLAB),
    steps=("mm", "index", "task"),
    rank=540,
    in_flight=(Apart(Operation.LET_GO, 1),),
    changed_by=(*FORKS, Operation.EXEC, Operation.EXIT),
)


class _Weight(NamedTuple):
    severity: Severity
    confidence: Confidence


def check(context: Context) -> Iterator[Finding]:
    """Address spaces in use that no task has; those of decoys are MM-DECOY."""
    sources = context.views.sources
    if sources is None or not whole_sources(context, sources) & Source.TASK_LIST:
        return
    mms, tasks = sources.mms, sources.tasks
    decoy_mms = {decoy.mm for decoy in context.shared(decoys)}
    # That of a task that the pid index alone knows is TASK-HIDDEN.
    taskless = np.isin(mms.mm, sources.hidden().mm) & ~known_to(sources.mm_sources, Source.PID_INDEX)
    taskless &= ~np.isin(mms.mm, tasks.mm[tasks.ok])
    for row in np.flatnonzero(taskless).tolist():
        mm = int(mms.mm[row])
        if mm in decoy_mms:
            continue
        title = f"address space of {int(mms.map_count[row])} VMAs, in use, belongs to no process"
        weight = _weight(sources, row)
        finding = context.finding(RULE, mm, title, mm_evidence(sources, row))
        # One that a task is about to let go of has no owner any more, or one that has ended.
        left = int(weight.severity.rank >= Severity.MEDIUM.rank)
        yield replace(finding, severity=weight.severity, confidence=weight.confidence, apart=left, by_others=True)


def _weight(sources: SourcesView, row: int) -> _Weight:
    """By how many independent records know of the mm, a live task that owns it being one.

    fork makes the address space whole before anybody can find its task (TASK_NEW); exec keeps the old one for a
    moment; and a reader (mmget) may hold one whose process has ended: it has no owner then (mm_update_next_owner).
    """
    known = (Source(int(sources.mm_sources[row])) & _INDEPENDENT).bit_count()
    tasks = sources.tasks
    by_owner, by_use = (int(sources.task_rows(of[row : row + 1])[0]) for of in (sources.owner, sources.last_user))
    at = by_owner if by_owner >= 0 else by_use
    if at < 0:
        return _Weight(Severity.MEDIUM, Confidence.LOW)
    if sources.executing[at] or int(tasks.state[at]) & TASK_NEW:
        return _Weight(Severity.LOW, Confidence.LOW)
    ended = int(tasks.exit_state[at]) != 0 or bool(int(tasks.flags[at]) & PF_EXITING)
    if ended or known < 2:
        return _Weight(Severity.MEDIUM, Confidence.MEDIUM)
    return _Weight(Severity.HIGH, Confidence.HIGH)
