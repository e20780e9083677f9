"""Where processes come from: the program each runs, its parent, and when it was started."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import values_at
from vmaforensics.words.printable import printable
from vmaforensics.words.times import utc

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.kernel.machine import Clock
    from vmaforensics.views.processes.tasks import Tasks
    from vmaforensics.views.views import Views

_SECOND = 10**9  # ns


def programs(views: Views, mm_rows: NDArray[np.int64]) -> list[str]:
    """Path of ``exe_file`` for each row of ``views.mms``, as /proc/PID/exe links to it; -1 is no row.

    Empty where there is no such file, or its path cannot be put together.
    """
    files = views.files
    if files is None or not len(views.mms):
        return [""] * len(mm_rows)
    rows = files.rows_of(values_at(views.mms.exe_file, mm_rows))
    named = {row: printable(files.paths[row] or b"") for row in set(rows.tolist()) if row >= 0}
    return [named.get(row, "") for row in rows.tolist()]


def parents(kernel: Kernel, views: Views, tasks: Tasks) -> list[int | None]:
    """What /proc/PID/stat calls ppid, for each row of ``tasks``: the tgid of ``real_parent``.

    0 is the idle task. None where either task is not in the dump.
    """
    listed = views.tasks.take(views.tasks.ok)
    known = dict(zip(listed.task.tolist(), listed.tgid.tolist(), strict=True))
    first = kernel.symbols.get("init_task")
    if first is not None:
        known[first] = 0
    named = tasks.parent.tolist()
    others = np.array(sorted(set(named) - known.keys()), np.uint64)
    others = others[kernel.arch.kernel_pointer(others)]
    tgid, ok = kernel.gather_signed("task_struct", "tgid", others)
    known |= dict(zip(others[ok].tolist(), tgid[ok].tolist(), strict=True))
    return [known.get(task) if read else None for task, read in zip(named, tasks.ok.tolist(), strict=True)]


def starts(kernel: Kernel, clock: Clock | None, tasks: Tasks) -> list[str | None]:
    """When each of ``tasks`` was started, UTC; None where the task or the clock was not read."""
    if clock is None or not any(kernel.has("task_struct", name) for name in ("start_boottime", "real_start_time")):
        return [None] * len(tasks)
    pairs = zip(tasks.start.tolist(), tasks.ok.tolist(), strict=True)
    return [utc((clock.booted + start) // _SECOND) if read else None for start, read in pairs]
