"""Processes and address spaces that one record of the kernel knows and another leaves out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import rules
from vmaforensics.checks.context import comm_of
from vmaforensics.checks.finding import Confidence, Evidence, Severity
from vmaforensics.views.problems import Problem
from vmaforensics.views.processes.mm_sources import Source
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding, Rule
    from vmaforensics.views.processes.mm_sources import SourcesView

# include/linux/sched.h
_PF_EXITING = 0x4
_PF_KTHREAD = 0x00200000
_TASK_NEW = 0x800

_WITNESSES = Source.PGD_LIST | Source.LRU_GEN | Source.TREE_ROOT | Source.SLAB
_STACK_ONLY = 1  # areas that an address space has before exec gives it to its process


def check_existence(context: Context) -> Iterator[Finding]:
    """TASK-HIDDEN, MM-DECOY, MM-HIDDEN and TASK-KTHREAD-MM."""
    sources = context.views.sources
    if sources is None:
        return
    yield from _tasks(context, sources)
    decoys = list(_decoys(context, sources))
    yield from decoys
    yield from _mms(context, sources, {one.mm for one in decoys})
    yield from _kernel_threads(context, sources)


def whole_sources(context: Context, sources: SourcesView) -> Source:
    """The records that were read whole, the task list included."""
    problems = context.views.problems
    broken = np.isin(problems["problem"], (Problem.UNREADABLE, Problem.CUT_SHORT)) & (problems["view"] == View.TASKS)
    broken &= problems["mm"] == 0  # with an mm, it is that which could not be read
    return sources.whole & ~Source.TASK_LIST if broken.any() else sources.whole


def _about(context: Context, rule: Rule, task: np.void, title: str, evidence: list[Evidence], mm: int) -> Finding:
    """A finding about a process that the address space may not lead to."""
    one = context.finding(rule, mm, title, evidence)
    return replace(one, pid=int(task["tgid"]), comm=comm_of(task["comm"]))


def _tasks(context: Context, sources: SourcesView) -> Iterator[Finding]:
    """One finding per process (tgid) of which some record leaves out some task."""
    tasks, whole = sources.tasks, whole_sources(context, sources)
    bits = sources.task_sources
    # What exits leaves the list and the index together, but the object waits for its last user and for RCU;
    # what is being forked is in neither yet. Idle tasks (pid 0) never are in either.
    alive = tasks["ok"] & (tasks["pid"] > 0) & (tasks["exit_state"] == 0)
    settled = alive & ((tasks["flags"] & _PF_EXITING) == 0) & ((tasks["state"] & _TASK_NEW) == 0)
    listed, indexed = _has(bits, Source.TASK_LIST), _has(bits, Source.PID_INDEX)
    unlisted = alive & indexed & ~listed & bool(whole & Source.TASK_LIST)
    unindexed = tasks["ok"] & (tasks["pid"] > 0) & listed & ~indexed & bool(whole & Source.PID_INDEX)
    both = Source.TASK_LIST | Source.PID_INDEX
    neither = settled & ~listed & ~indexed & ((whole & both) == both)
    wrong = np.flatnonzero(unlisted | unindexed | neither)
    for tgid in np.unique(tasks["tgid"][wrong]).tolist():
        rows = wrong[tasks["tgid"][wrong] == tgid].tolist()
        evidence = [_of_task(tasks[row], Source(int(bits[row]))) for row in rows[:16]]
        leader = next((row for row in rows if tasks["pid"][row] == tgid), rows[0])
        task = tasks[leader]
        missing = [
            source.label
            for source, which in ((Source.TASK_LIST, unlisted | neither), (Source.PID_INDEX, unindexed | neither))
            if which[leader]
        ]
        what = "process" if task["pid"] == tgid else f"thread {int(task['pid'])}"
        title = f"{what} is not on the {' nor in the '.join(missing)}"
        mm = int(task["mm"])
        one = _about(context, rules.TASK_HIDDEN, task, title, evidence, mm)
        if neither[leader] and not _has(bits[leader : leader + 1], Source.RUN_QUEUE)[0]:
            owned = sources.mms["mm"][sources.owner == task["task"]]
            if mm not in owned.tolist():  # only the slab says so: perhaps a fork has just begun
                one = replace(one, severity=Severity.MEDIUM, confidence=Confidence.LOW)
        yield one


def _of_task(task: np.void, known: Source) -> Evidence:
    return Evidence(
        what=f"task {int(task['pid'])} is known to: {known.label}",
        view=View.SOURCES.label,
        address=int(task["task"]),
        found=known.label,
        expected=(Source.TASK_LIST | Source.PID_INDEX).label,
    )


def _decoys(context: Context, sources: SourcesView) -> Iterator[Finding]:
    """Tasks whose ``mm`` is not the one they run on (active_mm) or the one that names them its owner.

    exec sets mm and active_mm together; ``owner`` of the new mm is set before (mm_init), of the old one is
    cleared or passed on after (mm_update_next_owner), and in_execve says that it is under way.
    """
    tasks = sources.tasks
    user = tasks["ok"] & (tasks["mm"] != 0) & ((tasks["flags"] & (_PF_KTHREAD | _PF_EXITING)) == 0)
    user &= (tasks["exit_state"] == 0) & ~sources.executing
    active = user & (tasks["active_mm"] != tasks["mm"])
    at = sources.task_rows(sources.owner)
    used = np.isin(sources.mms["mm"], tasks["mm"][tasks["ok"]])
    orphan = (at >= 0) & user[at] & ~used & (sources.mms["users"] > 0) & sources.mms["ok"]
    orphan &= sources.mms["map_count"] > _STACK_ONLY
    orphan &= tasks["mm"][at] != sources.mms["mm"]
    # Vectorised up to here; what is left are the tasks that are wrong.
    claims: dict[int, list[int]] = {}
    for row in np.flatnonzero(orphan).tolist():
        claims.setdefault(int(at[row]), []).append(row)
    for row in sorted({*np.flatnonzero(active).tolist(), *claims}):
        task = tasks[row]
        shown, evidence = int(task["mm"]), []
        mine = claims.get(row, [])
        if active[row]:
            evidence.append(
                Evidence(
                    what="active_mm of a user task is another than its mm",
                    view=View.SOURCES.label,
                    address=int(task["task"]),
                    found=f"{int(task['active_mm']):#x}",
                    expected=f"{shown:#x}",
                )
            )
        for one in mine:
            evidence += _of_mm(sources, one)
        real = int(sources.mms["mm"][mine[0]]) if mine else int(task["active_mm"])
        title = f"the process shows the memory map of another address space, {shown:#x}; its own is {real:#x}"
        yield _about(context, rules.MM_DECOY, task, title, evidence, real)


def _of_mm(sources: SourcesView, row: int) -> list[Evidence]:
    one, known = sources.mms[row], Source(int(sources.mm_sources[row]))
    return [
        Evidence(
            what=(
                f"mm {int(one['mm']):#x} with {int(one['map_count'])} areas and {int(one['users'])} users "
                f"is known to: {known.label}"
            ),
            view=View.SOURCES.label,
            address=int(one["mm"]),
            found=known.label,
            expected=Source.TASK_LIST.label,
        ),
        Evidence(
            what=f"mm->owner of it is {int(sources.owner[row]):#x}",
            view=View.SOURCES.label,
            address=int(one["mm"]),
            found=f"{int(sources.owner[row]):#x}",
        ),
    ]


def _mms(context: Context, sources: SourcesView, told: set[int]) -> Iterator[Finding]:
    """Address spaces in use that no task has."""
    mms, bits = sources.mms, sources.mm_sources
    whole = whole_sources(context, sources)
    if not whole & Source.TASK_LIST:
        return
    # A task that the pid index alone knows is told as such.
    taskless = np.isin(mms["mm"], sources.hidden()["mm"]) & ~_has(bits, Source.PID_INDEX)
    taskless &= ~np.isin(mms["mm"], sources.tasks["mm"][sources.tasks["ok"]])
    for row in np.flatnonzero(taskless).tolist():
        mm = int(mms["mm"][row])
        if mm in told:
            continue
        severity, confidence = _weight(sources, row)
        title = f"address space of {int(mms['map_count'][row])} areas, in use, belongs to no process"
        one = context.finding(rules.MM_HIDDEN, mm, title, _of_mm(sources, row))
        yield replace(one, severity=severity, confidence=confidence)


def _weight(sources: SourcesView, row: int) -> tuple[Severity, Confidence]:
    """By how many independent records know of the mm, a live task that owns it being one.

    fork makes the address space whole before anybody can find its task (TASK_NEW); exec keeps the old one for a
    moment; and a reader (mmget) may hold one whose process has ended: it has no owner then (mm_update_next_owner).
    """
    known = (Source(int(sources.mm_sources[row])) & _WITNESSES).bit_count()
    at = int(sources.task_rows(sources.owner[row : row + 1])[0])
    if at < 0:
        return Severity.MEDIUM, Confidence.LOW
    task = sources.tasks[at]
    if sources.executing[at] or int(task["state"]) & _TASK_NEW:
        return Severity.LOW, Confidence.LOW
    ended = int(task["exit_state"]) != 0 or bool(int(task["flags"]) & _PF_EXITING)
    if ended or known < 2:
        return Severity.MEDIUM, Confidence.MEDIUM
    return Severity.HIGH, Confidence.HIGH


def _kernel_threads(context: Context, sources: SourcesView) -> Iterator[Finding]:
    """kthread_use_mm lends a kernel thread the mm of a process (vhost, io_uring of old, DMA).

    It stays that of its owner, which never is a kernel thread (mm_update_next_owner, kernel/exit.c): one that owns the
    mm it uses is a process that was marked. exec clears the mark of a helper last (begin_new_exec, fs/exec.c).
    """
    tasks = sources.tasks
    owners = sources.owner[sources.owner != 0]
    lent = tasks["ok"] & (tasks["mm"] != 0) & ((tasks["flags"] & _PF_KTHREAD) != 0)
    for row in np.flatnonzero(lent).tolist():
        task = tasks[row]
        evidence = Evidence(
            what="PF_KTHREAD is set, and mm is not NULL",
            view=View.TASKS.label,
            address=int(task["task"]),
            found=f"{int(task['mm']):#x}",
            expected="0x0",
        )
        name = comm_of(task["comm"]).decode("utf-8", "backslashreplace")
        title = f"kernel thread {name} uses the memory of a process"
        one = _about(context, rules.KTHREAD_MM, task, title, [evidence], int(task["mm"]))
        if int(task["task"]) in owners and not sources.executing[row]:
            own = Evidence(
                what="mm->owner of it is the thread itself",
                view=View.SOURCES.label,
                address=int(task["mm"]),
                found=f"{int(task['task']):#x}",
            )
            title = f"{name} owns its memory and is marked as a kernel thread"
            evidence_too = (*one.evidence, own)
            one = replace(
                one,
                title=title,
                evidence=evidence_too,
                severity=Severity.HIGH,
                confidence=Confidence.HIGH,
                benign=rules.MM_DECOY.benign,
            )
        yield one


def _has(bits: NDArray[np.uint16], source: Source) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (bits & np.uint16(source)) != 0
    return found
