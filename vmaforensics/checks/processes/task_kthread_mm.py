"""TASK-KTHREAD-MM: kernel thread uses the memory of a process.

*Severity:* low, confidence low; both high where the thread is the `owner` of that memory, which is a process with the
mark of a kernel thread.

*Compared:* `mm` of tasks with PF_KTHREAD, and `mm->owner`.

*Guaranteed by:* kernel threads have no `mm` but between `kthread_use_mm` and `kthread_unuse_mm`, and never own it
(`mm_update_next_owner`, kernel/exit.c, passes over them).
"""

from __future__ import annotations

from vmaforensics.checks.rule import SMEAR, Confidence, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="TASK-KTHREAD-MM",
    title="kernel thread uses the memory of a process",
    severity=Severity.LOW,
    confidence=Confidence.LOW,
    why="Kernel threads have no memory map. A process with the mark of a kernel thread is left out by tools that "
    "look for processes only.",
    benign=("a driver that works on behalf of a process (kthread_use_mm: vhost, shared virtual addressing)", SMEAR),
    attack=("T1014", "T1564", "T1036"),
    compares="PF_KTHREAD of each task with its mm, which should be NULL, and with the owner of that",
    views=(View.TASKS, View.SOURCES),
    transient="kthread_use_mm, for as long as a driver works on behalf of a process",
    by_hand=("crash: struct task_struct.flags,mm TASK",),
    steps=("task",),
    rank=550,
)
