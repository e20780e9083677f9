"""What tasks were in the middle of excuses what it can have left apart, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from checks.handmade_anchors import add_anchors
from checks.handmade_frames import add_frames, unowned
from checks.handmade_operations import Doing, add_operations
from checks.handmade_pages import add_page_tables, miscount
from checks.handmade_views import Process, drop_entry, mm_of, views_of
from vmaforensics.checks.context import Context
from vmaforensics.checks.finding import Finding, Severity
from vmaforensics.checks.weigh import run_checks
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.pages.anon_roots import AnonRoots
from vmaforensics.views.pages.entries import KeptEntries
from vmaforensics.views.pages.mapped_pages import Pages
from vmaforensics.views.pages.miscounted_frames import MiscountedFrames
from vmaforensics.views.structures.lock import Lock

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

_STACK, _TEXT = 0x7F0000, 0x400000
_FAULT = Doing(pid=100, operation=Operation.FAULT, functions=("do_anonymous_page", "handle_mm_fault", "exc_page_fault"))


def _found(views: Views, rule: str) -> list[Finding]:
    return [finding for finding in run_checks(Context(views)) if finding.rule.id == rule]


def _erased(*vas: int) -> Views:
    """A process that lacks the entries of the pages at ``vas``, and one beside it."""
    views = views_of(Process(pid=100), Process(pid=101, vmas=("600000-602000 rw-p",)))
    view = add_page_tables(views)
    pages = []
    for va in vas:
        miscount(views, va, 1)
        pages.append(view.miscounted.pages)
    rows = Pages.concatenate(pages)
    keep = ~np.isin(view.ptes.va, np.array(vas, np.uint64))
    object.__setattr__(view, "miscounted", MiscountedFrames(pages=rows, entries=np.zeros(len(rows), np.int64)))
    object.__setattr__(view, "entries", KeptEntries(view.arch, view.ptes.take(keep)))
    return views


def test_a_fault_accounts_for_a_page_of_its_own_address_space() -> None:
    views = _erased(_STACK)
    assert [finding.severity for finding in _found(views, "PTE-ERASED")] == [Severity.HIGH]
    add_operations(views, _FAULT)
    (found,) = _found(views, "PTE-ERASED")
    assert (found.severity, found.mm, found.start) == (Severity.INFO, mm_of(100), _STACK)
    assert found.evidence[-1].what == (
        "task 100 was in the middle of a page fault between the count of a page and its entry: "
        "do_anonymous_page < handle_mm_fault < exc_page_fault"
    )


def test_a_fault_accounts_for_no_more_than_one_page() -> None:
    views = _erased(_TEXT, _STACK)
    add_operations(views, _FAULT)
    assert sorted(finding.severity for finding in _found(views, "PTE-ERASED")) == [Severity.HIGH, Severity.INFO]


def test_a_fault_of_another_process_accounts_for_nothing() -> None:
    views = _erased(_STACK)
    add_operations(views, replace(_FAULT, pid=101))
    (found,) = _found(views, "PTE-ERASED")
    assert (found.severity, found.mm) == (Severity.HIGH, mm_of(100))


@pytest.mark.parametrize(("pid", "severity"), [(100, Severity.INFO), (101, Severity.HIGH)])
def test_a_signal_after_an_exec_that_failed_ends_a_thread_before_it_returns_to_the_old_map(
    pid: int, severity: Severity
) -> None:
    """The old map is gone (exec_mmap), the registers are still those of the system call."""
    views = views_of(Process(pid=100), Process(pid=101))
    add_anchors(views).threads.ip[0] = 0x600000
    add_operations(views, Doing(pid=pid, operation=Operation.SIGNAL, functions=("get_signal", "do_syscall_64")))
    assert [finding.severity for finding in _found(views, "THREAD-OUTSIDE")] == [severity]


@pytest.mark.parametrize(("frames", "severity"), [(1055, Severity.INFO), (1056, Severity.MEDIUM)])
def test_compaction_accounts_for_the_free_frames_that_it_holds_and_no_more(frames: int, severity: Severity) -> None:
    """mm/compaction.c: it takes whole blocks of the buddy system, of 1,024 pages at most, until it has 32 frames."""
    views = views_of(Process(pid=100))
    add_frames(views, code=unowned(*((0x100 + row, 0x100, frames) for row in range(frames))))
    add_operations(
        views, Doing(pid=100, operation=Operation.COMPACT, functions=("compact_zone", "kcompactd_do_work"), mm=0)
    )
    assert [finding.severity for finding in _found(views, "FRAME-UNOWNED")] == [severity]


def test_clearing_accounts_for_one_anonymous_page_but_a_batch_of_a_file() -> None:
    doing = Doing(pid=100, operation=Operation.ZAP, functions=("zap_pte_range", "unmap_page_range"))
    views = _erased(_TEXT, _STACK)
    add_operations(views, doing)
    assert [finding.severity for finding in _found(views, "PTE-ERASED")] == [Severity.INFO]
    view = add_operations(views, doing)
    object.__setattr__(view, "delays_removal", False)
    assert sorted(finding.severity for finding in _found(views, "PTE-ERASED")) == [Severity.HIGH, Severity.INFO]


def test_an_entry_that_is_changed_is_cleared_for_a_moment_and_those_of_a_folio_at_once() -> None:
    """ptep_modify_prot_start in change_pte_range, mm/mprotect.c; modify_prot_start_ptes since 6.17."""
    doing = Doing(pid=100, operation=Operation.CHANGE_ENTRIES, functions=("change_protection", "mprotect_fixup"))
    views = _erased(_TEXT, _STACK)
    add_operations(views, doing)
    assert sorted(finding.severity for finding in _found(views, "PTE-ERASED")) == [Severity.HIGH, Severity.INFO]
    assert views.page_tables is not None
    views.page_tables.miscounted.pages.compound[:] = True
    assert [finding.severity for finding in _found(views, "PTE-ERASED")] == [Severity.INFO]
    add_operations(views, replace(doing, pid=101))
    assert all(finding.severity is Severity.HIGH for finding in _found(views, "PTE-ERASED"))


@pytest.mark.parametrize("function", ["unmap_mapping_range_vma", "__oom_reap_task_mm"])
def test_what_clears_entries_of_others_accounts_for_a_page_of_any_process(function: str) -> None:
    """A truncation clears those of all that map the file (mm/memory.c), the OOM reaper those of its victim."""
    doing = Doing(pid=101, operation=Operation.ZAP_OTHERS, functions=("zap_pte_range", function), mm=0)
    views = _erased(_STACK)
    add_operations(views, doing)
    assert [finding.severity for finding in _found(views, "PTE-ERASED")] == [Severity.INFO]
    views = _erased(_TEXT, _STACK)
    object.__setattr__(add_operations(views, doing), "delays_removal", False)
    assert sorted(finding.severity for finding in _found(views, "PTE-ERASED")) == [Severity.HIGH, Severity.INFO]


def test_a_page_that_is_copied_for_writing_names_the_parents_anon_vma() -> None:
    """And its copy may be in its place already."""
    views = views_of(Process(pid=100))
    view = add_page_tables(views)
    miscount(views, _STACK, 2)
    parent = int(view.miscounted.pages.mapping[0]) + 0x80
    view.miscounted.pages.mapping[0] = parent
    known = np.array([*view.anon_roots.anon_vma.tolist(), parent], np.uint64)
    roots = AnonRoots.of(anon_vma=known, root=[parent] * len(known))
    object.__setattr__(view, "anon_roots", roots.sort_by(roots.anon_vma))
    add_operations(views, _FAULT)
    assert [finding.severity for finding in _found(views, "PTE-ERASED")] == [Severity.HIGH]
    add_operations(views, replace(_FAULT, operation=Operation.COPY_ON_WRITE))
    assert [finding.severity for finding in _found(views, "PTE-ERASED")] == [Severity.INFO]


def test_a_merged_page_that_is_copied_for_writing_names_no_vma_but_belongs_to_one_of_ksm() -> None:
    """Its mapping is KSM's stable node."""
    views = views_of(Process(pid=100))
    view = add_page_tables(views)
    miscount(views, _STACK, 2)
    view.miscounted.pages.mapping[0], view.miscounted.pages.ksm[0] = 0xFFFF_8880_0000_0100, True
    add_operations(views, replace(_FAULT, operation=Operation.COPY_ON_WRITE))
    assert [finding.severity for finding in _found(views, "PTE-ERASED")] == [Severity.HIGH]
    views.vmas.flags[views.vmas.start == _STACK] |= np.uint64(0x8000_0000)  # VM_MERGEABLE
    assert [finding.severity for finding in _found(views, "PTE-ERASED")] == [Severity.INFO]
    add_operations(views, _FAULT)
    assert [finding.severity for finding in _found(views, "PTE-ERASED")] == [Severity.HIGH]


