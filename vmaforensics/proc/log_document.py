"""The kernel's log as a document: what ``log --format json`` writes, and what its text is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec

from vmaforensics.views.log.records import LOG_KERN, NO_CALLER, ON_CPU, RecordState
from vmaforensics.words.printable import comm_of, printable
from vmaforensics.words.times import utc

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmaforensics.views.log.earlier import EarlierLog
    from vmaforensics.views.log.records import Log

StateWord = Literal["whole", "open", "unfinished", "buffered"]
LEVELS: Final = ("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug")
_FACILITIES: Final = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"),
)
_LOCAL: Final = range(16, 24)
_STATES: Final[dict[RecordState, StateWord]] = {
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
    state: StateWord
    text: str  # lines separated by newlines; nothing else in it acts on a terminal
    caller: str | None = None  # T and a thread id, or C and a CPU
    comm: str = ""  # of that thread, where the kernel keeps it (7.x)
    lost: bool = False  # the text could not be read


class EarlierPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The log of an earlier kernel that memory has kept: of ``count`` records those that were asked for."""

    title: str  # why it was kept, and the how-manieth time: "Panic#1"
    address: str  # physical, of its first part
    written: str | None  # when, by the clock of that kernel
    problems: tuple[str, ...]
    count: int
    records: list[LogRecord]


class LogDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The log, or a part of it; ``earlier`` are the logs of kernels before this one."""

    schema: LogSchema
    source: str
    overwritten: int  # records since boot that newer ones have taken the place of
    failed: int  # records for which there was no room
    problems: tuple[str, ...]
    records: list[LogRecord]
    earlier: list[EarlierPart] = []


def log_document(log: Log, rows: Iterable[int], earlier: Iterable[EarlierPart] = ()) -> LogDocument:
    """The document of the records ``rows``."""
    return LogDocument(
        schema=LogSchema(),
        source=log.source,
        overwritten=log.overwritten,
        failed=log.failed,
        problems=log.problems,
        records=[log_record(log, row) for row in rows],
        earlier=list(earlier),
    )


def earlier_part(earlier: EarlierLog, rows: Iterable[int]) -> EarlierPart:
    """An earlier kernel's log, with the records ``rows``."""
    return EarlierPart(
        title=earlier.title,
        address=hex(earlier.physical),
        written=None if earlier.written is None else utc(earlier.written),
        problems=tuple(printable(problem) for problem in earlier.log.problems),
        count=len(earlier.log.records),
        records=[log_record(earlier.log, row) for row in rows],
    )


def log_record(log: Log, row: int) -> LogRecord:
    """One record."""
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
        comm=printable(comm_of(records.comm[row])),
        lost=bool(records.lost[row]),
    )


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
