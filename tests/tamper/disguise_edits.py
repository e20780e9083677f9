"""Labelled edits of what files, areas and tasks say they are, where nothing but each other contradicts them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from support import row_at

from tamper.edits import Label
from tamper.text_edits import free_frame
from vmaforensics.views.stacks.modules import module_memory, module_text
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Edit, Row

    from vmaforensics.columns.types import U64, Bools


def _area(edit: Edit, fits: Bools) -> Row:
    """An area that fits, of a process in the middle of the list."""
    vmas = edit.views.vmas
    rows = np.flatnonzero(fits & vmas.ok & np.isin(vmas.mm, edit.views.mms.mm[edit.views.mms.pid > 1]))
    assert len(rows), "no VMA fits this edit"
    return row_at(vmas, int(rows[len(rows) // 2]))


def _code(edit: Edit) -> Row:
    """An executable area of a file of a plain file system, of a name that is not deleted."""
    views = edit.views
    assert views.files is not None
    names = np.array([path is not None and not path.endswith(b"(deleted)") for path in views.files.paths], np.bool_)
    row = views.vmas.file_row
    magic, _ = edit.kernel.gather_member("super_block", "s_magic", _super_blocks(edit))
    plain = views.files.rows.ok & views.files.rows.regular & names & (magic != 0x794C7630)
    return _area(edit, (row >= 0) & plain[row] & ((views.vmas.flags & np.uint64(flags.VM_EXEC)) != 0))


def _super_blocks(edit: Edit) -> np.ndarray:
    assert edit.views.files is not None
    blocks, _ = edit.kernel.gather_member("dentry", "d_sb", edit.views.files.rows.dentry)
    return blocks


def _anonymous(edit: Edit) -> Row:
    """A private, writable area without a file, which is no stack."""
    vmas = edit.views.vmas
    wanted = np.uint64(flags.VM_WRITE)
    seen = np.uint64(flags.VM_WRITE | flags.VM_SHARED | flags.VM_GROWSDOWN)
    return _area(edit, (vmas.file == 0) & (vmas.ops == 0) & ((vmas.flags & seen) == wanted))


def _about(edit: Edit, area: Row, technique: str) -> Label:
    mms = edit.views.mms
    pid = int(mms.pid[mms.mm == area.mm][0])
    return Label(technique=technique, pid=pid, start=int(area.start), end=int(area.end))


def _about_file(edit: Edit, area: Row, technique: str, *, inode: bool = False) -> Label:
    """The label of an edit of the file of ``area``: the first process that maps it, or with ``inode`` its inode."""
    views = edit.views
    assert views.files is not None
    row = views.vmas.file_row
    known = views.files.rows.inode if inode else views.files.rows.file
    alike = np.flatnonzero((row >= 0) & (known[row] == known[int(area.file_row)]))
    pids = views.mms.pid[views.mm_rows(views.vmas.mm[alike])]
    first = row_at(views.vmas, int(alike[np.lexsort((views.vmas.start[alike], pids))[0]]))
    label = _about(edit, first, technique)
    return Label(technique=technique, pid=label.pid, start=0, end=0) if inode else label


def _path(edit: Edit, file: int, name: str) -> int:
    """Address of a member of ``file->f_path``."""
    member = f"f_path.{name}" if edit.kernel.has("file", f"f_path.{name}") else f"__f_path.{name}"
    return edit.at("file", file, member)


def _other(edit: Edit, area: Row) -> Row:
    """A file with another inode on the same file system."""
    assert edit.views.files is not None
    rows = edit.views.files.rows
    mine = row_at(rows, int(area.file_row))
    fits = np.flatnonzero(rows.ok & rows.regular & (rows.dev == mine.dev) & (rows.inode != mine.inode))
    assert len(fits), "no other file"
    return row_at(rows, int(fits[0]))


def name_written_over(edit: Edit) -> Label:
    """The first bytes of the name of a mapped file changed in place."""
    area = _code(edit)
    dentry = edit.get(_path(edit, int(area.file), "dentry"))
    member = "d_name" if edit.kernel.has("dentry", "d_name.name") else "__d_name"
    edit.write(edit.get(edit.at("dentry", dentry, f"{member}.name")), b"x9")
    return _about_file(edit, area, "name of a mapped file written over", inode=True)


def deleted_shown_as_there(edit: Edit) -> Label:
    """A deleted file that is mapped made to look as if it had a name: ``d_hash.pprev`` of another."""
    views = edit.views
    assert views.files is not None
    gone = np.array([path is not None and path.endswith(b"(deleted)") for path in views.files.paths], np.bool_)
    gone &= ~views.files.rows.shmem & views.files.rows.ok
    row = views.vmas.file_row
    area = _area(edit, (row >= 0) & gone[row] & ((views.vmas.flags & np.uint64(flags.VM_SHARED)) == 0))
    dentry = edit.get(_path(edit, int(area.file), "dentry"))
    other = edit.get(_path(edit, int(_code(edit).file), "dentry"))
    edit.put(edit.at("dentry", dentry, "d_hash.pprev"), edit.get(edit.at("dentry", other, "d_hash.pprev")))
    return _about_file(edit, area, "deleted file shown as if it were there")


def file_named_as_another(edit: Edit) -> Label:
    """``f_path.dentry`` of a mapped file set to that of a harmless one."""
    area = _code(edit)
    edit.put(_path(edit, int(area.file), "dentry"), edit.get(_path(edit, int(_other(edit, area).file), "dentry")))
    return _about_file(edit, area, "mapped file named as another")


def file_with_pages_of_another(edit: Edit) -> Label:
    """``f_mapping`` of a mapped file set to that of another."""
    area = _code(edit)
    edit.put(edit.at("file", int(area.file), "f_mapping"), int(_other(edit, area).mapping))
    return _about_file(edit, area, "mapped file with pages of another")


def functions_of_memory(edit: Edit) -> Label:
    """``vm_ops`` of a mapping set to a table in memory that the kernel handed out."""
    area = _code(edit)
    edit.put(edit.at("vm_area_struct", int(area.vma), "vm_ops"), int(area.mm))
    return _about(edit, area, "area works by a table in foreign memory")


def functions_taken_away(edit: Edit) -> Label:
    """``vm_ops`` of a mapped file cleared: it passes for anonymous memory."""
    area = _code(edit)
    edit.put(edit.at("vm_area_struct", int(area.vma), "vm_ops"), 0)
    return _about(edit, area, "mapped file passes for anonymous memory")


def functions_of_a_file(edit: Edit) -> Label:
    """``vm_ops`` of a mapped file given to anonymous memory."""
    area = _anonymous(edit)
    edit.put(edit.at("vm_area_struct", int(area.vma), "vm_ops"), int(_code(edit).ops))
    return _about(edit, area, "anonymous memory passes for a mapped file")


def _alien_module(edit: Edit, home: int) -> U64:
    """A module on the list that the one at ``home`` has nothing to do with."""
    assert edit.views.road is not None
    uses, modules = edit.views.road.uses, edit.views.road.loaded.modules.module
    own = uses.of(np.full(len(modules), home, np.uint64))
    alien: U64 = modules[~uses.related(modules, own) & (module_text(edit.kernel, modules).start != 0)]
    assert len(alien), "no module but that of the file system"
    return alien[:1]


def functions_of_another_module(edit: Edit) -> Label:
    """``vm_ops`` of a mapped file set to a copy of its table in the data of a module that is on the list."""
    area = _code(edit)
    size = edit.kernel.sizeof("vm_operations_struct")
    # The last part of it: its code comes first, before its read-only data and its data.
    ends = [int(part.end[0]) for part in module_memory(edit.kernel, _alien_module(edit, int(area.ops)))]
    copy = max(ends) - size & ~7
    for at in range(0, size, 8):
        edit.put(copy + at, edit.get(int(area.ops) + at))
    edit.put(edit.at("vm_area_struct", int(area.vma), "vm_ops"), copy)
    return _about(edit, area, "area works by a table of another module")


def page_faults_of_another_module(edit: Edit) -> Label:
    """``fault`` of the functions of a file system that is a module leads to another module that is on the list."""
    views = edit.views
    assert views.road is not None
    uses = views.road.uses
    area = _area(edit, (uses.of(views.vmas.ops) != 0) & (views.vmas.file != 0))
    where = edit.at("vm_operations_struct", int(area.ops), "fault")
    text = module_text(edit.kernel, _alien_module(edit, int(area.ops)))
    edit.put(where, int(text.start[0]) + 0x10)
    return Label(technique="page faults of a file system handled by another module", pid=0, start=where, end=where + 8)


def called_huge(edit: Edit) -> Label:
    """VM_HUGETLB set on anonymous memory: its page tables are read in another way."""
    area = _anonymous(edit)
    edit.put(edit.at("vm_area_struct", int(area.vma), "vm_flags"), int(area.flags) | flags.VM_HUGETLB)
    return _about(edit, area, "anonymous memory said to be of huge pages")


def opened_as_another(edit: Edit) -> Label:
    """``i_mapping`` of the inode of a mapped file set to that of another: who opens it next gets that one's pages."""
    area = _code(edit)
    assert edit.views.files is not None
    mine, other = row_at(edit.views.files.rows, int(area.file_row)), _other(edit, area)
    edit.put(edit.at("inode", int(mine.inode), "i_mapping"), int(other.mapping))
    return _about_file(edit, area, "mapped file whose next reader gets another's pages", inode=True)


