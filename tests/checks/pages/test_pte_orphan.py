"""PTE-ORPHAN on page tables made by hand."""

from __future__ import annotations

import numpy as np

from checks.handmade_operations import Doing, add_operations
from checks.handmade_pages import Entry, add_page_tables
from checks.handmade_views import Process, add_problem, findings, mm_of, views_of
from vmaforensics.arch.page_tables import ALLOW_EXECUTE, ALLOW_USER
from vmaforensics.checks.in_flight import InFlight
from vmaforensics.checks.rule import Severity
from vmaforensics.checks.weigh import weigh
from vmaforensics.columns.texts import Texts
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.problems import Problem
from vmaforensics.views.slab.objects import State
from vmaforensics.views.slab.strays import StrayVmas
from vmaforensics.views.structures.lock import Lock
from vmaforensics.views.view import View

_GHOSTS = tuple(
    Entry(pid=100, va=0x10000 + 0x1000 * page, pfn=0x99 + page, allow=ALLOW_USER | ALLOW_EXECUTE) for page in range(2)
)


def test_entries_of_vmas_are_none() -> None:
    views = views_of(Process(pid=100), Process(pid=101))
    add_page_tables(views)
    assert findings(views, "PTE-ORPHAN") == []


def test_neighbouring_entries_in_no_vma_are_one_finding() -> None:
    views = views_of(Process(pid=100), Process(pid=101))
    add_page_tables(views, *_GHOSTS)
    (found,) = findings(views, "PTE-ORPHAN")
    assert (found.mm, found.start, found.end) == (mm_of(100), 0x10000, 0x12000)
    (evidence,) = found.evidence
    assert "0x10000-0x12000 (2 pages, 8 KiB) as executable" in evidence.what


def test_nothing_is_said_of_a_map_that_was_not_read_whole() -> None:
    views = views_of(Process(pid=100))
    add_page_tables(views, *_GHOSTS)
    add_problem(views, View.MAPLE, Problem.UNREADABLE, mm=mm_of(100))
    assert findings(views, "PTE-ORPHAN") == []


def test_a_split_explains_memory_within_the_bounds_of_a_vma_and_no_other() -> None:
    """One part of it is stored in the index before the other."""
    views = views_of(Process(pid=100, lock=Lock.WRITE))
    ghost = Entry(pid=100, va=0x7F4000, pfn=0x99)
    add_page_tables(views, ghost)
    add_operations(views, Doing(pid=100, operation=Operation.ADJUST))
    assert [weigh(found, InFlight(views)).severity for found in findings(views, "PTE-ORPHAN")] == [Severity.HIGH]
    views.vmas.end[views.vmas.end == ghost.va] += np.uint64(0x1000)
    assert [weigh(found, InFlight(views)).severity for found in findings(views, "PTE-ORPHAN")] == [Severity.LOW]


def test_munmap_explains_memory_of_a_vma_that_it_has_not_freed_yet_and_no_other() -> None:
    views = views_of(Process(pid=100, lock=Lock.WRITE))
    add_page_tables(views, *_GHOSTS)
    add_operations(views, Doing(pid=100, operation=Operation.UNMAP))
    gone = views.vmas.take(np.array([0, 0]))
    gone.start[:], gone.end[:] = (0x10000, 0x11000), (0x11000, 0x12000)
    for state, severity in ((State.ALLOCATED, Severity.LOW), (State.FREE, Severity.HIGH)):
        views.strays = StrayVmas(
            vmas=gone,
            state=np.array([State.ALLOCATED, state], np.uint8),
            attached=np.zeros(2, np.bool_),
            avc=np.zeros(2, np.uint64),
            names=Texts.of([b"", b""]),
            foreign=np.zeros(0, np.uint64),
        )
        assert [weigh(found, InFlight(views)).severity for found in findings(views, "PTE-ORPHAN")] == [severity]
