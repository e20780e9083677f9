"""What the kernel complained of in its log: where each complaint begins, which lines are its own, what they say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.crash.patterns import FATAL, INTERRUPTING, PANIC, WORDS, Kind, kind_of, reason_of
from vmaforensics.crash.trace import Particulars, named_task, read_particulars
from vmaforensics.crash.trail.named import Named, read_named
from vmaforensics.views.log.records import LOG_KERN
from vmaforensics.words.printable import decoded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vmaforensics.arch.registers import PrintedRegisters
    from vmaforensics.columns.types import Bools
    from vmaforensics.views.log.records import Log

_MOST: Final = 200  # complaints that are kept: the first and the last of them
_MOST_LINES: Final = 200  # of one complaint
_MOST_LOOKED_AT: Final = 1 << 16  # records that may be complaints, of the first and of the last each
_HEADER: Final = b"CPU: "
_APART: Final = 10 * 10**9  # ns after which a line is another matter
# What follows within one complaint: the reason first, then the exception by which it was raised.
_CONTINUING: Final = frozenset({Kind.BUG, Kind.EXCEPTION, Kind.OOPS})
_BEFORE: Final = FATAL | {Kind.OTHER_BUG, Kind.USE_AFTER_FREE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """One complaint of the kernel."""

    kind: Kind
    row: int  # of its first line, in the log
    time: int  # ns
    caller: int  # that printed it
    title: str  # its first line, as it is: not fit to be shown
    said: Particulars
    named: Named = field(default_factory=Named)  # what its lines name

    @property
    def reason(self) -> Kind:
        """Its kind; of a panic, that of what the panic gives as its reason."""
        return reason_of(self.title.removeprefix(PANIC)) if self.kind == Kind.PANIC else self.kind

    @property
    def functions(self) -> list[str]:
        """Names of the frames that lead to it, innermost first, those left out that are only guesses."""
        frames = self.said.frames
        if self.reason in INTERRUPTING:
            # What was interrupted says what went wrong, not how the interrupt looked into it.
            frames = frames[next((place for place, frame in enumerate(frames) if frame.interrupted), 0) :]
        names = [frame.name for frame in frames if not frame.guess]
        if self.said.place is not None and self.said.place.name not in names[:1]:
            names.insert(0, self.said.place.name)
        return names


class Complaints(NamedTuple):
    """Those that are kept, in the order of the log, and how many there were."""

    kept: list[Complaint]
    total: int  # how many there were


class _Start(NamedTuple):
    row: int
    kind: Kind


def read_complaints(log: Log, printed: PrintedRegisters) -> Complaints:
    """Every complaint in the log. Lines of programs are left out: whatever they say, the kernel did not.

    ``printed`` is how the kernel prints registers on its CPU.
    """
    starts = list(_starts(log))
    half = _MOST // 2
    kept = starts if len(starts) <= _MOST else starts[:half] + starts[-half:]
    begins = {start.row for start in starts}
    return Complaints([_complaint(log, start, begins, printed) for start in kept], len(starts))


def _starts(log: Log) -> Iterator[_Start]:
    """The first line of each complaint."""
    records = log.records
    worth, headers = rows_with(log, WORDS), rows_with(log, (_HEADER,))
    own = np.flatnonzero((records.facility == LOG_KERN) & (worth | headers))
    if len(own) > 2 * _MOST_LOOKED_AT:
        own = np.concatenate([own[:_MOST_LOOKED_AT], own[-_MOST_LOOKED_AT:]])
    callers = records.caller.tolist()
    last: dict[int, _Start] = {}  # of each caller: what it complained of last
    headed: set[int] = set()  # callers that have printed the header of it
    for row in own.tolist():
        raw = log.text(row)
        caller = callers[row]
        if raw.startswith(_HEADER):
            headed.add(caller)
        kind = kind_of(decoded(raw.split(b"\n", 1)[0]))
        if kind is None:
            continue
        before = last.get(caller)
        if kind in _CONTINUING and before is not None and before.kind in _BEFORE and caller not in headed:
            continue
        start = _Start(row, kind)
        last[caller] = start
        headed.discard(caller)
        yield start


def rows_with(log: Log, words: Sequence[bytes]) -> Bools:
    """Which records have one of ``words`` in their text, or one that begins in it."""
    found = [np.zeros(0, np.int64)]
    for word in words:
        places = []
        at = log.data.find(word)
        while at >= 0:
            places.append(at)
            at = log.data.find(word, at + 1)
        found.append(np.array(places, np.int64))
    at_all = np.sort(np.concatenate(found))
    begin, end = log.records.begin, log.records.begin + log.records.size
    has: Bools = ~log.records.lost & (np.searchsorted(at_all, begin) < np.searchsorted(at_all, end))
    return has


def _complaint(log: Log, start: _Start, begins: set[int], printed: PrintedRegisters) -> Complaint:
    """The complaint that begins at ``start``."""
    lines = _lines(log, start.row, begins)
    said = read_particulars(lines, printed)
    title = lines[0] if lines else ""
    if (task := named_task(title)) is not None:
        said.comm, said.pid = task
    return Complaint(
        kind=start.kind,
        row=start.row,
        time=int(log.records.time[start.row]),
        caller=int(log.records.caller[start.row]),
        title=title,
        said=said,
        named=read_named(lines),
    )


def _lines(log: Log, first: int, begins: set[int]) -> Sequence[str]:
    """The lines of one complaint: those that the same caller printed, up to its next or to the end mark."""
    records = log.records
    window = np.arange(first, min(first + 4 * _MOST_LINES, len(records)))
    near = records.time[window] - records.time[first] <= np.uint64(_APART)  # what is earlier is far off, modulo 2**64
    own = (records.facility[window] == LOG_KERN) & (records.caller[window] == records.caller[first]) & near
    found: list[str] = []
    for row in window[own].tolist():
        if row != first and row in begins:
            break
        found += decoded(log.text(row)).split("\n")
        if len(found) >= _MOST_LINES or found[-1].startswith("---[ end "):
            break
    return found[:_MOST_LINES]