def filled_from_another(edit: Edit) -> Label:
    """``host`` of the pages of a mapped file set to another inode: what is read next comes from that one."""
    area = _code(edit)
    assert edit.views.files is not None
    mine, other = row_at(edit.views.files.rows, int(area.file_row)), _other(edit, area)
    edit.put(edit.at("address_space", int(mine.mapping), "host"), int(other.inode))
    return _about_file(edit, area, "mapped file whose pages are filled from another", inode=True)


def top_of_user_space_lowered(edit: Edit) -> Label:
    """``task_size`` of an address space cleared: pagemap says nothing of it."""
    area = _code(edit)
    edit.put(edit.at("mm_struct", int(area.mm), "task_size"), 0)
    return _about(edit, area, "top of user space lowered")


def shown_as_shared(edit: Edit) -> Label:
    """VM_MAYSHARE set on anonymous memory: maps shows it as ``s``."""
    area = _anonymous(edit)
    edit.put(edit.at("vm_area_struct", int(area.vma), "vm_flags"), int(area.flags) | flags.VM_MAYSHARE)
    return _about(edit, area, "anonymous memory shown as shared")


def code_said_to_be_a_device(edit: Edit) -> Label:
    """VM_IO set on code of a file: ptrace and core dumps leave it out (check_vma_flags, vma_dump_size)."""
    area = _code(edit)
    edit.put(edit.at("vm_area_struct", int(area.vma), "vm_flags"), int(area.flags) | flags.VM_IO)
    return _about(edit, area, "code of a file said to be a device's memory")


