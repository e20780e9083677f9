"""What a lock is of: the structure or variable that it lies in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.columns.lookup import first_rows, last_rows_of
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64
    from vmaforensics.crash.task_names import TaskNames
    from vmaforensics.kernel.kernel import Kernel

_FURTHEST: Final = 4096  # bytes from a symbol on that its variable may take


@dataclass(frozen=True, slots=True, kw_only=True)
class LockNames:
    """Names of locks by address: see :meth:`of`."""

    kernel: Kernel
    names: TaskNames
    mms: U64  # ascending
    users: U64  # the first task of each

    @classmethod
    def of(cls, kernel: Kernel, names: TaskNames) -> LockNames:
        """Look-ups for the locks of a case."""
        tasks = names.tasks
        users = tasks.take(tasks.ok & (tasks.mm != 0))
        users = users.take(first_rows(users.mm))
        return cls(kernel=kernel, names=names, mms=users.mm, users=users.task)

    def name(self, address: int) -> str | None:
        """``mmap_lock of pid 88 (bash)``, ``cgroup_mutex``, on the stack of a task; None if nothing is known."""
        return self._of_mm(address) or self._of_task(address) or self._on_stack(address) or self._symbol(address)

    def _of_mm(self, address: int) -> str | None:
        row = int(last_rows_of(self.mms, np.array([address], np.uint64))[0])
        if row < 0 or self.kernel.types.struct("mm_struct") is None:
            return None
        offset = address - int(self.mms[row])
        if offset >= self.kernel.sizeof("mm_struct"):
            return None
        return f"{self._member('mm_struct', offset)} of {self._task(int(self.users[row]))}"

    def _of_task(self, address: int) -> str | None:
        row = int(last_rows_of(self.names.sorted, np.array([address], np.uint64))[0])
        if row < 0:
            return None
        task = int(self.names.sorted[row])
        if not 0 <= address - task < self.kernel.sizeof("task_struct"):
            return None
        return f"{self._member('task_struct', address - task)} of {self._task(task)}"

    def _on_stack(self, address: int) -> str | None:
        low = self.names.stacks.view.stacks.low
        with np.errstate(over="ignore"):
            inside = np.flatnonzero((low != 0) & (np.uint64(address) - low < np.uint64(16 << 10)))
        if not len(inside):
            return None
        return f"on the stack of {self._task(int(self.names.stacks.view.stacks.task[inside[0]]))}"

    def _symbol(self, address: int) -> str | None:
        """A variable of the kernel image."""
        arch = self.kernel.arch
        if not arch.image_start <= address < arch.image_start + arch.image_size:
            return None
        symbols = self.kernel.symbols.by_address()
        near = symbols.nearest(np.array([address], np.uint64))
        distance = address - int(near.start[0])
        if near.row[0] < 0 or distance >= _FURTHEST:
            return None
        name = printable(symbols.name(int(near.row[0])))
        return f"{name}+{distance:#x}" if distance else name

    def _member(self, struct: str, offset: int) -> str:
        """The member that lies at an offset, or that it lies in."""
        layout = self.kernel.types.struct(struct)
        fields = {} if layout is None else layout.fields
        inside = [
            (field.offset, -field.extent, name)
            for name, field in fields.items()
            if field.offset <= offset < field.offset + max(field.extent, 1)
        ]
        if not inside:
            return f"{struct}+{offset:#x}"
        start, _, name = max(inside)
        return printable(name if start == offset else f"{name}+{offset - start:#x}")

    def _task(self, address: int) -> str:
        task = self.names.name(address)
        return f"task {task.task}" if task.pid is None else f"pid {task.pid} ({task.comm})"
