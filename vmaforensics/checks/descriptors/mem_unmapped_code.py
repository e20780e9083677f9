"""MEM-UNMAPPED-CODE: program code in a memory file that nothing maps.

*Severity:* medium, confidence medium; low for scripts, and for machine code without the head of an ELF file.

*Compared:* the first page held of each file of shared memory that has no path (memfd, System V, deleted) and is in no
VMA and in no `i_mmap`: does it begin as an ELF file or a script, or is it machine code? Who keeps it is looked for
among descriptors, System V segments, files in flight over unix sockets (SCM_RIGHTS: in the queues of sockets that
descriptors lead to, of their peers, of connections not yet accepted, and of sockets that are in flight themselves) and
files registered with io_uring, and among the programs of processes. Sockets that no descriptor leads to are not looked
at.

*Innocent:* a file that only the kernel has open for a moment. A descriptor that is closed on exec is gone before the
program is mapped (begin_new_exec, fs/exec.c); the program of a process that ends is let go after its memory and its
descriptors (`__mmput`, `exit_task_work`); a core dump is written to a file that has no descriptor, which the next one
unlinks (fs/coredump.c).

*Contents:* a first page that is not in the image, or is in swap, is counted under *Not assessed*.

*Guaranteed by:* nothing: such files are legal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.checks.context import MOST
from vmaforensics.checks.descriptors.file_vmas import file_vmas, mm_of_process
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import INDICES, Apart, Confidence, Rule, Severity
from vmaforensics.columns.lookup import values_at
from vmaforensics.views.descriptors.content import Content
from vmaforensics.views.descriptors.keepers import Keeper
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.view import View
from vmaforensics.words.printable import decoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.descriptors.handles import HandlesView

RULE = Rule(
    id="MEM-UNMAPPED-CODE",
    title="program code in a memory file that nothing maps",
    severity=Severity.MEDIUM,
    confidence=Confidence.MEDIUM,
    why="A file that exists in memory only, has no path and is mapped nowhere can keep code out of every memory "
    "map until the moment it is needed.",
    benign=(
        "installers and container runtimes that hand programs over as a memfd",
        "a file in flight from one process to another",
        "a file in memory beneath an overlay, which keeps its inode for a while after it was unlinked",
    ),
    attack=("T1620", "T1564"),
    compares="files of shared memory without a path that are in no VMA and in no i_mmap: does the first page held "
    "begin as an ELF file or a script, or is it machine code? Kept by descriptors, segments, queues of unix sockets or "
    "io_uring",
    views=(View.HANDLES, View.FILE_RMAP, *INDICES),
    transient="execve closes descriptors before it maps the program; exit and close let a file go last; core dumps",
    by_hand=("crash: files PID",),
    steps=("descriptors",),
    rank=600,
    changed_by=(),
    in_flight=tuple(
        Apart(operation, 1) for operation in (Operation.EXEC, Operation.EXIT, Operation.CLOSE, Operation.DUMP)
    ),
)


class _Keepers(NamedTuple):
    """What keeps a file."""

    pid: int  # of the first process that does, 0 for none
    text: str  # the first keeper in words
    evidence: list[Evidence]
    mm: int = 0  # of the process that runs it, or is about to, where nothing else keeps it
    fleeting: bool = False  # only the kernel may have it open, for a moment


def check(context: Context) -> Iterator[Finding]:
    """One finding for each such file."""
    handles = context.views.handles
    if handles is None:
        return
    files = handles.memory_files
    pathless = files.internal | (files.nlink == 0)
    unmapped = ~files.mapped & ~np.isin(files.mapping, context.shared(file_vmas).mapping)
    code = np.isin(files.content, (Content.ELF, Content.SCRIPT, Content.CODE))
    for row in np.flatnonzero(pathless & unmapped & code).tolist():
        name = decoded(handles.names[row] or b"?")
        content, keepers = Content(int(files.content[row])), _keepers(context, handles, row)
        amount = context.pages(int(files.pages[row])) if files.pages[row] else f"{int(files.size[row])} bytes"
        begins = "is" if content is Content.CODE else "begins as"
        first_page = Evidence(
            what=f"page {int(files.index[row])} of {name} ({amount}) {begins} {content.label}; i_mmap is empty",
            view=View.HANDLES.label,
            address=int(files.inode[row]),
            found=f"physical {int(files.pa[row]):#x}",
        )
        yield context.finding(
            RULE,
            keepers.mm or mm_of_process(context, keepers.pid),
            f"{content.label} in the memory file {name} that no VMA maps, kept by {keepers.text}",
            [first_page, *keepers.evidence],
            severity=None if content is Content.ELF else Severity.LOW,
            apart=int(keepers.fleeting),
            by_others=not keepers.mm,
        )


def _keepers(context: Context, handles: HandlesView, row: int) -> _Keepers:
    """Descriptors, queues, rings and segments that keep row ``row`` of the memory files."""
    files, descriptors, kept, segments = handles.memory_files, handles.descriptors, handles.kept, handles.segments
    fds = np.flatnonzero(descriptors.inode == files.inode[row])
    queued = np.flatnonzero(kept.inode == files.inode[row])
    attached = np.flatnonzero(segments.mapping == files.mapping[row])
    evidence = [_descriptor(handles, at) for at in fds[:MOST].tolist()]
    evidence += [_kept(handles, at) for at in queued[:MOST].tolist()]
    evidence += [_segment(handles, at) for at in attached[:MOST].tolist()]
    if len(fds):
        pid = int(descriptors.pid[fds[0]])
        return _Keepers(pid, f"descriptor {int(descriptors.fd[fds[0]])} of process {pid}", evidence)
    if len(queued):
        return _Keepers(int(kept.pid[queued[0]]), _keeper(handles, int(queued[0])), evidence)
    if len(attached):
        return _Keepers(0, f"System V segment {int(segments.id[attached[0]])}", evidence)
    for mm in context.shared(_programs).get(int(files.inode[row]), []):
        pid = context.finding(RULE, mm, "", ()).pid
        return _Keepers(pid, f"process {pid}, whose program it is", evidence, mm=mm, fleeting=True)
    return _Keepers(0, "no descriptor that was found", evidence, fleeting=True)


def _programs(context: Context) -> dict[int, list[int]]:
    """The mms whose program each inode is; to be had with ``context.shared``."""
    mms, files = context.views.mms, context.views.files
    if files is None:
        return {}
    row = files.rows_of(mms.exe_file)
    found: dict[int, list[int]] = {}
    for at in np.flatnonzero(values_at(files.rows.ok, row)).tolist():
        found.setdefault(int(files.rows.inode[row[at]]), []).append(int(mms.mm[at]))
    return found


def _descriptor(handles: HandlesView, at: int) -> Evidence:
    rows = handles.descriptors
    return Evidence(
        what=f"descriptor {int(rows.fd[at])} of process {int(rows.pid[at])} keeps it",
        view=View.HANDLES.label,
        address=int(rows.slot[at]),
        found=f"{int(rows.file[at]):#x}",
    )


def _kept(handles: HandlesView, at: int) -> Evidence:
    return Evidence(
        what=f"{_keeper(handles, at)} keeps it",
        view=View.HANDLES.label,
        address=int(handles.kept.slot[at]),
        found=f"{int(handles.kept.file[at]):#x}",
    )


def _keeper(handles: HandlesView, at: int) -> str:
    """What keeps a file that is in no descriptor table, and how it was reached."""
    rows = handles.kept
    by = Keeper(int(rows.keeper[at])).label
    return f"{by} (by descriptor {int(rows.fd[at])} of process {int(rows.pid[at])})"


def _segment(handles: HandlesView, at: int) -> Evidence:
    rows = handles.segments
    return Evidence(
        what=f"System V segment {int(rows.id[at])} (key {int(rows.key[at]) % (1 << 32):#x}) keeps it",
        view=View.HANDLES.label,
        address=int(rows.segment[at]),
    )
