"""TASK-HIDDEN, MM-DECOY, MM-HIDDEN and TASK-KTHREAD-MM on tasks and address spaces made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from checks.handmade_clocks import START, clocks
from checks.handmade_views import Process, add_problem, findings, mm_of, task_of, views_of
from vmaforensics.checks.context import Context
from vmaforensics.checks.finding import Confidence, Severity
from vmaforensics.checks.weigh import run_checks
from vmaforensics.views.pages.table_roots import TableRoots
from vmaforensics.views.problems import Problem
from vmaforensics.views.processes.mm_lists import TreeRoots
from vmaforensics.views.processes.mm_sources import TASK_NEW, Source, SourcesView
from vmaforensics.views.processes.pid_numbers import PidNumbers
from vmaforensics.views.processes.tasks import PF_EXITING, PF_KTHREAD
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

RULES = ("TASK-HIDDEN", "MM-DECOY", "MM-HIDDEN", "TASK-KTHREAD-MM")
BOTH = Source.TASK_LIST | Source.PID_INDEX
EVERYBODY = BOTH | Source.SLAB


def _views() -> tuple[Views, SourcesView]:
    """Three processes that every record knows, each with an mm that it owns."""
    views = views_of(Process(pid=100), Process(pid=101), Process(pid=102))
    views.sources = SourcesView(
        tasks=views.tasks,
        task_sources=np.full(3, EVERYBODY, np.uint16),
        executing=np.zeros(3, np.bool_),
        mms=views.mms,
        mm_sources=np.full(3, BOTH | Source.SLAB | Source.PGD_LIST | Source.TREE_ROOT, np.uint16),
        owner=views.tasks.task.copy(),
        last_user=np.zeros(3, np.uint64),
        kernel_own=np.zeros(3, np.bool_),
        roots=TreeRoots.zeros(0),
        whole=BOTH | Source.SLAB,
    )
    return views, views.sources


def _rules(views: Views) -> list[str]:
    return [rule for rule in RULES for _ in findings(views, rule)]


def test_what_everybody_knows_is_no_finding() -> None:
    views, _ = _views()
    assert _rules(views) == []


def test_without_the_records_nothing_is_said() -> None:
    assert _rules(views_of(Process())) == []


# Tasks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "title"),
    [
        (Source.PID_INDEX | Source.SLAB, "process is not on the task list"),
        (Source.TASK_LIST | Source.SLAB, "process is not on the pid index"),
        (Source.SLAB, "process is not on the task list nor in the pid index"),
    ],
)
def test_a_task_that_a_record_leaves_out(known: Source, title: str) -> None:
    views, sources = _views()
    sources.task_sources[1] = known
    (found,) = findings(views, "TASK-HIDDEN")
    assert found.title == title
    assert (found.pid, found.comm, found.mm, found.severity) == (101, b"cat", mm_of(101), Severity.HIGH)
    assert (found.evidence[0].address, found.evidence[0].found) == (task_of(101), known.label)


def test_threads_of_a_process_are_one_finding() -> None:
    views, sources = _views()
    views.tasks.tgid[2] = 101
    sources.task_sources[1:] = Source.PID_INDEX
    (found,) = findings(views, "TASK-HIDDEN")
    assert len(found.evidence) == 2
    sources.task_sources[1] = EVERYBODY
    (found,) = findings(views, "TASK-HIDDEN")
    assert found.title == "thread 102 is not on the task list"


@pytest.mark.parametrize("state", ["exiting", "new", "dead", "idle", "unread"])
def test_what_comes_and_goes_may_be_in_neither(state: str) -> None:
    views, sources = _views()
    sources.task_sources[1] = Source.SLAB
    if state == "exiting":
        views.tasks.flags[1] = PF_EXITING
    elif state == "new":
        views.tasks.state[1] = TASK_NEW
    elif state == "dead":
        views.tasks.exit_state[1] = 16
    elif state == "idle":
        views.tasks.pid[1] = 0
    else:
        views.tasks.ok[1] = False
    assert findings(views, "TASK-HIDDEN") == []


def test_what_is_being_released_leaves_the_index_before_the_list() -> None:
    views, sources = _views()
    sources.task_sources[1], views.tasks.exit_state[1] = Source.TASK_LIST | Source.SLAB, 0x10  # EXIT_DEAD
    assert findings(views, "TASK-HIDDEN") == []
    views.tasks.exit_state[1] = 0x20  # EXIT_ZOMBIE is in both
    assert len(findings(views, "TASK-HIDDEN")) == 1


def test_what_the_slab_alone_knows_weighs_less() -> None:
    """No run queue has it and it owns no address space: perhaps a fork has just begun."""
    views, sources = _views()
    sources.task_sources[1], sources.owner[1] = Source.SLAB, 0
    (found,) = findings(views, "TASK-HIDDEN")
    assert (found.severity, found.confidence) == (Severity.MEDIUM, Confidence.LOW)
    sources.task_sources[1] |= np.uint16(Source.RUN_QUEUE)
    (found,) = findings(views, "TASK-HIDDEN")
    assert found.severity is Severity.HIGH


def test_nothing_is_absent_from_a_task_list_that_was_not_read_whole() -> None:
    views, sources = _views()
    sources.task_sources[1] = Source.PID_INDEX
    add_problem(views, View.TASKS, Problem.UNREADABLE, mm=mm_of(100))
    assert len(findings(views, "TASK-HIDDEN")) == 1  # it was an mm that could not be read
    add_problem(views, View.TASKS, Problem.UNREADABLE, where=task_of(100))
    assert findings(views, "TASK-HIDDEN") == []


# Address spaces ----------------------------------------------------------------------------------------------


def test_a_process_that_runs_on_another_mm_than_it_shows() -> None:
    views, _ = _views()
    views.tasks.active_mm[1] = mm_of(100)
    (found,) = findings(views, "MM-DECOY")
    assert (found.pid, found.mm) == (101, mm_of(100))
    assert (found.evidence[0].found, found.evidence[0].expected) == (f"{mm_of(100):#x}", f"{mm_of(101):#x}")


def test_a_process_that_owns_an_mm_nobody_uses_and_shows_another() -> None:
    views, sources = _views()
    views.tasks.mm[1] = views.tasks.active_mm[1] = mm_of(100)
    sources.mm_sources[1] = Source.PGD_LIST | Source.SLAB
    (found,) = findings(views, "MM-DECOY")
    assert (found.pid, found.mm) == (101, mm_of(101))
    assert found.title.endswith(f"{mm_of(100):#x}; its own is {mm_of(101):#x}")
    assert findings(views, "MM-HIDDEN") == []  # that is the same mm


@pytest.mark.parametrize("state", ["exec", "exiting", "kernel thread"])
def test_exec_and_those_without_user_memory_are_no_decoys(state: str) -> None:
    views, sources = _views()
    views.tasks.active_mm[1] = mm_of(100)
    if state == "exec":
        sources.executing[1] = True
    else:
        views.tasks.flags[1] = PF_EXITING if state == "exiting" else PF_KTHREAD
    assert findings(views, "MM-DECOY") == []


def _hide_mm(views: Views, sources: SourcesView) -> None:
    """Process 101 is gone from all records of tasks; its mm is not."""
    views.tasks.mm[1] = 0
    sources.owner[1] = 0
    sources.mm_sources[1] = Source.PGD_LIST | Source.SLAB


def test_an_mm_in_use_that_no_task_has() -> None:
    views, sources = _views()
    _hide_mm(views, sources)
    (found,) = findings(views, "MM-HIDDEN")
    assert (found.mm, found.evidence[0].found) == (mm_of(101), "slab, pgd_list")
    # Its owner is not known: a reader may hold what is left of a process that has ended.
    assert (found.severity, found.confidence) == (Severity.MEDIUM, Confidence.LOW)


def test_an_mm_without_an_owner_is_that_of_the_task_off_the_cpus_that_ran_in_it() -> None:
    views, sources = _views()
    _hide_mm(views, sources)
    sources.last_user[1] = task_of(101)
    (found,) = findings(views, "MM-HIDDEN")
    assert (found.severity, found.confidence) == (Severity.HIGH, Confidence.HIGH)
    used = found.evidence[-1]
    assert (used.address, used.found, used.expected) == (task_of(101), f"{mm_of(101):#x}", "0x0")


@pytest.mark.parametrize(
    ("state", "known", "severity"),
    [
        ("alive", Source.PGD_LIST | Source.SLAB, Severity.HIGH),
        ("alive", Source.SLAB, Severity.MEDIUM),
        ("exiting", Source.PGD_LIST | Source.SLAB, Severity.MEDIUM),
        ("new", Source.PGD_LIST | Source.SLAB, Severity.LOW),
        ("exec", Source.PGD_LIST | Source.SLAB, Severity.LOW),
    ],
)
def test_a_hidden_mm_weighs_as_its_owner_and_its_records_say(state: str, known: Source, severity: Severity) -> None:
    views, sources = _views()
    _hide_mm(views, sources)
    sources.owner[1], sources.mm_sources[1] = task_of(101), known
    views.tasks.flags[1] = PF_EXITING if state == "exiting" else 0
    views.tasks.state[1] = TASK_NEW if state == "new" else 0
    sources.executing[1] = state == "exec"
    (found,) = findings(views, "MM-HIDDEN")
    assert found.severity is severity


@pytest.mark.parametrize("state", ["no users", "one VMA", "the kernel's own", "in the pid index", "unread list"])
def test_mms_that_need_no_task(state: str) -> None:
    views, sources = _views()
    _hide_mm(views, sources)
    if state == "no users":
        views.mms.users[1] = 0
    elif state == "one VMA":
        views.mms.map_count[1] = 1
    elif state == "the kernel's own":
        sources.kernel_own[1] = True
    elif state == "in the pid index":
        sources.mm_sources[1] |= np.uint16(Source.PID_INDEX)
    else:
        add_problem(views, View.TASKS, Problem.CUT_SHORT)
    assert findings(views, "MM-HIDDEN") == []


# Kernel threads ----------------------------------------------------------------------------------------------


def test_a_kernel_thread_that_borrows_an_mm() -> None:
    """kthread_use_mm: what it uses is owned by another."""
    views, sources = _views()
    views.tasks.flags[1], views.tasks.mm[1], sources.owner[1] = PF_KTHREAD, mm_of(100), 0
    (found,) = findings(views, "TASK-KTHREAD-MM")
    assert (found.pid, found.mm, found.severity) == (101, mm_of(100), Severity.LOW)


def test_a_process_with_the_mark_of_a_kernel_thread() -> None:
    views, sources = _views()
    views.tasks.flags[1] = PF_KTHREAD
    (found,) = findings(views, "TASK-KTHREAD-MM")
    assert (found.severity, found.confidence) == (Severity.HIGH, Confidence.HIGH)
    assert "owns its memory" in found.title
    sources.executing[1] = True  # exec clears the mark of a helper last
    (found,) = findings(views, "TASK-KTHREAD-MM")
    assert found.severity is Severity.LOW


@pytest.mark.parametrize(
    ("parent", "kthreadd", "severity"),
    [
        (task_of(100), True, Severity.HIGH),
        (task_of(102), True, Severity.LOW),
        (task_of(100), False, Severity.LOW),  # who kthreadd is is not known
        (0, True, Severity.LOW),
    ],
)
def test_a_kernel_thread_with_memory_that_kthreadd_did_not_start(
    parent: int, kthreadd: bool, severity: Severity
) -> None:
    views, sources = _views()
    sources.owner[:] = 0
    views.tasks.flags[1], views.tasks.parent[1] = PF_KTHREAD, parent
    if kthreadd:
        views.tasks.flags[2], views.tasks.mm[2], views.tasks.pid[2] = PF_KTHREAD, 0, 2
    (found,) = findings(views, "TASK-KTHREAD-MM")
    assert (found.pid, found.severity) == (101, severity)


def test_a_kernel_thread_without_memory() -> None:
    views, _ = _views()
    views.tasks.flags[1], views.tasks.mm[1] = PF_KTHREAD, 0
    assert findings(views, "TASK-KTHREAD-MM") == []


# Threads and names -------------------------------------------------------------------------------------------


def _threads() -> tuple[Views, SourcesView]:
    """Three tasks, the first two of which are threads of one process."""
    views, sources = _views()
    tasks = sources.tasks
    tasks.tgid[1], tasks.mm[1] = 100, mm_of(100)
    tasks.signal[:] = [0xFFFF8880_11110000, 0xFFFF8880_11110000, 0xFFFF8880_22220000]
    return views, sources


def test_threads_of_one_memory_are_none() -> None:
    views, _ = _threads()
    assert findings(views, "TASK-THREAD-MM") == []


@pytest.mark.parametrize("other", [mm_of(102), 0])
def test_a_thread_with_other_memory_is_found(other: int) -> None:
    views, sources = _threads()
    sources.tasks.mm[1] = other
    (found,) = findings(views, "TASK-THREAD-MM")
    assert (found.mm, found.pid, found.severity) == (mm_of(100), 100, Severity.HIGH)
    (evidence,) = found.evidence
    assert (evidence.address, evidence.found, evidence.expected) == (task_of(101), f"{other:#x}", f"{mm_of(100):#x}")


def test_threads_that_end_or_begin_or_run_exec_have_the_memory_they_have() -> None:
    for column, value in (("exit_state", 16), ("flags", PF_EXITING), ("state", TASK_NEW)):
        views, sources = _threads()
        sources.tasks.mm[1] = 0
        getattr(sources.tasks, column)[1] = value
        assert findings(views, "TASK-THREAD-MM") == []
    views, sources = _threads()
    sources.tasks.mm[1], sources.executing[1] = mm_of(102), True
    assert findings(views, "TASK-THREAD-MM") == []


@pytest.mark.parametrize(
    ("name", "told"),
    [(b"[kworker/0:1]", True), (b"[kworker/u16:3-", True), (b"kworker/1:2", True), (b"[", False), (b"kwork", False)],
)
def test_a_process_with_the_name_of_a_kernel_thread_is_low(name: bytes, told: bool) -> None:
    views, sources = _views()
    tasks = sources.tasks
    tasks.comm[2], tasks.flags[2], tasks.mm[2] = b"kworker/0:0", PF_KTHREAD, 0
    tasks.comm[1] = name
    found = findings(views, "TASK-KTHREAD-NAME")
    assert [(one.pid, one.severity) for one in found] == ([(101, Severity.LOW)] if told else [])


def _numbered() -> Views:
    """Three processes with a struct pid each."""
    views, sources = _views()
    views.pid_numbers = PidNumbers.of(
        task=sources.tasks.task,
        ok=[True] * 3,
        place=sources.tasks.task + np.uint64(64),
        leader=sources.tasks.task,
        number=sources.tasks.pid,
    )
    return views


def test_a_task_that_says_another_number_is_found() -> None:
    views = _numbered()
    assert views.sources is not None
    assert findings(views, "TASK-NUMBER") == []
    views.sources.tasks.pid[1] = 5101
    (finding,) = findings(views, "TASK-NUMBER")
    assert finding.severity is Severity.HIGH
    assert "5101" in finding.title
    assert "101" in finding.evidence[1].found


def test_a_thread_that_says_it_is_of_another_process_is_found() -> None:
    views = _numbered()
    assert views.sources is not None
    views.sources.tasks.tgid[2] = 100
    (finding,) = findings(views, "TASK-NUMBER")
    assert "tgid" in finding.title


def test_a_task_whose_number_cannot_be_read_or_that_executes_is_not_judged() -> None:
    views = _numbered()
    assert views.sources is not None
    assert views.pid_numbers is not None
    views.sources.tasks.pid[1:] += np.int32(5000)
    views.pid_numbers.ok[1] = False
    views.sources.executing[2] = True
    assert findings(views, "TASK-NUMBER") == []


def test_a_task_that_is_said_to_have_ended_has_no_memory() -> None:
    views, sources = _views()
    assert findings(views, "TASK-ENDED") == []
    sources.tasks.exit_state[1] = 0x20
    (finding,) = findings(views, "TASK-ENDED")
    assert finding.pid == 101
    sources.tasks.mm[1] = 0
    assert findings(views, "TASK-ENDED") == []


def test_a_page_table_that_belongs_to_another_address_space_is_found() -> None:
    views, _ = _views()
    mm = views.mms.mm
    views.mms.pgd[:] = mm + np.uint64(4096)
    views.table_roots = TableRoots.of(mm=mm, ok=[True] * 3, word=mm + np.uint64(16), owner=mm)
    assert findings(views, "PT-ROOT") == []
    views.table_roots.owner[1] = mm[2]
    views.table_roots.owner[2], views.table_roots.ok[2] = 0, False
    (finding,) = findings(views, "PT-ROOT")
    assert (finding.pid, finding.settled) == (101, True)


def test_a_task_that_fork_has_not_put_on_the_list_yet_has_its_number_first() -> None:
    views = _numbered()
    assert views.sources is not None
    views.sources.tasks.pid[1] = views.sources.tasks.tgid[1] = 4711
    assert [found.pid for found in findings(views, "TASK-NUMBER")] != []
    views.sources.tasks.state[1] = 0x800  # TASK_NEW
    assert [found.pid for found in findings(views, "TASK-NUMBER")] != []  # it is on the list
    views.sources.task_sources[1] = Source.SLAB
    assert findings(views, "TASK-NUMBER") == []


def test_who_came_to_the_list_meanwhile_is_passed_over_if_another_came_behind_it() -> None:
    views, sources = _views()
    views.clocks = clocks(ran={100: 1.0, 101: START + 5.0, 102: 1.0})
    views.clocks.tasks.started[1] = (START + 1) * 10**9
    sources.task_sources[1] = Source.PID_INDEX | Source.SLAB
    views.clocks.tasks.passed_over[1] = True
    assert [found.pid for found in run_checks(Context(views)) if found.rule.id == "TASK-HIDDEN"] == []
    views.clocks.tasks.followed[1] = True
    assert [found.pid for found in run_checks(Context(views)) if found.rule.id == "TASK-HIDDEN"] == [101]


def test_a_hidden_process_with_threads_is_passed_over_by_its_first_in_a_live_image() -> None:
    """Both threads run on; only the first would be on the list itself."""
    views, sources = _threads()
    views.clocks = clocks(ran={100: START + 5.0, 101: START + 5.0, 102: 1.0})
    sources.task_sources[:2] = Source.PID_INDEX | Source.SLAB

    def found() -> list[int]:
        return [finding.pid for finding in run_checks(Context(views)) if finding.rule.id == "TASK-HIDDEN"]

    assert found() == []
    views.clocks.tasks.passed_over[0] = True
    assert found() == [100]
