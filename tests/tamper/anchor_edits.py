"""Labelled edits that leave registers, counts and contents behind which no VMA explains."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from support import row_at, rows_in

from tamper.edits import Label, labelled, pick, repair_counters
from vmaforensics.arch.x86_64 import bits
from vmaforensics.checks.finding import Severity
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from support import Edit, Row

    from vmaforensics.views.anchors.anchors import AnchorsView
    from vmaforensics.views.descriptors.handles import HandlesView
    from vmaforensics.views.indices.entries import IndexEntries
    from vmaforensics.views.vmas.vmas import Vmas

PAGE = 4096


def anchors_of(edit: Edit) -> AnchorsView:
    """The clean anchors."""
    assert edit.views.anchors is not None
    return edit.views.anchors


def handles_of(edit: Edit) -> HandlesView:
    """The clean handles."""
    assert edit.views.handles is not None
    return edit.views.handles


def index_of(edit: Edit) -> View:
    """The view the kernel goes by."""
    return View.MAPLE if View.MAPLE in edit.views.indices() else View.LIST


def pid_of(edit: Edit, mm: int) -> int:
    """Process of a memory map."""
    return int(edit.views.mms.pid[edit.views.mm_rows(np.array([mm], np.uint64))[0]])


def free_page(edit: Edit, mm: int) -> int:
    """A page between two VMAs of ``mm``, far from any."""
    rows = edit.views.indices()[index_of(edit)]
    mine = rows.take(rows.mm == np.uint64(mm))
    gaps = mine.start[1:] - mine.end[:-1]
    widest = int(gaps.argmax())
    assert int(gaps[widest]) > 8 << 20
    return (int(mine.end[widest]) + int(gaps[widest]) // 2) & -PAGE


def a_thread(edit: Edit) -> Row:
    """A thread with saved registers, of a process of the usual shape."""
    threads = anchors_of(edit).threads
    fits = threads.user & (threads.registers != 0) & (threads.pid > 1)
    return row_at(threads, int(np.flatnonzero(fits)[0]))


def _register_moved(edit: Edit, register: str) -> Label:
    thread = a_thread(edit)
    page = free_page(edit, int(thread.mm))
    edit.put(edit.at("pt_regs", int(thread.registers), register), page + 0x123)
    name = {"ip": "RIP", "sp": "RSP"}[register]
    return Label(
        technique=f"saved {name} outside every area", pid=pid_of(edit, int(thread.mm)), start=page, end=page + PAGE
    )


def rip_moved(edit: Edit) -> Label:
    """The saved RIP of a thread leads to where no VMA is."""
    return _register_moved(edit, "ip")


def rsp_moved(edit: Edit) -> Label:
    """The saved RSP of a thread leads to where no VMA is."""
    return _register_moved(edit, "sp")


def code_hidden_under_rip(edit: Edit) -> Label:
    """The VMA a thread will return to taken out of the maple tree, counters repaired."""
    threads = anchors_of(edit).threads
    threads = threads.take(threads.user)

    def fits(rows: IndexEntries, vmas: Vmas) -> NDArray[np.bool_]:
        executable: NDArray[np.bool_] = (vmas.file != 0) & ((vmas.flags & np.uint64(flags.VM_EXEC)) != 0)
        holds = np.zeros(len(rows), np.bool_)
        for thread in rows_in(threads):
            inside = (rows.start <= thread.ip) & (thread.ip < rows.end)
            holds |= (rows.mm == thread.mm) & inside
        return executable & holds

    row = pick(edit, View.MAPLE, fits)
    edit.put(int(row.slot), 0)
    repair_counters(edit, row)
    return labelled(edit, "area of running code out of the tree, counters repaired", row)


def code_in_memory_file(edit: Edit) -> Label:
    """An open file on tmpfs that nothing maps: deleted, and its first page now is a program's."""
    handles = handles_of(edit)
    files = handles.memory_files
    free = ~files.mapped & (files.pa != 0) & (files.index == 0)
    held = handles.descriptors.take(np.isin(handles.descriptors.inode, files.inode[free]))
    assert len(held), "no open file in memory that nothing maps"
    pa = int(files.pa[files.inode == held.inode[0]][0])
    edit.put(edit.at("inode", int(held.inode[0]), "i_nlink"), 0, 4)
    edit.overlay.write(pa, b"\x7fELF\x02\x01\x01".ljust(256, b"\0"))
    return Label(technique="program in a memory file that nothing maps", pid=int(held.pid[0]), start=0, end=0)


def attach_count_raised(edit: Edit) -> Label:
    """shm_nattch says that one VMA more maps a System V segment than there is."""
    segments = handles_of(edit).segments
    edit.put(int(segments.nattch_at[0]), int(segments.nattch[0]) + 1)
    return Label(technique="shm_nattch raised", pid=int(segments.last_pid[0]), start=0, end=0)


def segment_hidden(edit: Edit) -> Label:
    """A VMA that maps a System V segment taken out of the maple tree, counters repaired."""
    handles, files = handles_of(edit), edit.views.files
    assert files is not None
    mappings = files.rows.mapping

    def fits(rows: IndexEntries, vmas: Vmas) -> NDArray[np.bool_]:
        return (vmas.file_row >= 0) & np.isin(mappings[vmas.file_row], handles.segments.mapping)

    row = pick(edit, View.MAPLE, fits)
    edit.put(int(row.slot), 0)
    repair_counters(edit, row)
    return labelled(edit, "area of a System V segment out of the tree, counters repaired", row)


