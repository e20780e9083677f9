"""MM-EXE-EXCHANGED: process is said to run another file than its program.

*Severity:* high, confidence medium, where `start_code` and the auxiliary vector agree on the program, as far as files
are mapped there; low, with low confidence, where they name different files, as `prctl(PR_SET_MM)` can make them, or
where `exe_file` lies on a stacked file system (`s_stack_depth`) and the path of the program ends with its path, as that
of a file beneath it.

*Compared:* the file of `mm->exe_file` with the files of the VMAs that hold `start_code`, AT_PHDR and AT_ENTRY of
`mm->saved_auxv`. Files are the same if their inodes or their paths are, or one is the file beneath an overlay. An
address space that is used has an `exe_file`.

*Guaranteed by:* `load_elf_binary` (fs/binfmt_elf.c) sets all of them from one file. `replace_mm_exe_file`
(kernel/fork.c) refuses to set another `exe_file` while a VMA still maps the old one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import SMEAR, Confidence, Rule, Severity
from vmaforensics.columns.lookup import composite_key, covering_rows, sort_order, values_at
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.view import View
from vmaforensics.words.printable import decoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import I64, U64, Bools
    from vmaforensics.views.anchors.anchors import AnchorsView
    from vmaforensics.views.vmas.files import FileTable

RULE = Rule(
    id="MM-EXE-EXCHANGED",
    title="process is said to run another file than its program",
    severity=Severity.HIGH,
    confidence=Confidence.MEDIUM,
    why="/proc/PID/exe, and all that goes by it, names a harmless file, while the program that was started is another "
    "one that is still mapped.",
    benign=(
        SMEAR,
        "a process that unmapped its program, let prctl(PR_SET_MM_EXE_FILE) set another, and mapped it again",
    ),
    attack=("T1036", "T1055"),
    compares="mm->exe_file with the files mapped at start_code, AT_PHDR and AT_ENTRY",
    views=(View.ANCHORS, View.VMA, View.FILES),
    transient="exec",
    by_hand=("crash: struct mm_struct.exe_file,start_code,saved_auxv MM", hand.VM),
    steps=("mm", "index", "file"),
    rank=578,
    changed_by=(Operation.EXEC,),
)

_WHERE = ("start_code", "AT_PHDR", "AT_ENTRY")


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process whose index, VMAs, files and auxiliary vector were read."""
    views, files, anchors = context.views, context.views.files, context.views.anchors
    if files is None or anchors is None or not len(files.rows):
        return
    mms = views.mms
    exe = files.rows_of(mms.exe_file)
    judged = mms.ok & anchors.mms.ok & values_at(files.rows.ok, exe) & context.decoded(context.index, mms.mm)
    named = [_file_at(context, value) for value in (mms.start_code, anchors.mms.phdr, anchors.mms.entry)]
    same = [_is_program(files, anchors, exe, row) for row in named]
    other = [
        (row >= 0) & values_at(files.rows.ok & files.rows.regular, row) & ~like
        for row, like in zip(named, same, strict=True)
    ]
    # A program may have unmapped the parts that it began with.
    agree = np.logical_and.reduce([(row == named[0]) | (row < 0) for row in named[1:]])
    every = judged & other[0] & agree & ~_beneath(files, named[0], exe)
    some = judged & ~every & (other[0] | other[1] | other[2])
    yield from _tell(context, files, exe, named, np.flatnonzero(every))
    # Only the last user of an address space takes its program away (__mmput, kernel/fork.c), and no task has one
    # before it has its program (begin_new_exec, fs/exec.c). The kernel's own address spaces have none, and no task.
    run = np.isin(mms.mm, views.tasks.mm)
    gone = mms.ok & anchors.mms.ok & (mms.exe_file == 0) & (mms.users > 0) & run
    yield from _tell(context, files, exe, named, np.flatnonzero(gone))
    for finding in _tell(context, files, exe, named, np.flatnonzero(some)):
        yield replace(finding, severity=Severity.LOW, confidence=Confidence.LOW)


