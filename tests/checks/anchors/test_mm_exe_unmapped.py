"""MM-EXE-UNMAPPED on processes made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from checks.handmade_anchors import add_anchors
from checks.handmade_views import Process, add_problem, drop_entry, findings, mm_of, views_of
from vmaforensics.views.problems import Problem
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

_VMAS = ("400000-402000 r-xp /bin/cat", "500000-502000 r-xp /lib/libc.so", "7f0000-7f4000 rw-p [stack]")


def _views() -> Views:
    """Two processes that run /bin/cat; the second does not map it any more."""
    views = views_of(Process(pid=100, vmas=_VMAS), Process(pid=101, vmas=_VMAS))
    views.mms.exe_file[:] = views.vmas.file[0]
    entries = views.maple
    assert entries is not None
    views.maple = entries.take((entries.start != 0x400000) | (entries.mm == mm_of(100)))
    return views


def test_a_program_that_is_mapped_is_none() -> None:
    views = views_of(Process(vmas=_VMAS))
    views.mms.exe_file[:] = views.vmas.file[0]
    assert findings(views, "MM-EXE-UNMAPPED") == []


def test_a_program_that_nothing_maps_is_found() -> None:
    (found,) = findings(_views(), "MM-EXE-UNMAPPED")
    assert found.mm == mm_of(101)
    assert found.title == "no VMA maps the program file /bin/cat"


def test_the_file_beneath_an_overlay_is_the_program_too() -> None:
    views = _views()
    add_anchors(views).mms.exe_private[1] = views.vmas.file[1]
    assert findings(views, "MM-EXE-UNMAPPED") == []


def test_an_unread_file_or_map_says_nothing() -> None:
    views = _views()
    assert views.files is not None
    views.files.rows.ok[1] = False
    assert findings(views, "MM-EXE-UNMAPPED") == []
    views = _views()
    add_problem(views, View.MAPLE, Problem.UNREADABLE, mm=mm_of(101))
    assert findings(views, "MM-EXE-UNMAPPED") == []


def test_a_process_without_a_program_file_is_none() -> None:
    views = views_of(Process(vmas=_VMAS))
    drop_entry(views, 0x400000)
    assert findings(views, "MM-EXE-UNMAPPED") == []
