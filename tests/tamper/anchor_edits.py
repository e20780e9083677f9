"""Labelled edits that leave registers, counts and contents behind which no area explains."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tests.tamper.edits import Bench, Label
from vmaforensics.checks.finding import Severity
from vmaforensics.kernel.space import paging
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vmaforensics.views.anchors.anchors import AnchorsView
    from vmaforensics.views.descriptors.descriptors import HandlesView

PAGE = 4096


def anchors_of(bench: Bench) -> AnchorsView:
    """The clean anchors."""
    assert bench.views.anchors is not None
    return bench.views.anchors


def handles_of(bench: Bench) -> HandlesView:
    """The clean handles."""
    assert bench.views.handles is not None
    return bench.views.handles


def index_of(bench: Bench) -> View:
    """The view the kernel goes by."""
    return View.MAPLE if View.MAPLE in bench.views.regions() else View.LIST


def pid_of(bench: Bench, mm: int) -> int:
    """Process of a memory map."""
    return int(bench.views.mms["pid"][bench.views.mm_rows(np.array([mm], np.uint64))[0]])


def free_page(bench: Bench, mm: int) -> int:
    """A page between two areas of ``mm``, far from any."""
    rows = bench.views.regions()[index_of(bench)]
    mine = rows[rows["mm"] == np.uint64(mm)]
    gaps = mine["start"][1:] - mine["end"][:-1]
    widest = int(gaps.argmax())
    assert int(gaps[widest]) > 8 << 20
    return (int(mine["end"][widest]) + int(gaps[widest]) // 2) & -PAGE


def a_thread(bench: Bench) -> np.void:
    """A thread with saved registers, of a process of the usual shape."""
    threads = anchors_of(bench).threads
    fits = threads["user"] & (threads["registers"] != 0) & (threads["pid"] > 1)
    found: np.void = threads[fits][0]
    return found


def _register_moved(bench: Bench, register: str) -> Label:
    thread = a_thread(bench)
    page = free_page(bench, int(thread["mm"]))
    bench.put(bench.at("pt_regs", int(thread["registers"]), register), page + 0x123)
    name = {"ip": "RIP", "sp": "RSP"}[register]
    return Label(
        technique=f"saved {name} outside every area", pid=pid_of(bench, int(thread["mm"])), start=page, end=page + PAGE
    )


def rip_moved(bench: Bench) -> Label:
    """The saved RIP of a thread leads to where no area is."""
    return _register_moved(bench, "ip")


def rsp_moved(bench: Bench) -> Label:
    """The saved RSP of a thread leads to where no area is."""
    return _register_moved(bench, "sp")


def code_hidden_under_rip(bench: Bench) -> Label:
    """The area a thread will return to taken out of the maple tree, counters repaired."""
    threads = anchors_of(bench).threads
    threads = threads[threads["user"]]

    def pick(rows: NDArray[np.void], vmas: NDArray[np.void]) -> NDArray[np.bool_]:
        executable = (vmas["file"] != 0) & ((vmas["flags"] & np.uint64(flags.VM_EXEC)) != 0)
        holds = np.zeros(len(rows), np.bool_)
        for thread in threads:
            inside = (rows["start"] <= thread["ip"]) & (thread["ip"] < rows["end"])
            holds |= (rows["mm"] == thread["mm"]) & inside
        return executable & holds

    row = bench.region(View.MAPLE, pick)
    bench.put(int(row["slot"]), 0)
    bench.repair_counters(row)
    return bench.label("area of running code out of the tree, counters repaired", row)


def code_in_memory_file(bench: Bench) -> Label:
    """An open file on tmpfs that nothing maps: deleted, and its first page now is a program's."""
    handles = handles_of(bench)
    files = handles.memory_files
    free = ~files["mapped"] & (files["pa"] != 0) & (files["index"] == 0)
    held = handles.descriptors[np.isin(handles.descriptors["inode"], files["inode"][free])]
    assert len(held), "no open file in memory that nothing maps"
    one = files[files["inode"] == held["inode"][0]][0]
    bench.put(bench.at("inode", int(one["inode"]), "i_nlink"), 0, 4)
    bench.overlay.write(int(one["pa"]), b"\x7fELF\x02\x01\x01".ljust(256, b"\0"))
    return Label(technique="program in a memory file that nothing maps", pid=int(held["pid"][0]), start=0, end=0)


def attach_count_raised(bench: Bench) -> Label:
    """shm_nattch says that one area more maps a System V segment than there is."""
    segment = handles_of(bench).segments[0]
    bench.put(int(segment["nattch_at"]), int(segment["nattch"]) + 1)
    return Label(technique="shm_nattch raised", pid=int(segment["last_pid"]), start=0, end=0)


