"""MM-DECOY: process shows the memory map of another address space.

*Compared:* `mm` of each user task with its `active_mm`, and with the `mm_struct`s that name the task as their `owner`.

*Guaranteed by:* `exec_mmap` (fs/exec.c) sets both; `mm_update_next_owner` keeps `owner`.
"""

from __future__ import annotations

from vmaforensics.checks.rule import BUG, SMEAR, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="MM-DECOY",
    title="process shows the memory map of another address space",
    severity=Severity.HIGH,
    why="mm, active_mm and the owner of an address space name each other. A process whose mm was exchanged runs "
    "on its own memory, while /proc and most tools show that of another.",
    benign=(SMEAR, "a process that was about to run another program", BUG),
    attack=("T1014", "T1564", "T1036"),
    compares="mm of each user task with its active_mm, and with the mm_struct that names the task its owner",
    views=(View.TASKS, View.SOURCES),
    transient="exec (in_execve), which sets both together",
    by_hand=("crash: struct task_struct.mm,active_mm TASK", "crash: struct mm_struct.owner MM"),
    steps=("task", "mm"),
    rank=530,
)
