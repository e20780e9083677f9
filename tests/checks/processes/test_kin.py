"""TASK-PARENT, TASK-SHARED and MM-OWNER: what others count and list against the word of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from checks.handmade_operations import Doing, add_operations
from checks.handmade_views import Process, findings, mm_of, task_of, views_of
from vmaforensics.checks.context import Context
from vmaforensics.checks.finding import Severity
from vmaforensics.checks.weigh import run_checks
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.processes.kin import Kin, Shared, SharedKind
from vmaforensics.views.processes.mm_sources import Source, SourcesView
from vmaforensics.views.processes.tasks import Tasks

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

FIRST, SECOND, THREAD, INIT = 100, 200, 101, 1
FILES = 0xFFFF_8880_7000_0000


def family() -> Views:
    """Two processes, children of init, the first with a thread."""
    views = views_of(Process(pid=FIRST, comm=b"sshd"), Process(pid=SECOND))
    extra = Tasks.of(
        task=[task_of(THREAD), task_of(INIT)],
        pid=[THREAD, INIT],
        tgid=[FIRST, INIT],
        mm=[mm_of(FIRST), 0],
        ok=[True, True],
    )
    tasks = Tasks.concatenate([views.tasks, extra])
    tasks = tasks.sort_by(tasks.task)
    views.sources = SourcesView(
        tasks=tasks,
        task_sources=np.full(len(tasks), Source.TASK_LIST, np.uint16),
        executing=np.zeros(len(tasks), np.bool_),
        mms=views.mms,
        mm_sources=np.full(len(views.mms), Source.TASK_LIST, np.uint16),
        owner=np.array([task_of(pid) for pid in views.mms.pid.tolist()], np.uint64),
        last_user=np.zeros(len(views.mms), np.uint64),
        kernel_own=np.zeros(len(views.mms), np.bool_),
        roots=None,  # type: ignore[arg-type]  # nobody asks here
        whole=Source.TASK_LIST | Source.PID_INDEX,
    )
    leads = {FIRST: task_of(INIT), SECOND: task_of(INIT)}
    listed = [leads.get(pid, 0) for pid in tasks.pid.tolist()]
    parent = [task_of(INIT) if pid != INIT else 0 for pid in tasks.pid.tolist()]
    views.kin = Kin.of(task=tasks.task, real_parent=parent, forward=listed, backward=listed, files=[FILES] * 4)
    return views


def by_pid(views: Views, column: str, pid: int, value: int) -> None:
    """Set the word of a task."""
    assert views.kin is not None
    getattr(views.kin, column)[views.kin.task == np.uint64(task_of(pid))] = value


def test_a_family_whose_records_agree_is_nothing_to_report() -> None:
    for rule in ("TASK-PARENT", "TASK-SHARED", "MM-OWNER"):
        assert findings(family(), rule) == []
        assert findings(views_of(Process()), rule) == []


def test_a_process_that_names_another_parent_than_lists_it_is_found() -> None:
    views = family()
    by_pid(views, "real_parent", SECOND, task_of(FIRST))
    (finding,) = findings(views, "TASK-PARENT")
    assert (finding.pid, finding.severity) == (SECOND, Severity.HIGH)
    assert finding.title == f"process says that its parent is pid {FIRST}; by the list of children of it is pid {INIT}"


def test_a_thread_with_another_parent_than_its_process_is_found() -> None:
    views = family()
    by_pid(views, "real_parent", THREAD, task_of(SECOND))
    (finding,) = findings(views, "TASK-PARENT")
    assert finding.pid == FIRST
    assert f"thread {THREAD}" in finding.title


def test_threads_of_which_no_process_is_known_are_nothing_to_report() -> None:
    views = family()
    assert views.kin is not None
    assert views.sources is not None
    views.kin = views.kin.take(views.kin.task == np.uint64(task_of(THREAD)))
    assert findings(views, "TASK-PARENT") == []


@pytest.mark.parametrize(("forward", "backward", "count"), [(0, 0, 0), (0, INIT, 1), (FIRST, INIT, 0), (SECOND, 0, 0)])
def test_a_list_that_breaks_off_accuses_only_by_the_end_it_has(forward: int, backward: int, count: int) -> None:
    views = family()
    by_pid(views, "real_parent", SECOND, task_of(SECOND))
    by_pid(views, "forward", SECOND, task_of(forward) if forward else 0)
    by_pid(views, "backward", SECOND, task_of(backward) if backward else 0)
    assert len(findings(views, "TASK-PARENT")) == count


@pytest.mark.parametrize(
    ("users", "tasks", "kept", "severity"),
    [
        (3, 3, False, None),
        (2, 3, False, Severity.HIGH),
        (2, 3, True, Severity.HIGH),
        (4, 3, False, Severity.MEDIUM),
        (4, 3, True, None),
        (-1, 3, False, None),
    ],
)
def test_what_tasks_share_counts_them(users: int, tasks: int, *, kept: bool, severity: Severity | None) -> None:
    views = family()
    views.shared = Shared.of(
        kind=[SharedKind.FILES], address=[FILES], task=[task_of(FIRST)], tasks=[tasks], users=[users], kept=[kept]
    )
    found = findings(views, "TASK-SHARED")
    assert [finding.severity for finding in found] == ([] if severity is None else [severity] * 3)
    assert {finding.pid for finding in found} == (set() if severity is None else {INIT, FIRST, SECOND})


def test_what_fork_is_making_may_be_counted_already() -> None:
    views = family()
    views.shared = Shared.of(
        kind=[SharedKind.FILES], address=[FILES], task=[task_of(FIRST)], tasks=[3], coming=[1], users=[4]
    )
    assert findings(views, "TASK-SHARED") == []
    views.shared.users[0] = 5
    assert {found.severity for found in findings(views, "TASK-SHARED")} == {Severity.MEDIUM}
    views.shared.users[0] = 2
    assert {found.severity for found in findings(views, "TASK-SHARED")} == {Severity.HIGH}


def test_who_exchanges_what_it_shared_answers_for_it_once_to_all_that_are_told() -> None:
    """put_files_struct after task->files (ksys_unshare, kernel/fork.c)."""
    views = family()
    views.shared = Shared.of(
        kind=[SharedKind.FILES, SharedKind.FS],
        address=[FILES, FILES + 4096],
        task=[task_of(FIRST)] * 2,
        tasks=[3, 3],
        users=[4, 4],
    )
    assert views.kin is not None
    views.kin.fs[:] = FILES + 4096
    add_operations(views, Doing(pid=SECOND, operation=Operation.UNSHARE, functions=("ksys_unshare",)))
    found = [each for each in run_checks(Context(views)) if each.rule.id == "TASK-SHARED"]
    told = {name: [each.severity for each in found if name in each.title] for name in ("files_struct", "fs_struct")}
    assert told == {"files_struct": [Severity.INFO] * 3, "fs_struct": [Severity.MEDIUM] * 3} or told == {
        "files_struct": [Severity.MEDIUM] * 3,
        "fs_struct": [Severity.INFO] * 3,
    }


def test_memory_owned_by_a_task_that_uses_another_is_found() -> None:
    views = family()
    assert views.sources is not None
    views.sources.owner[views.mms.mm == np.uint64(mm_of(FIRST))] = task_of(SECOND)
    (finding,) = findings(views, "MM-OWNER")
    assert (finding.pid, finding.mm) == (FIRST, mm_of(FIRST))
    row = views.sources.task_rows(np.array([task_of(SECOND)], np.uint64))
    views.sources.tasks.flags[row] = 4  # PF_EXITING
    assert findings(views, "MM-OWNER") == []


def test_memory_that_nobody_owns_is_nothing_to_report() -> None:
    views = family()
    assert views.sources is not None
    views.sources.owner[views.mms.mm == np.uint64(mm_of(FIRST))] = 0
    assert findings(views, "MM-OWNER") == []


def test_a_thread_off_the_list_of_its_process_is_found() -> None:
    views = family()
    assert views.kin is not None
    assert findings(views, "TASK-GROUP") == []  # of 6.7 and later
    views.kin.group_next[:] = task_of(FIRST)
    views.kin.in_group[:] = True
    assert findings(views, "TASK-GROUP") == []
    by_pid(views, "in_group", THREAD, 0)
    (finding,) = findings(views, "TASK-GROUP")
    assert (finding.pid, finding.severity, finding.apart) == (FIRST, Severity.HIGH, 1)
    assert views.sources is not None
    views.sources.tasks.exit_state[:] = 0x20
    assert findings(views, "TASK-GROUP") == []