def area_made_executable(edit: Edit) -> Label:
    """VM_EXEC set in the flags of a writable anonymous VMA, and nothing else."""
    row = pick(
        edit,
        index_of(edit),
        lambda rows, vmas: (vmas.file == 0) & (vmas.kind == 1) & ((vmas.flags & np.uint64(0x107)) == 3),
    )
    where = edit.at("vm_area_struct", int(row.vma), "vm_flags")
    edit.put(where, edit.get(where) | flags.VM_EXEC)
    return labelled(edit, "anonymous area made executable", row)


def memfd_kept(edit: Edit) -> Label:
    """An open file on tmpfs that nothing maps turned into a memfd that holds a program, as memfd_create leaves it.

    Its inode is in the list of the kernel's own tmpfs, it has no link, its dentry is the memfd's, and the file is
    open on that mount: only the descriptor leads to it.
    """
    handles, kernel = handles_of(edit), edit.kernel
    files = handles.memory_files
    internal = files.inode[files.internal]
    free = ~files.internal & ~files.mapped & (files.pa != 0) & (files.index == 0)
    # Executable or not, a regular file (S_IFREG).
    free &= (kernel.gather_member("inode", "i_mode", files.inode)[0] & np.uint64(0o170000)) == 0o100000
    held = handles.descriptors.take(np.isin(handles.descriptors.inode, files.inode[free]))
    assert len(held), "no open file in memory that nothing maps"
    assert len(internal), "no memfd or segment whose mount could be taken"
    inode, super_block = int(held.inode[0]), edit.get(edit.at("inode", int(internal[0]), "i_sb"))
    link = edit.at("inode", inode, "i_sb_list")
    after, before = edit.get(link), edit.get(link + 8)
    edit.put(before, after)
    edit.put(after + 8, before)
    head = edit.at("super_block", super_block, "s_inodes")
    first = edit.get(head)
    for where, value in ((link, first), (link + 8, head), (head, link), (first + 8, link)):
        edit.put(where, value)
    edit.put(edit.at("inode", inode, "i_sb"), super_block)
    edit.put(edit.at("inode", inode, "i_nlink"), 0, 4)
    dentry = edit.get(edit.at("inode", inode, "i_dentry.first")) - kernel.offset("dentry", "d_u.d_alias|d_alias")
    name = kernel.member("dentry", "d_name.name|__d_name.name").offset
    inline = kernel.member("dentry", "d_iname|d_shortname").offset
    for at, octet in enumerate(b"memfd:x\0"):
        edit.put(dentry + inline + at, octet, 1)
    edit.put(dentry + name, dentry + inline)
    edit.put(dentry + kernel.offset("dentry", "d_sb"), super_block)
    pa = int(files.pa[files.inode == inode][0])
    edit.overlay.write(pa, b"\x7fELF\x02\x01\x01".ljust(PAGE, b"\0"))
    return Label(
        technique="memfd with code kept by a descriptor only",
        pid=int(held.pid[0]),
        start=0,
        end=0,
        rank=Severity.MEDIUM,
    )


def faults_answered_elsewhere(edit: Edit) -> Label:
    """A private VMA is registered with the userfaultfd that another process has open: a state that CRIU leaves too."""
    rows = edit.views.monitored
    assert rows is not None, "no userfaultfd"
    assert len(rows), "no VMA with a userfaultfd"
    context, owner = int(rows.context[0]), int(rows.mm[0])
    index = View.MAPLE if View.MAPLE in edit.views.indices() else View.LIST

    def fits(entries: IndexEntries, vmas: Vmas) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = (vmas.file == 0) & (vmas.anon_vma != 0) & (entries.mm != np.uint64(owner))
        return found

    row = pick(edit, index, fits)
    edit.put(edit.at("vm_area_struct", int(row.vma), "vm_userfaultfd_ctx.ctx"), context)
    flags = edit.at("vm_area_struct", int(row.vma), "vm_flags")
    edit.put(flags, edit.get(flags) | 0x200)  # VM_UFFD_MISSING
    return replace(labelled(edit, "page faults answered by another process", row), rank=Severity.INFO)


def area_made_executable_whole(edit: Edit) -> Label:
    """:func:`area_made_executable` with vm_page_prot and entries to match: a legal state, so of low rank."""
    label = area_made_executable(edit)
    view, vmas = edit.views.page_tables, edit.views.vmas
    assert view is not None
    mm = edit.views.mms.mm[edit.views.mms.pid == label.pid][0]
    (vma,) = rows_in(vmas.take((vmas.mm == mm) & (vmas.start == np.uint64(label.start))))
    prot = edit.at("vm_area_struct", int(vma.vma), "vm_page_prot")
    edit.put(prot, int(vma.page_prot) & ~bits.NO_EXECUTE)
    row = view.ranges.vma_row[view.ptes.range_row]
    for pte in rows_in(view.ptes.take((view.ptes.range_row >= 0) & (vmas.vma[row] == vma.vma))):
        edit.overlay.write(int(pte.where), (int(pte.entry) & ~bits.NO_EXECUTE).to_bytes(8, "little"))
    return replace(label, rank=Severity.LOW)


HIGH: tuple[Callable[[Edit], Label], ...] = (rip_moved, attach_count_raised)
HIGH_MAPLE: tuple[Callable[[Edit], Label], ...] = (code_hidden_under_rip, segment_hidden)
OWN_RANK: tuple[Callable[[Edit], Label], ...] = (
    memfd_kept,
    area_made_executable_whole,
    faults_answered_elsewhere,
)