def _process(edit: Edit) -> Row:
    """The leader of a process with memory, not init."""
    tasks = edit.views.tasks
    rows = np.flatnonzero((tasks.mm != 0) & (tasks.pid > 1) & tasks.leader & (tasks.exit_state == 0))
    return row_at(tasks, int(rows[len(rows) // 2]))


def number_changed(edit: Edit) -> Label:
    """``pid`` and ``tgid`` of a task set to numbers that nobody has."""
    task = _process(edit)
    number = int(task.pid) + 20000
    for member in ("pid", "tgid"):
        edit.put(edit.at("task_struct", int(task.task), member), number, 4)
    return Label(technique="task with another number", pid=number, start=0, end=0)


def marked_as_ended(edit: Edit) -> Label:
    """``exit_state`` of a living process set to EXIT_DEAD."""
    task = _process(edit)
    edit.put(edit.at("task_struct", int(task.task), "exit_state"), 0x10, 4)
    return Label(technique="living process marked as ended", pid=int(task.tgid), start=0, end=0)


def program_taken_away(edit: Edit) -> Label:
    """``exe_file`` cleared."""
    task = _process(edit)
    edit.put(edit.at("mm_struct", int(task.mm), "exe_file"), 0)
    return Label(technique="process without a program file", pid=int(task.tgid), start=0, end=0)


def tables_copied(edit: Edit) -> Label:
    """``pgd`` set to a copy of the top-level table, in a page that belongs to nobody."""
    task = _process(edit)
    where = edit.at("mm_struct", int(task.mm), "pgd")
    table = edit.get(where)
    shift = edit.overlay.page_shift
    here = edit.physical(table)
    frame = free_frame(edit)
    edit.overlay.write(frame << shift, edit.overlay.read(here, 1 << shift))
    edit.put(where, table - here + (frame << shift))
    return Label(technique="top-level page table exchanged for a copy", pid=int(task.tgid), start=0, end=0)


DISGUISE: tuple[Callable[[Edit], Label], ...] = (
    name_written_over,
    deleted_shown_as_there,
    file_named_as_another,
    file_with_pages_of_another,
    functions_of_memory,
    functions_taken_away,
    functions_of_a_file,
    functions_of_another_module,
    page_faults_of_another_module,
    called_huge,
    opened_as_another,
    filled_from_another,
    top_of_user_space_lowered,
    shown_as_shared,
    code_said_to_be_a_device,
    number_changed,
    marked_as_ended,
    program_taken_away,
    tables_copied,
)
