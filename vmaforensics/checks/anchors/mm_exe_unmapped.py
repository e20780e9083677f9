"""MM-EXE-UNMAPPED: no VMA maps the program file.

*Compared:* the inode of `mm->exe_file` with those of the files of all VMAs.

*Guaranteed by:* `exec` maps the program it sets as `exe_file`; programs may unmap it later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import INDICES, Rule, Severity
from vmaforensics.columns.lookup import values_at
from vmaforensics.views.view import View
from vmaforensics.words.printable import decoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import I64, Bools
    from vmaforensics.views.vmas.files import FileTable

RULE = Rule(
    id="MM-EXE-UNMAPPED",
    title="no VMA maps the program file",
    severity=Severity.INFO,
    why="The process is said to run a file of which nothing is mapped: its code has been replaced or moved elsewhere.",
    benign=(
        "programs that copy themselves into anonymous memory (packers, huge pages for code)",
        "programs that unmap what they no longer need",
        "prctl(PR_SET_MM_EXE_FILE), as used when a process is restored",
    ),
    attack=("T1055",),
    compares="the inode of mm->exe_file with those of the files of all VMAs",
    views=(View.FILES, *INDICES),
    transient="exec",
    by_hand=("crash: struct mm_struct.exe_file MM", hand.VM),
    steps=("mm", "index"),
    rank=580,
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process whose index, VMAs and files were read whole."""
    views, files = context.views, context.views.files
    if files is None or not len(files.rows):
        return
    mms = views.mms
    exe = files.rows_of(mms.exe_file)
    judged = values_at(files.rows.ok, exe) & context.decoded(context.index, mms.mm) & mms.ok
    lost = np.flatnonzero(judged & ~_maps_program(context, files, exe))

    def path(at: int) -> str:
        return decoded(files.paths[int(exe[lost[at]])] or b"unknown")

    def evidence(at: int) -> Evidence:
        return Evidence(
            what=f"exe_file is {path(at)}, no VMA maps it",
            view=View.ANCHORS.label,
            address=int(mms.mm[lost[at]]) + (views.mm_offsets.exe_file or 0),
            found=f"{int(mms.exe_file[lost[at]]):#x}",
        )

    def title(at: int) -> str:
        return f"no VMA maps the program file {path(at)}"

    yield from context.per_mm(RULE, mms.mm[lost], evidence, title)


def _maps_program(context: Context, files: FileTable, exe: I64) -> Bools:
    """Does a VMA of each mm map its program file, row ``exe`` of ``files``, or a file that could not be read?

    Files are compared by inode: an overlay shows one file as several.
    """
    views, entries = context.views, context.views.index
    mm_row = views.mm_rows(entries.mm)
    file_row = values_at(views.vmas.file_row, views.vma_rows(entries.vma), -1)
    kept = (mm_row >= 0) & (file_row >= 0)
    mm_row, file_row = mm_row[kept], file_row[kept]
    same = files.rows.inode[file_row] == values_at(files.rows.inode, exe)[mm_row]
    if views.anchors is not None:
        same |= files.rows.file[file_row] == views.anchors.mms.exe_private[mm_row]
    same |= ~files.rows.ok[file_row]
    maps = np.zeros(len(views.mms), np.bool_)
    maps[mm_row[same]] = True
    return maps
