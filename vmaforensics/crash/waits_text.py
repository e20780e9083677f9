"""Who waits for whom, as text for people."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.crash.waits_document import (
        EdgePart,
        LockPart,
        RunQueuePart,
        TaskName,
        WaiterPart,
        WaitsPart,
    )

_WIDTH: Final = 100
_MOST_LOCKS: Final = 12
_MOST_WAITERS: Final = 6
_MOST_LONGEST: Final = 5
_MOST_QUEUED: Final = 5


def wait_lines(waits: WaitsPart) -> Iterator[str]:
    """Deadlocks, locks with those who wait for them, what waits to run, who has slept longest."""
    for circle in waits.deadlocks:
        yield from _deadlock(circle)
    shown = [lock for lock in waits.locks if lock.waiters or lock.held == "write"][:_MOST_LOCKS]
    for lock in shown:
        yield from _lock(lock)
    if len(waits.locks) > len(shown):
        yield f"  {counted(len(waits.locks) - len(shown), 'more lock')}: --format json has them"
    for waiter in waits.not_found[:_MOST_WAITERS]:
        where = f" in {waiter.function}" if waiter.function else ""
        yield from _wrapped(f"{task_text(waiter.who)} waits for a lock{where}{_since(waiter.seconds)}: not found which")
    for queue in waits.queues:
        yield from _queue(queue)
    yield from _others(waits, shown)


def _others(waits: WaitsPart, shown: list[LockPart]) -> Iterator[str]:
    """Uninterruptible sleepers that wait for none of the locks ``shown``."""
    named = {waiter.who.task for lock in shown for waiter in lock.waiters}
    others = [sleeper for sleeper in waits.longest if sleeper.who.task not in named]
    if others:
        yield "  In uninterruptible sleep (D) for another reason, the longest first:"
    for sleeper in others[:_MOST_LONGEST]:
        where = f" in {sleeper.function}" if sleeper.function else ""
        yield f"    {task_text(sleeper.who)}{_since(sleeper.seconds)}{where}"
    if len(others) > _MOST_LONGEST:
        yield f"    and {len(others) - _MOST_LONGEST:,} more"


def wait_summary(waits: WaitsPart) -> str | None:
    """The worst of it in a sentence; None if nobody waits for a lock that another holds."""
    if waits.deadlocks:
        circle = waits.deadlocks[0]
        who = ", ".join(f"{task_text(edge.who)} for {edge.kind} {edge.lock}" for edge in circle[:_MOST_WAITERS])
        return f"deadlock of {counted(len(circle), 'task')}: {who}"
    locks = [lock for lock in waits.locks if lock.waiters and lock.kind != "completion"]
    if not locks:
        return None
    lock = locks[0]
    verb = "waits" if lock.count == 1 else "wait"
    what = lock_text(lock.kind, lock.name, lock.address)
    what += "" if lock.address in what else f" ({lock.kind} {lock.address})"
    return f"{counted(lock.count, 'task')} {verb} for {what}, {held_text(lock)}"


def task_text(task: TaskName) -> str:
    """A task in words."""
    return f"pid {task.pid} ({task.comm})" if task.pid is not None else f"task {task.task}, which is not known"


def _wrapped(text: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False)


def lock_text(kind: str, name: str | None, address: str) -> str:
    """A lock in words."""
    if name is None:
        return f"{kind} {address}"
    return f"{kind} {name}" if name.startswith("on the stack") else name


def _deadlock(circle: list[EdgePart]) -> Iterator[str]:
    if len(circle) == 1:
        yield "  DEADLOCK: a task waits for what it holds itself:"
    else:
        yield f"  DEADLOCK of {counted(len(circle), 'task')}, each of which waits for what the next one holds:"
    for edge in circle:
        wish = f" to {edge.wants}" if edge.wants else ""
        text = f"{task_text(edge.who)} waits{wish} for {lock_text(edge.kind, edge.name, edge.lock)}, held by "
        yield from _wrapped(text + task_text(edge.owner), "    ")


def held_text(lock: LockPart) -> str:
    """Who holds it."""
    if lock.held == "unreadable":
        return "which is not in the image"
    likely = "likely " if lock.likely else ""
    if lock.kind == "completion":
        return (
            "which nobody who is known is to complete"
            if lock.owner is None
            else (f"which {task_text(lock.owner)} completes when it ends or executes another program")
        )
    if lock.held == "read":
        text = f"held by {counted(lock.readers, 'reader')}, who are not recorded"
        return text if lock.last_reader is None else f"{text} (the last to take it: {task_text(lock.last_reader)})"
    if lock.held == "free":
        return "which is free: who waits has not run yet"
    way = "held for writing" if lock.held == "write" else "held"
    return f"{way}, by whom no word says" if lock.owner is None else f"{way} {likely}by {task_text(lock.owner)}"


def _lock(lock: LockPart) -> Iterator[str]:
    at = "" if lock.name is None else f" ({lock.kind} {lock.address})"
    text = f"{lock_text(lock.kind, lock.name, lock.address)}{at}: {held_text(lock)}{_owner(lock)}"
    yield from _wrapped(text)
    if lock.locked_vmas:
        more = f" and {len(lock.locked_vmas) - 1:,} more" if len(lock.locked_vmas) > 1 else ""
        yield from _wrapped(f"locked for writing: VMA {lock.locked_vmas[0]}{more}", "    ")
    for waiter in lock.waiters[:_MOST_WAITERS]:
        yield from _wrapped(_waiter(waiter), "    ")
    if lock.count > _MOST_WAITERS:
        yield f"    and {lock.count - _MOST_WAITERS:,} more"


def _owner(lock: LockPart) -> str:
    """What the owner does."""
    if lock.owner_waits_for == lock.address:
        return ", who waits for it"
    if lock.owner_waits_for is not None:
        return f", who waits for another, {lock.owner_waits_for}"
    if lock.owner_state == "runs":
        return f", who runs on CPU {lock.owner_cpu}"
    if lock.owner_state == "runnable":
        return f", who could run and waits for CPU {lock.owner_cpu}"
    return "" if lock.owner_function is None else f", who sleeps in {lock.owner_function}"


def _waiter(waiter: WaiterPart) -> str:
    wish = f" to {waiter.wants}" if waiter.wants else ""
    where = f" in {waiter.function}" if waiter.function else ""
    doubt = f" ({waiter.proof})" if "likely" in waiter.proof else ""
    verb = "spins" if doubt else "waits"
    return f"{task_text(waiter.who)} {verb}{wish}{where}{_since(waiter.seconds)}{doubt}"


def _since(seconds: float | None) -> str:
    return "" if seconds is None else f" for {seconds:.1f} s"


def _queue(queue: RunQueuePart) -> Iterator[str]:
    """Only CPUs that others wait for."""
    if not queue.waiting:
        return
    runs = "its idle task" if queue.idle else task_text(queue.runs)
    yield from _wrapped(f"CPU {queue.cpu} runs {runs}; {counted(len(queue.waiting), 'task')} behind it:")
    for queued in queue.waiting[:_MOST_QUEUED]:
        since = " runnable" if queued.seconds is None else f" runnable for {queued.seconds:.1f} s"
        yield f"    {task_text(queued.who)}{since}"
    if len(queue.waiting) > _MOST_QUEUED:
        yield f"    and {len(queue.waiting) - _MOST_QUEUED:,} more"