def segment_hidden(bench: Bench) -> Label:
    """An area that maps a System V segment taken out of the maple tree, counters repaired."""
    handles, files = handles_of(bench), bench.views.files
    assert files is not None
    mappings = files.rows["mapping"]

    def pick(rows: NDArray[np.void], vmas: NDArray[np.void]) -> NDArray[np.bool_]:
        return (vmas["file_row"] >= 0) & np.isin(mappings[vmas["file_row"]], handles.segments["mapping"])

    row = bench.region(View.MAPLE, pick)
    bench.put(int(row["slot"]), 0)
    bench.repair_counters(row)
    return bench.label("area of a System V segment out of the tree, counters repaired", row)


def area_made_executable(bench: Bench) -> Label:
    """VM_EXEC set in the flags of a writable anonymous area, and nothing else."""
    row = bench.region(
        index_of(bench),
        lambda rows, vmas: (vmas["file"] == 0) & (vmas["kind"] == 1) & ((vmas["flags"] & np.uint64(0x107)) == 3),
    )
    where = bench.at("vm_area_struct", int(row["vma"]), "vm_flags")
    bench.put(where, bench.get(where) | flags.VM_EXEC)
    return bench.label("anonymous area made executable", row)


def memfd_kept(bench: Bench) -> Label:
    """An open file on tmpfs that nothing maps turned into a memfd that holds a program, as memfd_create leaves it.

    Its inode hangs in the list of the kernel's own tmpfs, it has no link, its dentry is the memfd's, and the file is
    open on that mount: only the descriptor leads to it.
    """
    handles, kernel = handles_of(bench), bench.kernel
    files = handles.memory_files
    internal = files[files["internal"]]
    free = ~files["internal"] & ~files["mapped"] & (files["pa"] != 0) & (files["index"] == 0)
    # Executable or not, a regular file (S_IFREG).
    free &= (files["mode"] & 0o170000) == 0o100000
    held = handles.descriptors[np.isin(handles.descriptors["inode"], files["inode"][free])]
    assert len(held), "no open file in memory that nothing maps"
    assert len(internal), "no memfd or segment whose mount could be taken"
    one = files[files["inode"] == held["inode"][0]][0]
    inode, super_block = int(one["inode"]), int(internal["super"][0])
    link = bench.at("inode", inode, "i_sb_list")
    after, before = bench.get(link), bench.get(link + 8)
    bench.put(before, after)
    bench.put(after + 8, before)
    head = bench.at("super_block", super_block, "s_inodes")
    first = bench.get(head)
    for where, value in ((link, first), (link + 8, head), (head, link), (first + 8, link)):
        bench.put(where, value)
    bench.put(bench.at("inode", inode, "i_sb"), super_block)
    bench.put(bench.at("inode", inode, "i_nlink"), 0, 4)
    dentry = bench.get(bench.at("inode", inode, "i_dentry.first")) - kernel.offset("dentry", "d_u.d_alias|d_alias")
    name = kernel.member("dentry", "d_name.name|__d_name.name").offset
    inline = kernel.member("dentry", "d_iname|d_shortname").offset
    for at, octet in enumerate(b"memfd:x\0"):
        bench.put(dentry + inline + at, octet, 1)
    bench.put(dentry + name, dentry + inline)
    bench.put(dentry + kernel.offset("dentry", "d_sb"), super_block)
    bench.overlay.write(int(one["pa"]), b"\x7fELF\x02\x01\x01".ljust(PAGE, b"\0"))
    return Label(
        technique="memfd with code kept by a descriptor only",
        pid=int(held["pid"][0]),
        start=0,
        end=0,
        rank=Severity.MEDIUM,
    )


def area_made_executable_whole(bench: Bench) -> Label:
    """:func:`area_made_executable` with vm_page_prot and entries to match: a legal state, so of low rank."""
    label = area_made_executable(bench)
    view, vmas = bench.views.page_tables, bench.views.vmas
    assert view is not None
    mm = next(int(one["mm"]) for one in bench.views.mms if one["pid"] == label.pid)
    (vma,) = vmas[(vmas["mm"] == np.uint64(mm)) & (vmas["start"] == np.uint64(label.start))]
    prot = bench.at("vm_area_struct", int(vma["vma"]), "vm_page_prot")
    bench.put(prot, int(vma["page_prot"]) & ~paging.NO_EXECUTE)
    row = view.areas["vma_row"][view.ptes["area"]]
    for pte in view.ptes[(view.ptes["area"] >= 0) & (vmas["vma"][row] == vma["vma"])]:
        bench.overlay.write(int(pte["where"]), (int(pte["entry"]) & ~paging.NO_EXECUTE).to_bytes(8, "little"))
    return replace(label, rank=Severity.LOW)


HIGH: tuple[Callable[[Bench], Label], ...] = (rip_moved, attach_count_raised)
HIGH_MAPLE: tuple[Callable[[Bench], Label], ...] = (code_hidden_under_rip, segment_hidden)
OWN_RANK: tuple[Callable[[Bench], Label], ...] = (memfd_kept, area_made_executable_whole)
