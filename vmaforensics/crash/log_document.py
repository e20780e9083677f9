"""The kernel's log as a document: what ``log --format json`` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from vmaforensics.proc.log import LEVELS, caller_name, facility_name, text_lines
from vmaforensics.views.log.records import LOG_KERN, RecordState
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmaforensics.views.log.records import Log

_STATES = {
    RecordState.WHOLE: "whole",
    RecordState.OPEN: "open",
    RecordState.UNFINISHED: "unfinished",
    RecordState.BUFFERED: "buffered",
}


class LogSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which format this is."""

    name: str = "vmaforensics-log"
    version: str = "1.0"


class LogRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A record; ``from_kernel`` says that the kernel wrote it, and no program."""

    seq: int | None  # null for what is not in the log yet
    time: str | None  # seconds since boot, to the nanosecond
    level: str
    facility: str
    from_kernel: bool
    state: str  # whole, open, unfinished, buffered
    text: str  # lines separated by newlines; nothing else in it acts on a terminal
    caller: str | None = None  # T and a thread id, or C and a CPU
    comm: str = ""  # of that thread, where the kernel keeps it (7.x)
    lost: bool = False  # the text could not be read


class LogDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The log, or a part of it."""

    schema: LogSchema
    source: str
    overwritten: int  # records since boot that newer ones have taken the place of
    failed: int  # records for which there was no room
    problems: tuple[str, ...]
    records: list[LogRecord]


def log_document(log: Log, rows: Iterable[int]) -> LogDocument:
    """The document of the records ``rows``."""
    return LogDocument(
        schema=LogSchema(),
        source=log.source,
        overwritten=log.overwritten,
        failed=log.failed,
        problems=log.problems,
        records=[_record(log, row) for row in rows],
    )


def _record(log: Log, row: int) -> LogRecord:
    records = log.records
    state, time = RecordState(int(records.state[row])), int(records.time[row])
    buffered = state == RecordState.BUFFERED
    return LogRecord(
        seq=None if buffered else int(records.seq[row]),
        time=None if buffered else f"{time // 10**9}.{time % 10**9:09d}",
        level=LEVELS[int(records.level[row]) % len(LEVELS)],
        facility=facility_name(int(records.facility[row])),
        from_kernel=bool(records.facility[row] == LOG_KERN),
        state=_STATES[state],
        text="\n".join(text_lines(log.text(row))),
        caller=caller_name(int(records.caller[row])),
        comm=printable(records.comm[row].split(b"\0", 1)[0]),
        lost=bool(records.lost[row]),
    )
