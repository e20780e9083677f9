"""The parts of the document on who waits for whom, and what waits to run."""

from __future__ import annotations

import msgspec


class WaitPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every part here."""


class TaskName(WaitPart, frozen=True):
    """A task; ``pid`` and ``comm`` are null where no task that is known has this address."""

    task: str
    pid: int | None
    comm: str | None


class WaiterPart(WaitPart, frozen=True):
    """A task that waits.

    ``wants`` is "read", "write", or empty where there is only one way. ``seconds`` since it was given a CPU last; null
    where that is not known. ``proof`` is how the lock is known. ``function`` is what asked for the lock.
    """

    who: TaskName
    wants: str
    seconds: float | None
    proof: str
    function: str | None
    waiter: str | None  # address of the waiter on its stack


class LockPart(WaitPart, frozen=True):
    """A lock. ``name`` says what it is of; null where only its address is known.

    ``held`` is "read", "write", "held" (of a lock with one way), "free", or "unreadable". ``owner`` holds it, or, of a
    completion, is to complete it; ``likely`` says that the kernel itself does not vouch for that. ``owner_state`` is
    "runs" (on ``owner_cpu``), "runnable" (waits for it), or "sleeps". Who readers are no lock says: ``last_reader``
    took it last and may be gone.
    """

    kind: str
    address: str
    name: str | None
    held: str
    owner: TaskName | None
    owner_state: str | None
    owner_cpu: int | None
    owner_function: str | None  # where the owner sleeps
    owner_waits_for: str | None  # address of the lock that the owner waits for itself
    likely: bool
    readers: int
    last_reader: TaskName | None
    handoff: bool
    waiters: list[WaiterPart]  # the first thousand
    count: int  # of those who wait and are known
    locked_vmas: list[str]  # of an mmap lock that a writer holds, VMAs it has locked (since 6.4); the first hundred
    by_hand: list[str]  # lines for crash, drgn, gdb and volshell


class EdgePart(WaitPart, frozen=True):
    """``who`` waits for a lock that ``owner`` holds."""

    who: TaskName
    wants: str
    kind: str
    lock: str
    name: str | None
    owner: TaskName
    proof: str


class QueuedPart(WaitPart, frozen=True):
    """A task on a run queue; ``seconds`` since it became runnable, null where it runs or that is not known."""

    who: TaskName
    seconds: float | None


class RunQueuePart(WaitPart, frozen=True):
    """The run queue of a CPU: how many tasks it says it has, which runs, and which wait, the longest wait first."""

    cpu: int
    runnable: int
    runs: TaskName
    idle: bool
    waiting: list[QueuedPart]


class SleeperPart(WaitPart, frozen=True):
    """A task in uninterruptible sleep, since when it was given a CPU last, and the function that put it to sleep."""

    who: TaskName
    seconds: float | None
    function: str | None


class WaitsPart(WaitPart, frozen=True):
    """Who waits for whom. A deadlock is a circle: each edge leads to the next, the last to the first."""

    deadlocks: list[list[EdgePart]]
    locks: list[LockPart]  # that somebody waits for, then mmap locks that are held
    not_found: list[WaiterPart]  # who waits for a lock that was not found
    queues: list[RunQueuePart]
    longest: list[SleeperPart]