def _file_at(context: Context, addresses: U64) -> I64:
    """Row of the file that each mm maps at its address, -1 for none, or for no file."""
    views = context.views
    entries, vmas = views.index, views.vmas
    mm_row = views.mm_rows(entries.mm)
    kept = np.flatnonzero((mm_row >= 0) & (entries.vma_row >= 0) & (entries.end > entries.start))
    bits = views.arch.user_page_bits
    low = composite_key(mm_row[kept], views.arch.pages(entries.start[kept]), bits)
    high = composite_key(mm_row[kept], views.arch.pages(entries.end[kept] - np.uint64(1)), bits) + np.uint64(1)
    order = sort_order(low)
    user = (addresses != 0) & (addresses < np.uint64(views.arch.user_top))
    wanted = composite_key(np.arange(len(addresses)), views.arch.pages(np.where(user, addresses, np.uint64(0))), bits)
    at = covering_rows(low[order], high[order], wanted)
    row = values_at(entries.vma_row[kept][order], at, -1)
    return np.where((at >= 0) & user & (row >= 0), values_at(vmas.file_row, row, -1), -1).astype(np.int64)


def _is_program(files: FileTable, anchors: AnchorsView, exe: I64, row: I64) -> Bools:
    """Is each file, a row of ``files``, the ``exe_file`` of its process?"""
    rows = files.rows
    same: Bools = values_at(rows.inode, row) == values_at(rows.inode, exe)
    same |= values_at(rows.file, row) == anchors.mms.exe_private
    paths = {path: number for number, path in enumerate(dict.fromkeys(files.paths))}
    number = np.array([paths[path] if path else -1 for path in files.paths], np.int64)
    one, two = values_at(number, row, -1), values_at(number, exe, -1)
    same |= (one == two) & (one >= 0)
    return same


def _beneath(files: FileTable, row: I64, exe: I64) -> Bools:
    """Does the path of each file end with that of its ``exe_file``, and may that lie on a file system stacked on one
    that has the file?"""
    ends = [
        bool((mine := files.paths[at] if at >= 0 else None) and (said := files.paths[of]) and mine.endswith(said))
        for at, of in zip(row.tolist(), exe.tolist(), strict=True)
    ]
    return np.array(ends, np.bool_) & values_at(files.rows.stacked, exe)


def _tell(context: Context, files: FileTable, exe: I64, named: list[I64], wrong: I64) -> Iterator[Finding]:
    mms, anchors = context.views.mms, context.views.anchors
    assert anchors is not None
    offsets = context.views.mm_offsets

    def path(row: int) -> str:
        return decoded(files.paths[row] or b"unknown") if row >= 0 else "no file"

    for at in wrong.tolist():
        mm = int(mms.mm[at])
        evidence = [
            Evidence(
                what=f"exe_file is {path(int(exe[at]))}",
                view=View.ANCHORS.label,
                address=mm + (offsets.exe_file or 0),
                found=f"{int(mms.exe_file[at]):#x}",
            )
        ]
        places = (mm + offsets.start_code, int(anchors.mms.auxv[at]), int(anchors.mms.auxv[at]))
        values = (mms.start_code, anchors.mms.phdr, anchors.mms.entry)
        for name, rows, value, where in zip(_WHERE, named, values, places, strict=True):
            what = f"{name} is {int(value[at]):#x}, in {path(int(rows[at]))}"
            evidence.append(Evidence(what=what, view=View.ANCHORS.label, address=where, found=f"{int(value[at]):#x}"))
        others = dict.fromkeys(path(int(rows[at])) for rows in named if int(rows[at]) >= 0)
        mapped = f"the program that is mapped is {' or '.join(others)}" if others else "no program is mapped"
        title = f"exe_file is {path(int(exe[at]))}, and {mapped}"
        start = int(mms.start_code[at])
        found = context.finding(RULE, mm, title, evidence, bounds=(start, max(int(mms.end_code[at]), start + 1)))
        yield replace(found, settled=True)  # files that are mapped or are a program stay what they are
