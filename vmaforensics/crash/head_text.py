"""The first lines of a crash case: who died, how, and where."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

from vmaforensics.crash.pointers_text import pointer_summary
from vmaforensics.crash.trail.text import first_words, lead
from vmaforensics.crash.waits_text import wait_summary
from vmaforensics.words.amounts import amount, counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.crash.document import ComplaintPart, CrashDocument, DeathPart

_WIDTH: Final = 100
_LABEL: Final = 12


def head_lines(document: CrashDocument) -> Iterator[str]:
    """Who died, how, and where."""
    machine = document.machine
    yield from _row("VERDICT", document.verdict)
    if document.death is not None:
        yield from _death(document.death)
    yield from first_words(document.complaints)
    if lead(document.complaints) is None:  # else it is said already
        yield from _pointer(document)
    if document.waits is not None and (summary := wait_summary(document.waits)) is not None:
        yield from _row("WAITS", summary)
    dead = None if document.death is None else document.death.cpu
    others = [task for task in document.running if task.cpu != dead]
    for place, task in enumerate(others):
        named = "cannot be read" if task.pid is None else f"pid {task.pid} ({task.comm}), task {task.task}"
        yield from _row("" if place else "RUNNING", f"CPU {task.cpu}: {named}")
    yield from _row("KERNEL", f"{machine.release}, {machine.architecture}")
    version = machine.banner.partition(") #")[2]
    if version:
        yield from _row("VERSION", f"#{version}")
    ram = amount(int(machine.ram, 16))
    online = "online" if document.death is None else "online at the end (a panic takes the others offline)"
    cpus = "" if machine.cpus is None else f"{counted(machine.cpus, 'CPU')} {online}, "
    yield from _row("MACHINE", f"{machine.hardware or 'unknown'}; {cpus}{ram}")
    yield from _row("HOST", ", ".join(_times(document)))
    if machine.command_line is not None:
        yield from _row("COMMAND", machine.command_line)
    yield from _taint(document)
    if counted_in := list(_since_boot(document)):
        yield from _row("SINCE BOOT", ", ".join(counted_in))
    for place, earlier in enumerate(document.earlier):
        written = "" if earlier.written is None else f", written {earlier.written}"
        text = f"memory has the log of an earlier kernel: {earlier.title}{written}; log --earlier shows it"
        yield from _row("" if place else "BEFORE", text)
    yield from _row("IMAGE", f"{document.image.path} ({document.image.format})")


def _death(death: DeathPart) -> Iterator[str]:
    yield from _row("HOW", f"{death.how} ({death.kind})")
    if death.cause is not None and death.cause != death.text:
        yield from _row("BECAUSE", death.cause)
    where = ["CPU unknown" if death.cpu is None else f"CPU {death.cpu}"]
    if death.pid is not None:
        where.append(f"pid {death.pid} ({death.comm})" + (f", task {death.task}" if death.task else ""))
    if death.time is not None:
        where.append(f"{death.time} s after boot")
    yield from _row("WHERE", ", ".join(where))
    for place, evidence in enumerate(death.evidence):
        yield from _row("" if place else "KNOWN BY", evidence)
    if death.fingerprint is not None:
        yield from _row("FINGERPRINT", f"{death.fingerprint}  ({' < '.join([death.kind, *death.functions])})")


def _times(document: CrashDocument) -> Iterator[str]:
    machine = document.machine
    yield machine.hostname or "unknown"
    if machine.booted is not None:
        yield f"booted {machine.booted}"
    if machine.crashed is not None:
        yield f"crashed {machine.crashed}"
    elif machine.clock is not None:
        yield f"clock {machine.clock}"
    if machine.uptime is not None:
        yield f"up {_duration(machine.uptime)}"
    if machine.load is not None:
        yield "load " + " ".join(f"{load:.2f}" for load in machine.load)


def _duration(seconds: int) -> str:
    """Days and a time of day.

    >>> _duration(90061)
    '1 day 01:01:01'
    """
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{counted(days, 'day')} {clock}" if days else clock


def _taint(document: CrashDocument) -> Iterator[str]:
    taint = document.taint
    if taint.mask is None:
        yield from _row("TAINT", "cannot be read")
    elif not taint.letters:
        yield from _row("TAINT", "none")
    for place, words in enumerate(taint.words):
        yield from _row("" if place else "TAINT", words)


def _since_boot(document: CrashDocument) -> Iterator[str]:
    """What the kernel counted."""
    since = document.since_boot
    if since.oopses is not None:
        yield counted(since.oopses, "oops", "es")
    if since.warnings is not None:
        yield counted(since.warnings, "warning")
    if since.printing:
        yield "an oops or a panic was being printed"
    if since.crash_kernel is not None:
        yield f"{'a' if since.crash_kernel else 'no'} crash kernel was loaded"


def _pointer(document: CrashDocument) -> Iterator[str]:
    """Where the pointer leads that could not be used."""
    last = ended(document)
    if document.pointers is None or last is None:
        return
    if (summary := pointer_summary(document.pointers, last.fault)) is not None:
        yield from _row("POINTER", summary)


def ended(document: CrashDocument) -> ComplaintPart | None:
    """The complaint that led to the end and has an address that could not be used."""
    return next((complaint for complaint in document.complaints if complaint.ended and complaint.fault), None)


def _row(label: str, text: str) -> list[str]:
    """A labelled line, wrapped."""
    return textwrap.wrap(
        text, _WIDTH, initial_indent=f"{label:{_LABEL}}", subsequent_indent=" " * _LABEL, break_on_hyphens=False
    ) or [label]