@pytest.mark.parametrize(
    ("operation", "function"),
    [
        pytest.param(Operation.RECLAIM, "try_to_unmap_one", id="reclaim"),
        pytest.param(Operation.CLEAN, "page_vma_mkclean_one", id="writeback"),
    ],
)
def test_reclaim_and_writeback_work_on_any_address_space_and_hold_the_page_locked(
    operation: Operation, function: str
) -> None:
    """mm/rmap.c"""
    views = _erased(_STACK)
    add_operations(views, Doing(pid=101, operation=operation, functions=(function,), mm=0))
    assert [finding.severity for finding in _found(views, "PTE-ERASED")] == [Severity.HIGH]
    assert views.page_tables is not None
    views.page_tables.miscounted.pages.flags[0] |= 1  # PG_locked
    assert [finding.severity for finding in _found(views, "PTE-ERASED")] == [Severity.INFO]


def test_counters_may_lag_by_what_the_operation_leaves(views: Views) -> None:
    add_operations(views, _FAULT)
    (found,) = _found(views, "MM-RSS")
    assert found.severity == Severity.INFO
    assert views.page_tables is not None
    views.page_tables.rss[0, 1] += 16
    (found,) = _found(views, "MM-RSS")
    assert found.severity == Severity.MEDIUM


@pytest.fixture
def views() -> Views:
    """A process whose counter of anonymous pages is one too high."""
    made = views_of(Process(pid=100))
    view = add_page_tables(made)
    view.rss[0, 1] += 1
    return made


