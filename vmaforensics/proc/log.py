"""The kernel's log as ``dmesg`` prints it: a time and the text of each record, further lines of it indented.

What a program wrote to ``/dev/kmsg`` is marked, for it reads as it likes: the kernel keeps who wrote a record in its
facility, and programs cannot have 0, the kernel's own (``devkmsg_write``, kernel/printk/printk.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vmaforensics.proc.log_document import EarlierPart, LogRecord

_MARKS: Final = {"unfinished": "unfinished", "buffered": "not in the log yet"}
_NO_TIME: Final = f"[{'?':>12}] "


def log_lines(record: LogRecord) -> str:
    """A record as text, its newlines included.

    >>> log_lines(log_record(log, 0))
    '[    0.000000] Linux version 6.1.0-56-amd64 …\\n'
    """
    marks = [] if record.from_kernel else [f"/dev/kmsg {record.facility}"]
    marks += [_MARKS[record.state]] if record.state in _MARKS else []
    marks += ["text lost"] if record.lost else []
    head = _NO_TIME if record.time is None else _timestamp(record.time)
    mark = f"({', '.join(marks)}) " if marks else ""
    return head + mark + record.text.replace("\n", "\n" + " " * len(head)) + "\n"


def earlier_line(earlier: EarlierPart) -> str:
    """What stands above the records of an earlier kernel, its newline included."""
    written = "" if earlier.written is None else f", written {earlier.written}"
    return f"--- {earlier.title} of an earlier kernel, kept by ramoops at physical {earlier.address}{written} ---\n"


def _timestamp(time: str) -> str:
    """Seconds since boot with their microseconds, as the kernel puts them before a line.

    >>> _timestamp("8.691508123")
    '[    8.691508] '
    """
    seconds, _, fraction = time.partition(".")
    return f"[{seconds:>5}.{fraction[:6]}] "
