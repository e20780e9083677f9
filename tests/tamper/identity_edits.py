"""Labelled edits of who a process says it is: its program file, its names, the memory of its threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from support import row_at, rows_in

from tamper.edits import Label
from vmaforensics.checks.finding import Severity

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Edit, Row

_COMM = 16


def _program(edit: Edit) -> Row:
    """An address space with a program file, not of init."""
    mms = edit.views.mms
    fits = np.flatnonzero((mms.exe_file != 0) & (mms.pid > 1))
    return row_at(mms, int(fits[len(fits) // 2]))


def exe_file_exchanged(edit: Edit, *, repaired: bool = False) -> Label:
    """``exe_file`` set to the program of another process; repaired: so is the name of its task."""
    views, mm = edit.views, _program(edit)
    assert views.files is not None
    inode = views.files.rows.inode[views.files.rows_of(views.mms.exe_file)]
    mine = inode[int(views.mm_rows(np.array([mm.mm], np.uint64))[0])]
    (other, *_) = rows_in(views.mms.take((inode != mine) & (views.mms.exe_file != 0)))
    edit.put(edit.at("mm_struct", int(mm.mm), "exe_file"), int(other.exe_file))
    if repaired:
        for at, octet in enumerate(bytes(other.comm).ljust(_COMM, b"\0")):
            edit.put(edit.at("task_struct", int(mm.task), "comm") + at, octet, 1)
    technique = "exe_file exchanged" + (", name too" if repaired else "")
    return Label(technique=technique, pid=int(mm.pid), start=0, end=0)


def auxiliary_vector_moved(edit: Edit) -> Label:
    """AT_ENTRY of the saved auxiliary vector set to where another file is: what prctl(PR_SET_MM) can do."""
    views = edit.views
    vmas = views.vmas
    mm = _program(edit)
    assert views.files is not None
    rows = views.files.rows_of(vmas.file)
    exe = views.files.rows_of(np.array([mm.exe_file], np.uint64))[0]
    others = vmas.take((vmas.mm == mm.mm) & (rows >= 0) & (rows != exe) & ((vmas.flags & np.uint64(4)) != 0))
    others = others.take(views.files.rows.inode[views.files.rows_of(others.file)] != views.files.rows.inode[exe])
    assert len(others), "the process maps no other file"
    auxv = edit.at("mm_struct", int(mm.mm), "saved_auxv")
    entry = next(at for at in range(auxv, auxv + 40 * 16, 16) if edit.get(at) == 9)
    edit.put(entry + 8, int(others.start[0]))
    return Label(technique="AT_ENTRY names another file", pid=int(mm.pid), start=0, end=0, rank=Severity.LOW)


def limits_crossed(edit: Edit) -> Label:
    """``env_end`` set below ``env_start``: what neither exec nor prctl allows."""
    mm = _program(edit)
    edit.put(edit.at("mm_struct", int(mm.mm), "env_end"), int(mm.env_start) - 8)
    technique = "environment ends before it begins"
    return Label(technique=technique, pid=int(mm.pid), start=0, end=0, rank=Severity.MEDIUM)


def thread_given_other_memory(edit: Edit) -> Label:
    """``mm`` and ``active_mm`` of a thread set to the address space of another process."""
    tasks = edit.views.tasks
    threads = tasks.take((tasks.mm != 0) & (tasks.pid != tasks.tgid) & (tasks.exit_state == 0))
    assert len(threads), "no process has several threads"
    thread = row_at(threads, len(threads) // 2)
    other = tasks.mm[(tasks.mm != 0) & (tasks.mm != thread.mm) & (tasks.pid > 1)][0]
    for member in ("mm", "active_mm"):
        edit.put(edit.at("task_struct", int(thread.task), member), int(other))
    return Label(technique="thread with other memory", pid=int(thread.tgid), start=0, end=0)


def named_as_kernel_thread(edit: Edit) -> Label:
    """A process that calls itself as ``ps`` shows kernel threads: a legal state."""
    mm = _program(edit)
    for at, octet in enumerate(b"[kworker/0:1]".ljust(_COMM, b"\0")):
        edit.put(edit.at("task_struct", int(mm.task), "comm") + at, octet, 1)
    return Label(technique="named as a kernel thread", pid=int(mm.pid), start=0, end=0, rank=Severity.LOW)


IDENTITY: tuple[Callable[[Edit], Label], ...] = (
    exe_file_exchanged,
    auxiliary_vector_moved,
    limits_crossed,
    thread_given_other_memory,
    named_as_kernel_thread,
)
