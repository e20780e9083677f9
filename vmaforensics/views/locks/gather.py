"""Who waits for whom, as a view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct, values_at
from vmaforensics.views.locks.cycles import blockers, find_cycles
from vmaforensics.views.locks.kinds import LockKind
from vmaforensics.views.locks.locks import read_locks
from vmaforensics.views.locks.places import find_places, read_words
from vmaforensics.views.locks.spinning import find_spinlocks
from vmaforensics.views.locks.waiters import Stretch, find_waiters
from vmaforensics.views.locks.waits import find_waits, is_proven
from vmaforensics.views.problems import ProblemLog

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64, Bools
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.locks.locks import Locks
    from vmaforensics.views.locks.waits import Waits
    from vmaforensics.views.processes.tasks import Tasks
    from vmaforensics.views.stacks.stacks import StacksView

_THREAD_SIZE = 16 << 10  # of a stack, at least
TASK_RUNNING = 0  # include/linux/sched.h


@dataclass(frozen=True, slots=True, kw_only=True)
class LocksView:
    """Tasks that wait for locks, and the locks; see :func:`gather_locks`."""

    waits: Waits
    locks: Locks  # those that are waited for, and the mmap lock of every address space
    blocker: I64  # of each wait, the wait of the task that holds the lock; -1: none
    cycles: list[list[int]]  # rows of the waits: each task waits for the next, the last for the first


def gather_locks(kernel: Kernel, tasks: Tasks, view: StacksView) -> LocksView:
    """What the tasks of ``view`` wait for, by their unwound stacks, and who holds it.

    ``tasks`` are those that ``view`` was made of. A wait whose lock was not found is a row with ``lock`` 0.
    """
    places = find_places(view)
    words = read_words(kernel, places)
    order = np.argsort(view.stacks.low, kind="stable")
    order = order[view.stacks.low[order] != 0]
    stretch = Stretch(low=view.stacks.low[order], task=view.stacks.task[order], size=_THREAD_SIZE)
    mms = distinct(tasks.mm[tasks.ok & kernel.arch.kernel_pointer(tasks.mm)])
    waiters = find_waiters(kernel, places, words, stretch, ProblemLog())
    off_stack = words.take(stretch.task_at(words.value) == 0)
    waits = find_waits(kernel, places, off_stack, waiters, mms)
    find_spinlocks(kernel, view, places, stretch, waits)
    waits = waits.take(~_woken(tasks, view, waits))
    locks = read_locks(kernel, waits, mms, tasks.task[tasks.ok])
    blocker = blockers(waits, locks)
    return LocksView(
        waits=waits, locks=locks, blocker=blocker, cycles=find_cycles(np.where(is_proven(waits), blocker, -1))
    )


def _woken(tasks: Tasks, view: StacksView, waits: Waits) -> Bools:
    """Which have been given what they waited for, are runnable, and have only not come to run yet."""
    row = view.stacks.row[waits.stack]
    runnable = values_at(tasks.state, row, 1) == TASK_RUNNING
    woken: Bools = runnable & (waits.lock == 0) & (waits.kind != LockKind.SPINLOCK)
    return woken
