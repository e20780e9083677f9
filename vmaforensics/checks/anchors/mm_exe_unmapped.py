"""MM-EXE-UNMAPPED: no area maps the program file.

*Compared:* the inode of `mm->exe_file` with those of the files of all areas.

*Guaranteed by:* `exec` maps the program it sets as `exe_file`; programs may unmap it later.
"""

from __future__ import annotations

from vmaforensics.checks import hand
from vmaforensics.checks.rule import INDICES, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="MM-EXE-UNMAPPED",
    title="no area maps the program file",
    severity=Severity.INFO,
    why="The process is said to run a file of which nothing is mapped: its code has been replaced or moved elsewhere.",
    benign=(
        "programs that copy themselves into anonymous memory (packers, huge pages for code)",
        "programs that unmap what they no longer need",
        "prctl(PR_SET_MM_EXE_FILE), as used when a process is restored",
    ),
    attack=("T1055",),
    compares="the inode of mm->exe_file with those of the files of all areas",
    views=(View.FILES, *INDICES),
    transient="exec",
    by_hand=("crash: struct mm_struct.exe_file MM", hand.VM),
    steps=("mm", "index"),
    rank=580,
)