# Locks, and those who only seem to hold them --------------------------------------------------------------------


def _hidden(lock: Lock) -> Views:
    """A process with a VMA cut out of its index, its mmap lock held."""
    views = views_of(Process(pid=100, lock=lock), Process(pid=101, vmas=("600000-602000 rw-p",)))
    drop_entry(views, _TEXT)
    return views


@pytest.mark.parametrize("lock", [Lock.READ, Lock.WRITE])
def test_a_hidden_vma_is_found_in_the_middle_of_an_unrelated_fault(lock: Lock) -> None:
    views = _hidden(lock)
    add_operations(views, _FAULT)
    assert [finding.severity for finding in _found(views, "VMA-MISSING")] == [Severity.HIGH]


@pytest.mark.parametrize("lock", [Lock.READ, Lock.WRITE])
def test_a_lock_that_nobody_works_under_excuses_nothing(lock: Lock) -> None:
    views = _hidden(lock)
    add_operations(views, Doing(pid=101, operation=Operation.UNMAP))
    assert [finding.severity for finding in _found(views, "VMA-MISSING")] == [Severity.HIGH]


@pytest.mark.parametrize(
    ("lock", "operation", "severity"),
    [
        (Lock.READ, Operation.UNMAP, Severity.LOW),
        (Lock.READ, Operation.PROTECT, Severity.HIGH),  # never with the lock held for reading
        (Lock.WRITE, Operation.PROTECT, Severity.LOW),
        (Lock.WRITE, Operation.ZAP, Severity.HIGH),
    ],
)
def test_a_change_under_the_lock_excuses_what_lags(lock: Lock, operation: Operation, severity: Severity) -> None:
    views = _hidden(lock)
    add_operations(views, Doing(pid=100, operation=operation))
    (found,) = _found(views, "VMA-MISSING")
    assert found.severity == severity
    if severity == Severity.LOW:
        assert "task 100 was in the middle of" in found.evidence[-1].what


def test_whoever_holds_the_lock_may_be_another_task() -> None:
    views = _hidden(Lock.WRITE)
    add_operations(views, Doing(pid=101, operation=Operation.COLLAPSE, mm=0), holders={100: 101})
    assert [finding.severity for finding in _found(views, "VMA-MISSING")] == [Severity.LOW]


def test_where_stacks_are_not_known_the_lock_has_to_do() -> None:
    views = _hidden(Lock.WRITE)
    add_operations(views, unclear=[100])
    assert [finding.severity for finding in _found(views, "VMA-MISSING")] == [Severity.LOW]


def test_no_operation_excuses_a_rule_that_does_not_name_it() -> None:
    views = _hidden(Lock.FREE)
    add_operations(views, *(Doing(pid=100, operation=operation) for operation in Operation))
    assert [finding.severity for finding in _found(views, "VMA-MISSING")] == [Severity.HIGH]


def test_a_page_locked_is_not_enough() -> None:
    views = _erased(_STACK)
    assert views.page_tables is not None
    views.page_tables.miscounted.pages.flags[0] |= 1
    add_operations(views)
    assert [finding.severity for finding in _found(views, "PTE-ERASED")] == [Severity.HIGH]
