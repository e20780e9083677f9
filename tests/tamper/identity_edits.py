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
    """An address space that maps its program file, not of init."""
    mms, vmas = edit.views.mms, edit.views.vmas
    row = edit.views.mm_rows(vmas.mm)
    code = mms.start_code[row]
    maps = (vmas.file == mms.exe_file[row]) & (vmas.start <= code) & (code < vmas.end)
    fits = np.flatnonzero((mms.exe_file != 0) & (mms.pid > 1) & np.isin(mms.mm, vmas.mm[maps]))
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


def _two_processes(edit: Edit) -> tuple[Row, Row]:
    """The tasks of two processes with memory that share nothing, the first with a parent that is not the second."""
    tasks, shared = edit.views.tasks, edit.views.shared
    assert shared is not None
    alone = [np.isin(tasks.task, shared.task[(shared.kind == kind) & (shared.tasks == 1)]) for kind in (0, 1)]
    fits = np.flatnonzero(alone[0] & alone[1] & (tasks.mm != 0) & (tasks.pid > 1))
    first = row_at(tasks, int(fits[len(fits) // 2]))
    others = [row for row in fits.tolist() if tasks.task[row] not in (first.task, first.parent)]
    return first, row_at(tasks, others[-1])


def parent_exchanged(edit: Edit, *, repaired: bool = False) -> Label:
    """``real_parent`` of a process set to another process; repaired: ``parent`` too."""
    task, other = _two_processes(edit)
    for path in ("real_parent", "parent")[: 2 if repaired else 1]:
        edit.put(edit.at("task_struct", int(task.task), path), int(other.task))
    technique = "another parent" + (", for signals too" if repaired else "")
    return Label(technique=technique, pid=int(task.tgid), start=0, end=0)


def thread_parent_exchanged(edit: Edit) -> Label:
    """``real_parent`` of one thread set to another process."""
    tasks = edit.views.tasks
    thread = row_at(tasks, int(np.flatnonzero(~tasks.leader & (tasks.mm != 0))[0]))
    _, other = _two_processes(edit)
    for path in ("real_parent", "parent"):
        edit.put(edit.at("task_struct", int(thread.task), path), int(other.task))
    return Label(technique="a thread with another parent", pid=int(thread.tgid), start=0, end=0)


def files_exchanged(edit: Edit) -> Label:
    """``files`` of a task set to those of another process."""
    task, other = _two_processes(edit)
    where = edit.at("task_struct", int(task.task), "files")
    edit.put(where, edit.get(edit.at("task_struct", int(other.task), "files")))
    return Label(technique="open files of another process", pid=int(task.tgid), start=0, end=0)


def fs_exchanged(edit: Edit) -> Label:
    """``fs`` of a task, its root and working directory, set to that of another process."""
    task, other = _two_processes(edit)
    where = edit.at("task_struct", int(task.task), "fs")
    edit.put(where, edit.get(edit.at("task_struct", int(other.task), "fs")))
    return Label(technique="root and working directory of another process", pid=int(task.tgid), start=0, end=0)


def handlers_exchanged(edit: Edit) -> Label:
    """``sighand`` of a task set to that of another process: a signal runs what that one chose."""
    task, other = _two_processes(edit)
    where = edit.at("task_struct", int(task.task), "sighand")
    edit.put(where, edit.get(edit.at("task_struct", int(other.task), "sighand")))
    return Label(technique="signal handlers of another process", pid=int(task.tgid), start=0, end=0)


def namespaces_exchanged(edit: Edit) -> Label:
    """``nsproxy`` of a task in namespaces of its own set to that of most: out of its container. All share the blame."""
    tasks = edit.views.tasks
    words, _ = edit.kernel.gather_member("task_struct", "nsproxy", tasks.task)
    first = edit.kernel.symbols.get("init_nsproxy")
    assert first is not None
    rows = np.flatnonzero((tasks.mm != 0) & (words != 0) & (words != np.uint64(first)) & tasks.leader)
    assert len(rows), "no process has namespaces of its own"
    task = row_at(tasks, int(rows[0]))
    edit.put(edit.at("task_struct", int(task.task), "nsproxy"), first)
    return Label(technique="namespaces of the host", pid=1, start=0, end=0)


def files_taken_away(edit: Edit) -> Label:
    """``files`` of a living process cleared: /proc/PID/fd is empty."""
    task, _ = _two_processes(edit)
    edit.put(edit.at("task_struct", int(task.task), "files"), 0)
    return Label(technique="open files taken away", pid=int(task.tgid), start=0, end=0)


def number_taken_away(edit: Edit) -> Label:
    """``thread_pid`` of a living process cleared."""
    task, _ = _two_processes(edit)
    edit.put(edit.at("task_struct", int(task.task), "thread_pid"), 0)
    return Label(technique="struct pid taken away", pid=int(task.tgid), start=0, end=0)


def leader_taken_away(edit: Edit) -> Label:
    """``group_leader`` of a living process cleared."""
    task, _ = _two_processes(edit)
    edit.put(edit.at("task_struct", int(task.task), "group_leader"), 0)
    return Label(technique="leader of the process taken away", pid=int(task.tgid), start=0, end=0)


def stack_exchanged(edit: Edit) -> Label:
    """``stack`` of a sleeping task set to that of another: its saved registers are another's."""
    task, other = _two_processes(edit)
    where = edit.at("task_struct", int(task.task), "stack")
    edit.put(where, edit.get(edit.at("task_struct", int(other.task), "stack")))
    return Label(technique="kernel stack of another process", pid=int(task.tgid), start=0, end=0)


def stack_pointer_moved(edit: Edit) -> Label:
    """The saved stack pointer of a sleeping task set to that of another: the kernel goes on there."""
    task, other = _two_processes(edit)
    member = edit.kernel.arch.saved_stack
    where = edit.at("task_struct", int(task.task), member)
    edit.put(where, edit.get(edit.at("task_struct", int(other.task), member)))
    return Label(technique="saved kernel stack pointer of another process", pid=int(task.tgid), start=0, end=0)


def thread_off_group(edit: Edit) -> Label:
    """Up to 6.6: a thread taken off the list that /proc/PID/task goes by; its process still has it on the other."""
    assert edit.kernel.has("task_struct", "thread_group"), "threads are on one list alone"
    tasks = edit.views.tasks
    thread = row_at(tasks, int(np.flatnonzero(~tasks.leader & (tasks.mm != 0) & (tasks.exit_state == 0))[0]))
    node = edit.at("task_struct", int(thread.task), "thread_group")
    after, before = edit.get(node), edit.get(node + 8)
    edit.put(before, after)
    edit.put(after + 8, before)
    return Label(technique="thread off the list of its process", pid=int(thread.tgid), start=0, end=0)


def owner_exchanged(edit: Edit) -> Label:
    """``mm->owner`` set to a task of another process."""
    task, other = _two_processes(edit)
    edit.put(edit.at("mm_struct", int(task.mm), "owner"), int(other.task))
    return Label(technique="memory owned by another process", pid=int(task.tgid), start=0, end=0)


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
    parent_exchanged,
    thread_parent_exchanged,
    files_exchanged,
    fs_exchanged,
    handlers_exchanged,
    namespaces_exchanged,
    files_taken_away,
    number_taken_away,
    leader_taken_away,
    stack_exchanged,
    stack_pointer_moved,
    thread_off_group,
    owner_exchanged,
    thread_given_other_memory,
    named_as_kernel_thread,
)
