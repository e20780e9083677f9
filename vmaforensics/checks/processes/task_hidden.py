"""TASK-HIDDEN: process is missing in a record of all processes.

*Severity:* high; medium with low confidence where only the slab cache knows of it.

*Compared:* the tasks of the task list with those of the index of process ids and of further records. Idle tasks, tasks
that exit or have just been made are left out. A record that could not be read whole does not count.

*Guaranteed by:* `copy_process` (kernel/fork.c) and `__unhash_process` (kernel/exit.c) change both under
`tasklist_lock`.
"""

from __future__ import annotations

from vmaforensics.checks.rule import BUG, SMEAR, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="TASK-HIDDEN",
    title="process is missing in a record of all processes",
    severity=Severity.HIGH,
    why="The kernel adds a process to its list and to the index of process ids together, and takes it out of both "
    "together. Tools read one of them; a process that is only in the other is hidden from those.",
    benign=(SMEAR, "a process that was just being made or had just ended", BUG),
    compares="the tasks of init_task.tasks and thread_head with those of the pid index, and with the allocated "
    "task_structs and those the run queues name",
    views=(View.TASKS, View.SOURCES, View.SLAB),
    transient="a task being forked (TASK_NEW) is in neither; one that has exited leaves both before it is freed",
    by_hand=("crash: ps", "crash: task TASK", "drgn: find_task(PID)  # by the pid index"),
    steps=("task",),
    rank=520,
)
