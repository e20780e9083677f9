# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""Rows for volatility3's grids: how the kernel ended, what it complained of, who waits for whom."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from vmaforensics.crash.trail.text import word_line
from vmaforensics.volatility.layers.adapter import subject_of_layer
from vmaforensics.volatility.rows.regions import NOT_APPLICABLE, Row
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from volatility3.framework.interfaces.context import ContextInterface

    from vmaforensics.crash.document import ComplaintPart, CrashDocument, DeathPart
    from vmaforensics.crash.waits_document import LockPart, WaitsPart
    from vmaforensics.volatility.layers.opened import Subject

log = logging.getLogger(__name__)

COLUMNS: list[tuple[str, type]] = [
    ("Record", str),
    ("Kind", str),
    ("Time", str),
    ("CPU", int),
    ("PID", int),
    ("Process", str),
    ("Text", str),
]


def find_subject(context: ContextInterface, layer_name: str, progress: Callable[[float, str], None]) -> Subject:
    """The image under a layer and its kernel; what was wrong with them goes to the log as warnings.

    Raises :class:`VmaForensicsError` when there is nothing to read.
    """
    progress(0, "Opening the image")
    subject = subject_of_layer(context, layer_name)
    progress(10, f"Looking for the kernel in a {subject.image.format} image")
    for text in (*subject.image.problems, *subject.kernel.identity.problems, *subject.image.memory.problems()):
        log.warning("%s", printable(text))
    return subject


def crash_rows(document: CrashDocument) -> Iterator[tuple[int, Row]]:
    """(level, row of :data:`COLUMNS`): verdict, end, taint, complaints, waits; particulars at level 1."""
    yield 0, _row("verdict", text=document.verdict)
    if document.death is not None:
        yield from _death(document.death)
    for words in document.taint.words:
        yield 0, _row("taint", kind=document.taint.letters, text=words)
    for complaint in document.complaints:
        yield from _complaint(complaint)
    if document.waits is not None:
        yield from _waits(document.waits)
    for item in document.not_assessed:
        yield 0, _row("not assessed", kind=item.what, text=item.why)


def _death(death: DeathPart) -> Iterator[tuple[int, Row]]:
    where = (death.time, death.cpu, death.pid, death.comm)
    yield 0, _row("death", death.kind, *where, text=death.text or death.how)
    yield 1, _row("how", death.kind, text=death.how)
    if death.cause is not None and death.cause != death.text:
        yield 1, _row("cause", death.kind, text=death.cause)
    for evidence in death.evidence:
        yield 1, _row("known by", death.kind, text=evidence)
    if death.fingerprint is not None:
        yield 1, _row("fingerprint", death.kind, text=f"{death.fingerprint}  {' < '.join(death.functions)}")


def _complaint(complaint: ComplaintPart) -> Iterator[tuple[int, Row]]:
    where = (complaint.time, complaint.cpu, complaint.pid, complaint.comm)
    yield 0, _row("complaint", complaint.kind, *where, text=complaint.text)
    if complaint.functions:
        yield 1, _row("in", complaint.kind, text=" < ".join(complaint.functions))
    for word in complaint.words:
        yield 1, _row("broken", word.sure, text=word_line(word))


def _waits(waits: WaitsPart) -> Iterator[tuple[int, Row]]:
    from vmaforensics.crash.waits_text import held_text, lock_text, task_text

    for circle in waits.deadlocks:
        yield 0, _row("deadlock", circle[0].kind, text=_circle(len(circle)))
        for edge in circle:
            text = f"waits for {lock_text(edge.kind, edge.name, edge.lock)}, held by {task_text(edge.owner)}"
            yield 1, _row("waits", edge.kind, None, None, edge.who.pid, edge.who.comm, text=text)
    for lock in waits.locks:
        if lock.waiters:
            text = f"{lock_text(lock.kind, lock.name, lock.address)}: {held_text(lock)}"
            yield 0, _row("lock", lock.kind, text=text)
            yield from _waiters(lock)


def _circle(count: int) -> str:
    """What a deadlock is."""
    return f"{count} tasks, each waits for what the next one holds" if count > 1 else "a task waits for what it holds"


def _waiters(lock: LockPart) -> Iterator[tuple[int, Row]]:
    for waiter in lock.waiters:
        since = "" if waiter.seconds is None else f" for {waiter.seconds:.1f} s"
        wish = f" to {waiter.wants}" if waiter.wants else ""
        where = f" in {waiter.function}" if waiter.function else ""
        text = f"waits{wish}{where}{since} ({waiter.proof})"
        yield 1, _row("waits", lock.kind, None, None, waiter.who.pid, waiter.who.comm, text=text)


def _row(
    record: str,
    kind: str | None = None,
    time: str | None = None,
    cpu: int | None = None,
    pid: int | None = None,
    process: str | None = None,
    *,
    text: str,
) -> Row:
    """A row; what is None does not apply."""
    values: tuple[Any, ...] = (kind, time, cpu, pid, process)
    return (record, *(NOT_APPLICABLE if value is None else value for value in values), text)
