"""THREAD-OUTSIDE on threads made by hand."""

from __future__ import annotations

import numpy as np

from checks.handmade_anchors import OFFSETS, REGISTERS, add_anchors
from checks.handmade_views import STACK_GUARD_GAP, Process, add_problem, findings, mm_of, views_of
from vmaforensics.checks.rule import Severity
from vmaforensics.views.problems import Problem
from vmaforensics.views.view import View

_PROCESSES = (Process(pid=100), Process(pid=101))
_NOWHERE, _STACK = 0x600000, 0x7F0000


def test_threads_in_vmas_are_none() -> None:
    views = views_of(*_PROCESSES)
    add_anchors(views)
    assert findings(views, "THREAD-OUTSIDE") == []


def test_code_in_no_vma_is_found() -> None:
    views = views_of(*_PROCESSES)
    add_anchors(views).threads.ip[1] = _NOWHERE + 5
    (found,) = findings(views, "THREAD-OUTSIDE")
    assert (found.mm, found.pid, found.severity) == (mm_of(101), 101, Severity.HIGH)
    assert (found.start, found.end) == (_NOWHERE, _NOWHERE + 0x1000)
    assert found.evidence[0].address == REGISTERS + 256 + OFFSETS["ip"]


def test_a_stack_in_no_vma_ranks_medium() -> None:
    views = views_of(*_PROCESSES)
    add_anchors(views).threads.sp[0] = 0x100000
    (found,) = findings(views, "THREAD-OUTSIDE")
    assert (found.pid, found.severity) == (100, Severity.MEDIUM)


def test_a_thread_that_is_outside_with_both_is_told_once() -> None:
    views = views_of(*_PROCESSES)
    threads = add_anchors(views).threads
    threads.ip[0] = threads.sp[0] = _NOWHERE
    (found,) = findings(views, "THREAD-OUTSIDE")
    assert "code" in found.title


def test_threads_in_one_gap_are_one_finding_and_those_in_two_are_two() -> None:
    views = views_of(Process(pid=100))
    threads = add_anchors(views).threads
    three = threads.take(np.array([0, 0, 0]))
    three.pid[:] = [100, 101, 102]
    three.ip[:] = [_NOWHERE, _NOWHERE + 0x3000, 0x10_0000]
    object.__setattr__(views.anchors, "threads", three)
    low, high = findings(views, "THREAD-OUTSIDE")
    assert (low.start, high.start, high.end) == (0x10_0000, _NOWHERE, _NOWHERE + 0x4000)
    assert high.title.startswith("2 threads")


def test_an_empty_stack_and_one_that_may_grow_are_at_rest() -> None:
    for sp in (0x7F4000, _STACK - 0x2000, _STACK - STACK_GUARD_GAP):
        views = views_of(Process())
        add_anchors(views).threads.sp[0] = sp
        assert findings(views, "THREAD-OUTSIDE") == []


def test_the_vsyscall_page_is_no_vma() -> None:
    views = views_of(Process())
    add_anchors(views).threads.ip[0] = 0xFFFFFFFF_FF600400  # VSYSCALL_ADDR, arch/x86/include/uapi/asm/vsyscall.h
    assert findings(views, "THREAD-OUTSIDE") == []


def test_during_exec_it_ranks_low() -> None:
    views = views_of(Process())
    threads = add_anchors(views).threads
    threads.ip[0], threads.in_exec[0] = _NOWHERE, True
    (found,) = findings(views, "THREAD-OUTSIDE")
    assert found.severity is Severity.LOW


def test_registers_that_are_not_of_user_code_and_unread_maps_say_nothing() -> None:
    views = views_of(*_PROCESSES)
    threads = add_anchors(views).threads
    threads.ip[:] = _NOWHERE
    threads.user[0] = False
    add_problem(views, View.MAPLE, Problem.UNREADABLE, mm=mm_of(101))
    assert findings(views, "THREAD-OUTSIDE") == []
