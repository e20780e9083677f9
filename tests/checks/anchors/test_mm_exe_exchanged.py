"""MM-EXE-EXCHANGED and MM-LIMITS on processes made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from checks.handmade_anchors import add_anchors
from checks.handmade_views import Process, add_problem, findings, mm_of, views_of
from vmaforensics.checks.finding import Severity
from vmaforensics.views.problems import Problem
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

CAT = ("400000-402000 r-xp /bin/cat", "500000-502000 r-xp /lib/libc.so", "7f0000-7f4000 rw-p [stack]")
SH = ("400000-402000 r-xp /bin/sh", "7f0000-7f4000 rw-p [stack]")


def _views() -> Views:
    """/bin/cat and /bin/sh, each set up by exec."""
    views = views_of(Process(pid=100, vmas=CAT), Process(pid=101, vmas=SH))
    anchors = add_anchors(views).mms
    views.mms.exe_file[:] = [views.vmas.file[0], views.vmas.file[3]]
    for column, value in (("start_code", 0x400000), ("end_code", 0x401800), ("start_stack", 0x7F3000)):
        getattr(views.mms, column)[:] = value
    anchors.phdr[:], anchors.entry[:] = 0x400040, 0x400680
    return views


def test_what_exec_sets_is_none() -> None:
    assert findings(_views(), "MM-EXE-EXCHANGED") == []
    assert findings(_views(), "MM-LIMITS") == []
    assert findings(views_of(Process()), "MM-EXE-EXCHANGED") == []


def test_a_program_that_is_mapped_while_exe_file_is_another_is_found() -> None:
    views = _views()
    views.mms.exe_file[0] = views.mms.exe_file[1]
    (found,) = findings(views, "MM-EXE-EXCHANGED")
    assert (found.mm, found.severity) == (mm_of(100), Severity.HIGH)
    assert found.title == "exe_file is /bin/sh, and the program that is mapped is /bin/cat"
    assert len(found.evidence) == 4


@pytest.mark.parametrize("unmapped", [False, True])
def test_a_process_without_a_program_is_found_and_an_address_space_without_a_task_is_not(unmapped: bool) -> None:
    views = _views()
    views.mms.exe_file[0] = 0
    if unmapped:
        views.mms.start_code[0] = 0x600000
    (found,) = findings(views, "MM-EXE-EXCHANGED")
    assert (found.mm, found.severity) == (mm_of(100), Severity.HIGH)
    views.tasks.mm[views.tasks.mm == np.uint64(mm_of(100))] = 0
    assert findings(views, "MM-EXE-EXCHANGED") == []


@pytest.mark.parametrize("column", ["phdr", "entry"])
def test_an_auxiliary_vector_that_names_another_file_is_low(column: str) -> None:
    views = _views()
    assert views.anchors is not None
    getattr(views.anchors.mms, column)[0] = 0x500100
    (found,) = findings(views, "MM-EXE-EXCHANGED")
    assert found.severity is Severity.LOW


@pytest.mark.parametrize("column", ["phdr", "entry"])
def test_parts_that_the_program_unmapped_say_nothing(column: str) -> None:
    views = _views()
    assert views.anchors is not None
    views.mms.exe_file[0] = views.mms.exe_file[1]
    getattr(views.anchors.mms, column)[0] = 0x600000
    (found,) = findings(views, "MM-EXE-EXCHANGED")
    assert found.severity is Severity.HIGH


def test_code_in_anonymous_memory_is_none() -> None:
    views = _views()
    assert views.anchors is not None
    views.mms.exe_file[0] = views.mms.exe_file[1]
    views.mms.start_code[0] = views.anchors.mms.phdr[0] = views.anchors.mms.entry[0] = 0x7F0100
    assert findings(views, "MM-EXE-EXCHANGED") == []


def test_the_file_beneath_an_overlay_and_the_same_path_are_the_program() -> None:
    views = _views()
    assert views.files is not None
    assert views.anchors is not None
    views.mms.exe_file[0] = views.mms.exe_file[1]
    views.anchors.mms.exe_private[0] = views.vmas.file[0]
    assert findings(views, "MM-EXE-EXCHANGED") == []
    views.anchors.mms.exe_private[0] = 0
    views.files.paths[views.vmas.file_row[0]] = b"/bin/sh"
    assert findings(views, "MM-EXE-EXCHANGED") == []


@pytest.mark.parametrize(("stacked", "severity"), [(True, Severity.LOW), (False, Severity.HIGH)])
def test_a_path_that_ends_with_that_of_exe_file_is_low_on_a_stacked_file_system(
    stacked: bool, severity: Severity
) -> None:
    views = _views()
    assert views.files is not None
    views.mms.exe_file[0] = views.mms.exe_file[1]
    views.files.rows.stacked[views.files.rows_of(views.mms.exe_file[:1])] = stacked
    views.files.paths[views.vmas.file_row[0]] = b"/layers/7/bin/sh"
    (found,) = findings(views, "MM-EXE-EXCHANGED")
    assert found.severity is severity


def test_an_index_that_was_not_read_says_nothing() -> None:
    views = _views()
    views.mms.exe_file[0] = views.mms.exe_file[1]
    add_problem(views, View.MAPLE, Problem.UNREADABLE, mm_of(100))
    assert findings(views, "MM-EXE-EXCHANGED") == []


@pytest.mark.parametrize(
    ("start", "end"),
    [("start_code", "end_code"), ("start_data", "end_data"), ("start_brk", "brk"), ("arg_start", "arg_end")],
)
def test_parts_that_end_before_they_begin_are_found(start: str, end: str) -> None:
    views = _views()
    getattr(views.mms, start)[1], getattr(views.mms, end)[1] = 0x402000, 0x401000
    (found,) = findings(views, "MM-LIMITS")
    assert (found.mm, found.severity) == (mm_of(101), Severity.MEDIUM)
    assert found.title == f"{start} is 0x402000, {end} 0x401000"


def test_a_part_beyond_user_space_is_found_and_what_exec_has_not_filled_in_is_none() -> None:
    views = _views()
    views.mms.env_end[0] = 1 << 62
    (found,) = findings(views, "MM-LIMITS")
    assert found.mm == mm_of(100)
    views.mms.start_stack[0] = 0
    assert findings(views, "MM-LIMITS") == []
    assert np.all(views.mms.ok)
