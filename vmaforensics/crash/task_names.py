"""Tasks by their addresses, and what each was doing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import rows_of
from vmaforensics.crash.waits_document import TaskName
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64, U64
    from vmaforensics.crash.stack_parts import CaseStacks
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.tasks import Tasks


# Those of PREEMPT_RT, which are not all marked __sched.
_ALSO_WAITING = (b"rt_mutex_", b"__rt_mutex_", b"rtlock_", b"rwbase_", b"__rwbase_", b"down_read", b"down_write")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskNames:
    """See :meth:`of`."""

    stacks: CaseStacks
    order: I64  # rows of the stacks by address of the task
    sorted: U64
    sched: tuple[int, int]  # addresses between which functions do nothing but wait (__sched)

    @classmethod
    def of(cls, kernel: Kernel, stacks: CaseStacks) -> TaskNames:
        """Look-ups by task."""
        tasks = stacks.view.stacks.task
        order = np.argsort(tasks, kind="stable").astype(np.int64)
        get = kernel.symbols.get
        sched = (get("__sched_text_start") or 0, get("__sched_text_end") or 0)
        return cls(stacks=stacks, order=order, sorted=tasks[order], sched=sched)

    @property
    def tasks(self) -> Tasks:
        """The tasks that are known; idle tasks have stacks and are not among them."""
        return self.stacks.tasks

    def name(self, address: int) -> TaskName:
        """The task at an address; pid 0 is an idle task."""
        row = self.stack_of(address)
        task = -1 if row < 0 else int(self.stacks.view.stacks.row[row])
        if task >= 0:
            raw = self.tasks.comm[task].split(b"\0", 1)[0]
            return TaskName(task=hex(address), pid=int(self.tasks.pid[task]), comm=printable(raw))
        if row >= 0:
            return TaskName(task=hex(address), pid=0, comm="swapper")
        return TaskName(task=hex(address), pid=None, comm=None)

    def optional(self, address: int) -> TaskName | None:
        """The same; None for 0."""
        return self.name(address) if address else None

    def stack_of(self, address: int) -> int:
        """Row of the stack of a task; -1 for none."""
        found = int(rows_of(self.sorted, np.array([address], np.uint64))[0])
        return -1 if found < 0 else int(self.order[found])

    def function(self, address: int) -> str | None:
        """The function a task sleeps in, beneath those that only wait (``/proc/PID/wchan``); None if not known."""
        row = self.stack_of(address)
        if row < 0 or self.stacks.view.stacks.cpu[row] >= 0:
            return None
        view = self.stacks.view
        first, count = int(view.stacks.first[row]), int(view.stacks.count[row])
        for function in view.frames.function[first : first + count].tolist():
            if function < 0 or self.sched[0] <= int(view.functions.start[function]) < self.sched[1]:
                continue
            if not view.names[function].startswith(_ALSO_WAITING):
                return printable(view.names[function])
        return None
