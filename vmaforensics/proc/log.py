"""The kernel's log as ``dmesg`` prints it: a time and the text of each record, further lines of it indented.

What a program wrote to ``/dev/kmsg`` is marked, for it reads as it likes: the kernel keeps who wrote a record in its
facility, and programs cannot have 0, the kernel's own (``devkmsg_write``, kernel/printk/printk.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vmaforensics.views.log.records import LOG_KERN, NO_CALLER, ON_CPU, RecordState
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from vmaforensics.views.log.records import Log

LEVELS: Final = ("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug")
_FACILITIES: Final = (
    "kern",
    "user",
    "mail",
    "daemon",
    "auth",
    "syslog",
    "lpr",
    "news",
    "uucp",
    "cron",
    "authpriv",
    "ftp",
)
_LOCAL: Final = range(16, 24)
_STATES: Final = {
    RecordState.UNFINISHED: "unfinished",
    RecordState.BUFFERED: "not in the log yet",
}


def timestamp(nanoseconds: int) -> str:
    """Seconds since boot with their microseconds, as the kernel puts them before a line.

    >>> timestamp(8691508123)
    '[    8.691508] '
    """
    return f"[{nanoseconds // 10**9:5d}.{nanoseconds % 10**9 // 1000:06d}] "


def facility_name(facility: int) -> str:
    """What syslog(3) calls a facility, or its number."""
    if facility in _LOCAL:
        return f"local{facility - _LOCAL.start}"
    return _FACILITIES[facility] if facility < len(_FACILITIES) else str(facility)


def caller_name(caller: int) -> str | None:
    """Who printed a record, as with CONFIG_PRINTK_CALLER: T and a thread id, C and a CPU; None where nobody knows."""
    if caller == NO_CALLER:
        return None
    return f"C{caller & ~ON_CPU}" if caller & ON_CPU else f"T{caller}"


def text_lines(raw: bytes) -> list[str]:
    """The lines of a record, fit to be shown; tabs stay."""
    return ["\t".join(printable(part) for part in line.split(b"\t")) for line in raw.split(b"\n")]


def log_lines(log: Log, row: int) -> str:
    """A record as text, its newlines included.

    >>> log_lines(log, 0)
    '[    0.000000] Linux version 6.1.0-56-amd64 …\\n'
    """
    records = log.records
    marks = []
    if records.facility[row] != LOG_KERN:
        marks.append(f"/dev/kmsg {facility_name(int(records.facility[row]))}")
    state = RecordState(int(records.state[row]))
    if state in _STATES:
        marks.append(_STATES[state])
    if records.lost[row]:
        marks.append("text lost")
    stamp = timestamp(int(records.time[row]))
    head = stamp if state != RecordState.BUFFERED else "[" + "?".rjust(len(stamp) - 3) + "] "
    mark = f"({', '.join(marks)}) " if marks else ""
    return head + mark + ("\n" + " " * len(head)).join(text_lines(log.text(row))) + "\n"
