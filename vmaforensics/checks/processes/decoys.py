"""Tasks whose ``mm`` is not the address space they run on: for MM-DECOY, and for MM-HIDDEN, which leaves them out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.views.processes.tasks import PF_EXITING, PF_KTHREAD

if TYPE_CHECKING:
    from vmaforensics.checks.context import Context

_STACK_ONLY = 1  # VMAs that an address space has before exec gives it to its process


class Decoy(NamedTuple):
    """A task that shows another mm than its own."""

    task_row: int  # row of SourcesView.tasks
    mm: int  # its own
    by_active_mm: bool  # active_mm is another than mm
    owned: tuple[int, ...]  # rows of SourcesView.mms that it owns, that nobody uses and that are in use


def decoys(context: Context) -> list[Decoy]:
    """Tasks whose ``mm`` is not the one they run on (active_mm) or the one that names them its owner.

    exec sets mm and active_mm together; ``owner`` of the new mm is set before (mm_init), of the old one is
    cleared or passed on after (mm_update_next_owner), and in_execve says that it is under way. To be had with
    ``context.shared``.
    """
    sources = context.views.sources
    if sources is None:
        return []
    tasks, mms = sources.tasks, sources.mms
    user = tasks.ok & (tasks.mm != 0) & ((tasks.flags & (PF_KTHREAD | PF_EXITING)) == 0)
    user &= (tasks.exit_state == 0) & ~sources.executing
    active = user & (tasks.active_mm != tasks.mm)
    owner = sources.task_rows(sources.owner)
    used = np.isin(mms.mm, tasks.mm[tasks.ok])
    orphan = (owner >= 0) & ~used & (mms.users > 0) & mms.ok & (mms.map_count > _STACK_ONLY)
    orphan[orphan] = user[owner[orphan]] & (tasks.mm[owner[orphan]] != mms.mm[orphan])
    # What is left are the tasks that are wrong.
    owned: dict[int, list[int]] = {}
    for row in np.flatnonzero(orphan).tolist():
        owned.setdefault(int(owner[row]), []).append(row)
    found = []
    for row in sorted({*np.flatnonzero(active).tolist(), *owned}):
        its = tuple(owned.get(row, ()))
        real = int(mms.mm[its[0]]) if its else int(tasks.active_mm[row])
        found.append(Decoy(task_row=row, mm=real, by_active_mm=bool(active[row]), owned=its))
    return found
