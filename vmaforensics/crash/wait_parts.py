"""Who waits for whom, as a part of the document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.columns.lookup import distinct, rows_of
from vmaforensics.crash.by_hand import struct_lines
from vmaforensics.crash.lock_names import lock_names, write_locked_texts
from vmaforensics.crash.stack_parts import waits_uninterruptibly
from vmaforensics.crash.task_names import TaskNames
from vmaforensics.crash.waits_document import (
    EdgePart,
    LockPart,
    QueuedPart,
    RunQueuePart,
    SleeperPart,
    WaiterPart,
    WaitsPart,
)
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.views.locks.kinds import LockKind, Proof, Wants
from vmaforensics.views.objects.surroundings import read_surroundings
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.columns.types import I64
    from vmaforensics.crash.stack_parts import CaseStacks
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.locks.gather import LocksView
    from vmaforensics.views.objects.surroundings import Surroundings
    from vmaforensics.views.system.scheduling import Schedule

_MOST: Final = 1000  # waiters of one lock, locks, and tasks on a run queue that are listed
_SECOND: Final = 10**9


def wait_part(kernel: Kernel, stacks: CaseStacks, view: LocksView, schedule: Schedule) -> WaitsPart:
    """What the locks of ``view`` and the run queues of ``schedule`` say; ``schedule`` is of the tasks of ``stacks``."""
    return _Builder(kernel, stacks, view, schedule).part()


class _Builder:
    def __init__(self, kernel: Kernel, stacks: CaseStacks, view: LocksView, schedule: Schedule) -> None:
        self._view, self._schedule, self._stacks = view, schedule, stacks
        self._names = TaskNames.of(kernel, stacks)
        self._kernel = kernel
        self._surroundings, self._locks = self._name_locks()
        self._lock_row = rows_of(view.locks.lock, view.waits.lock)  # of each wait
        self._slept, self._waited = schedule.slept(), schedule.waited()

    def _name_locks(self) -> tuple[Surroundings | None, dict[int, str]]:
        """What locks are of; nothing is read where there are none, and nothing is known without the kernel's types."""
        locks = self._view.locks
        addresses = distinct(self._view.waits.lock, locks.lock[locks.held])
        addresses = addresses[addresses != 0][:_MOST]
        if not len(addresses):
            return None, {}
        try:
            surroundings = read_surroundings(self._kernel, self._stacks.tasks)
            return surroundings, lock_names(surroundings, addresses)
        except KernelNotFoundError:
            return None, {}

    def part(self) -> WaitsPart:
        """All of it."""
        waits = self._view.waits
        return WaitsPart(
            deadlocks=[[self._edge(row) for row in circle] for circle in self._view.cycles[:_MOST]],
            locks=list(self._lock_parts()),
            not_found=[self._waiter(row) for row in np.flatnonzero(waits.lock == 0)[:_MOST].tolist()],
            queues=list(self._queues()),
            longest=list(self._longest()),
        )

    def _lock_parts(self) -> Iterator[LockPart]:
        """Locks that somebody waits for, those with most waiters first, then others that are held; completions last."""
        locks, waits = self._view.locks, self._view.waits
        rows: dict[int, list[int]] = {}
        for wait in np.flatnonzero(waits.lock != 0).tolist():
            rows.setdefault(int(self._lock_row[wait]), []).append(wait)
        for lock in np.flatnonzero(locks.held).tolist():
            rows.setdefault(lock, [])
        completion = locks.kind == LockKind.COMPLETION
        for lock, waiting in sorted(rows.items(), key=lambda it: (bool(completion[it[0]]), -len(it[1]), it[0]))[:_MOST]:
            yield self._lock(lock, sorted(waiting, key=lambda wait: -self._seconds_of(wait)))

    def _lock(self, row: int, waiting: list[int]) -> LockPart:
        locks = self._view.locks
        owner = int(locks.owner[row])
        state, cpu = self._state(owner)
        own_waits = np.flatnonzero((self._view.waits.task == locks.owner[row]) & (self._view.waits.lock != 0))
        return LockPart(
            kind=LockKind(int(locks.kind[row])).text,
            address=hex(int(locks.lock[row])),
            name=self._locks.get(int(locks.lock[row])),
            held=self._held(row),
            owner=self._names.optional(owner),
            owner_state=state,
            owner_cpu=cpu,
            owner_function=self._names.function(owner) if state == "sleeps" else None,
            owner_waits_for=hex(int(self._view.waits.lock[own_waits[0]])) if owner and len(own_waits) else None,
            likely=bool(locks.likely[row]),
            readers=int(locks.readers[row]),
            last_reader=self._names.optional(int(locks.last_reader[row])),
            handoff=bool(locks.handoff[row]),
            waiters=[self._waiter(wait) for wait in waiting[:_MOST]],
            count=len(waiting),
            locked_vmas=self._locked_vmas(row),
            by_hand=self._by_hand(row),
        )

    def _locked_vmas(self, row: int) -> list[str]:
        """Of an mmap lock that a writer holds, the VMAs that are locked."""
        locks, kernel = self._view.locks, self._kernel
        if self._surroundings is None or not locks.writer[row] or not kernel.has("mm_struct", "mmap_lock"):
            return []
        mm = int(locks.lock[row]) - kernel.offset("mm_struct", "mmap_lock")
        if not (self._stacks.tasks.mm == np.uint64(mm % (1 << 64))).any():
            return []
        return write_locked_texts(self._surroundings, mm)

    def _by_hand(self, row: int) -> list[str]:
        """Lines that show the lock and who holds it."""
        locks = self._view.locks
        owner = self._names.optional(int(locks.owner[row]))
        lines = struct_lines(LockKind(int(locks.kind[row])).struct, hex(int(locks.lock[row])))
        if owner is None or owner.pid is None:
            return lines
        return [*lines, f"crash: bt {owner.task}", f"drgn: prog.stack_trace({owner.pid})"]

    def _state(self, task: int) -> tuple[str | None, int | None]:
        """(What a task does, the CPU it does that on or waits for)."""
        stack = self._names.stack_of(task) if task else -1
        if stack < 0:
            return None, None
        if (cpu := int(self._stacks.view.stacks.cpu[stack])) >= 0:
            return "runs", cpu
        row = int(self._stacks.view.stacks.row[stack])
        queued = self._schedule.tasks
        if row >= 0 and queued.ok[row] and queued.queued[row] and not queued.delayed[row]:
            return "runnable", int(queued.cpu[row])
        return "sleeps", None

    def _held(self, row: int) -> str:
        locks = self._view.locks
        if not locks.ok[row]:
            return "unreadable"
        if locks.kind[row] in (LockKind.RWSEM, LockKind.VMA):
            return "write" if locks.writer[row] else "read" if locks.readers[row] > 0 else "free"
        return "held" if locks.held[row] else "free"

    def _waiter(self, wait: int) -> WaiterPart:
        waits = self._view.waits
        task, waiter = int(waits.task[wait]), int(waits.waiter[wait])
        nanoseconds = self._seconds_of(wait)
        return WaiterPart(
            who=self._names.name(task),
            wants=Wants(int(waits.wants[wait])).text,
            seconds=_seconds(nanoseconds),
            proof=Proof(int(waits.proof[wait])).text,
            function=self._names.function(task),
            waiter=hex(waiter) if waiter else None,
        )

    def _seconds_of(self, wait: int) -> int:
        """Nanoseconds that a task waits; -1 if they are not known."""
        row = int(self._stacks.view.stacks.row[int(self._view.waits.stack[wait])])
        return int(self._slept[row]) if row >= 0 else -1

    def _edge(self, wait: int) -> EdgePart:
        waits, locks = self._view.waits, self._view.locks
        lock = int(self._lock_row[wait])
        return EdgePart(
            who=self._names.name(int(waits.task[wait])),
            wants=Wants(int(waits.wants[wait])).text,
            kind=LockKind(int(waits.kind[wait])).text,
            lock=hex(int(waits.lock[wait])),
            name=self._locks.get(int(waits.lock[wait])),
            owner=self._names.name(int(locks.owner[lock])),
            proof=Proof(int(waits.proof[wait])).text,
        )

    def _queues(self) -> Iterator[RunQueuePart]:
        queues, tasks = self._schedule.queues, self._stacks.tasks
        for row in range(len(queues)):
            waiting: I64 = self._schedule.runnable(int(queues.cpu[row]))
            waiting = waiting[tasks.task[waiting] != queues.curr[row]]
            yield RunQueuePart(
                cpu=int(queues.cpu[row]),
                runnable=int(queues.runnable[row]),
                runs=self._names.name(int(queues.curr[row])),
                idle=bool(queues.curr[row] == queues.idle[row]),
                waiting=[
                    QueuedPart(who=self._names.name(int(tasks.task[task])), seconds=_seconds(int(self._waited[task])))
                    for task in waiting[:_MOST].tolist()
                ],
            )

    def _longest(self) -> Iterator[SleeperPart]:
        """Tasks in uninterruptible sleep, the longest first."""
        tasks = self._stacks.tasks
        rows = np.flatnonzero(tasks.ok & waits_uninterruptibly(tasks.state) & (tasks.exit_state == 0))
        for row in rows[np.argsort(-self._slept[rows], kind="stable")][:_MOST].tolist():
            task = int(tasks.task[row])
            yield SleeperPart(
                who=self._names.name(task),
                seconds=_seconds(int(self._slept[row])),
                function=self._names.function(task),
            )


def waits_not_assessed(view: LocksView, schedule: Schedule) -> Iterator[str]:
    """What of this could not be read or found."""
    lost = int((view.waits.lock == 0).sum())
    if lost:
        yield f"which lock {counted(lost, 'task')} in a function that waits for one asked for: no waiter was found"
    unread = int((~view.locks.ok).sum())
    if unread:
        yield f"{counted(unread, 'lock')}: not in the image"
    if not len(schedule.queues):
        yield "run queues, and since when tasks wait: not in the image, or the kernel's variables are not known"


def _seconds(nanoseconds: int) -> float | None:
    """To the millisecond; None for what is not known."""
    return None if nanoseconds < 0 else round(nanoseconds / _SECOND, 3)
