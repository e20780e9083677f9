"""Tasks that fork has only just begun to make: byte copies of their parents.

dup_task_struct copies the whole task_struct; until copy_process gives the copy a pid, an mm and a state of its own, it
looks like a second task with those of the parent, which no record leads to but the slab cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import rows_of, values_at
from vmaforensics.views.processes.mm_sources import Source

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64, U64
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.mm_sources import SourcesView

_LISTED = Source.TASK_LIST | Source.PID_INDEX | Source.RUN_QUEUE


def of_parents(sources: SourcesView) -> I64:
    """For each task the row of the listed one it may be a copy of: same pid, tgid, mm and time of birth; -1 for none.

    A task that any record but the slab cache leads to is none.
    """
    tasks = sources.tasks
    listed = np.flatnonzero(tasks.ok & ((sources.task_sources & np.uint16(Source.TASK_LIST)) != 0))
    listed = listed[np.argsort(tasks.pid[listed], kind="stable")]
    row = values_at(listed, rows_of(tasks.pid[listed], tasks.pid), -1)
    alone = tasks.ok & ((sources.task_sources & np.uint16(_LISTED)) == 0) & (tasks.exit_state == 0)
    for words in (tasks.tgid, tasks.mm, tasks.start):
        alone &= values_at(words, row) == words
    return np.where(alone & (row >= 0), row, -1)


def unborn_copies(kernel: Kernel, sources: SourcesView, copying: U64) -> U64:
    """The tasks that are copies still, ascending: their parent is in copy_process (one of ``copying``), or they name
    the parent's own stack as theirs."""
    tasks, parents = sources.tasks, of_parents(sources)
    stack, ok = kernel.gather_member("task_struct", "stack", tasks.task)
    known = parents >= 0
    proven = np.isin(values_at(tasks.task, parents), copying)
    proven |= ok & (stack != 0) & (values_at(stack, parents) == stack)
    return tasks.task[known & proven]
