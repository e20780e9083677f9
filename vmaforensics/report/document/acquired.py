"""How the memory was acquired, as far as the clocks in it say."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Literal

import numpy as np

from vmaforensics.checks.acquisition import Acquired as How
from vmaforensics.report.document.parts import NotAssessed, Part
from vmaforensics.views.clocks.samples import Bound, Clock
from vmaforensics.words.amounts import counted
from vmaforensics.words.printable import printable
from vmaforensics.words.times import utc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vmaforensics.analysis import Analysis
    from vmaforensics.checks.finding import ReadApart as Apart
    from vmaforensics.views.clocks.clocks import ClocksView

_MOST = 64  # knots
_MOST_TORN = 4096  # records that are told
_BOUNDS: dict[Bound, Literal["exact", "lower", "upper"]] = {
    Bound.EXACT: "exact",
    Bound.LOWER: "lower",
    Bound.UPPER: "upper",
}
_MS = 1_000_000  # ns
_SECOND = 1_000_000_000  # ns


class ClockFacts(Part, frozen=True):
    """One kind of clock; times are ms since boot (CLOCK_MONOTONIC)."""

    clock: str
    bound: Literal["exact", "lower", "upper"]  # its page was read then, not before, not after
    samples: int
    oldest: int
    newest: int


class Knot(Part, frozen=True):
    """A point of the estimate, which is a line through them."""

    address: str  # physical
    ms: int  # after the first page was read
    exact: bool  # a clock; else a bound, or an end of memory


class ReadApart(Part, frozen=True):
    """When the records of contradictions of one process were read, and what that makes of these."""

    pid: int  # 0: nobody's, or of many
    comm: str
    rules: tuple[str, ...]
    contradictions: int
    first_ms: int  # after the first page was read
    last_ms: int
    torn: bool  # could not be assessed; else they are among the findings


class Torn(Part, frozen=True):
    """A record of a contradiction that could not be assessed: what another acquisition is asked for."""

    rule: str
    severity: Literal["critical", "high", "medium", "low", "info"]  # if it is no smear
    pid: int
    comm: str
    mm: str
    what: str
    view: str
    address: str
    found: str
    expected: str


class Acquired(Part, frozen=True):
    """Whether the machine stood still, or when each part of its memory was read."""

    how: Literal["atomic", "live", "unknown"]
    given: bool  # by --acquired, whatever the clocks say
    by_clocks: Literal["atomic", "live", "unknown"]
    panicked: bool  # the kernel had stopped: its clocks are not asked
    apart_ms: int  # between the oldest exact clock and the newest clock
    stale_links: int = 0  # that lead to memory that holds something else: then pages are of different moments
    torn_slabs: int = 0  # whose free objects are not those that their struct pages count: the same
    start: str | None = None  # UTC, as the machine had it; null unless it is live and could be estimated
    end: str | None = None
    duration_ms: int | None = None
    band_ms: int | None = None  # the largest error that any of these times may have
    left_out_ms: int | None = None  # the largest error of the estimate at a clock that it is made without
    wild: int = 0  # times that contradict the rest
    clocks: tuple[ClockFacts, ...] = ()
    knots: tuple[Knot, ...] = ()
    records: tuple[ReadApart, ...] = ()
    torn: tuple[Torn, ...] = ()

    @property
    def text(self) -> str:
        """In a sentence."""
        if self.how == "live":
            said = f"acquired between {self.start} and {self.end} ({(self.duration_ms or 0) / 1000:.1f} s)"
            said = f"{said} while the machine ran" if self.start else "acquired while the machine ran"
            if why := " and ".join(self._contradictions()):
                said = f"{said if self.start else 'pages of different moments'}: {why}"
                said += "" if self.given else "; if the machine stood still, they were broken: see --acquired atomic"
        elif self.how == "atomic":
            said = "the kernel had stopped" if self.panicked else "the machine stood still"
            if self.by_clocks == "atomic" and not self.panicked:
                number = sum(row.samples for row in self.clocks if row.bound != "upper")
                said += (
                    f": none of {counted(number, 'time')} in memory is more than {self.apart_ms} ms ahead of its clocks"
                )
        else:
            said = "too few clocks to tell whether the machine stood still; taken as if it did"
        if self.given and self.by_clocks not in ("unknown", self.how):
            said += f" (as was asked for; its clocks are {self.apart_ms} ms apart and say: {self.by_clocks})"
        elif self.given:
            said += " (as was asked for)"
        return said

    def _contradictions(self) -> Iterator[str]:
        if self.stale_links:
            lead = "leads" if self.stale_links == 1 else "lead"
            yield f"{counted(self.stale_links, 'link')} {lead} to what is something else"
        if self.torn_slabs:
            yield f"the free objects of {counted(self.torn_slabs, 'slab')} are not those that others count"


def acquired_part(analysis: Analysis) -> Acquired:
    """The part of the document."""
    acquisition = analysis.context.acquisition
    clocks, times = acquisition.clocks, acquisition.times
    part = Acquired(
        how=acquisition.how.value,
        given=acquisition.given,
        by_clocks=acquisition.by_clocks.value,
        panicked=acquisition.panicked,
        apart_ms=round(acquisition.spread / _MS),
        stale_links=acquisition.stale,
        torn_slabs=acquisition.torn,
        clocks=() if clocks is None else _clocks(clocks),
        torn=tuple(itertools.islice(_torn_records(analysis.context.read_apart), _MOST_TORN)),
    )
    if acquisition.how is not How.LIVE or clocks is None or times is None:
        return part
    real = clocks.bases.real
    places = np.linspace(0, len(times.place) - 1, min(len(times.place), _MOST)).astype(np.int64)
    addresses = times.address_of(times.place[places])
    found = times.at(addresses)
    widest = np.maximum(found.latest - found.time, found.time - found.earliest)
    return Acquired(
        how=part.how,
        given=part.given,
        by_clocks=part.by_clocks,
        panicked=part.panicked,
        apart_ms=part.apart_ms,
        stale_links=part.stale_links,
        torn_slabs=part.torn_slabs,
        start=utc((real + times.start) // _SECOND),
        end=utc((real + times.end) // _SECOND),
        duration_ms=round((times.end - times.start) / _MS),
        band_ms=round(int(widest.max()) / _MS),
        left_out_ms=round(times.error / _MS),
        wild=times.wild,
        clocks=part.clocks,
        knots=tuple(
            Knot(address=hex(address), ms=round((moment - times.start) / _MS), exact=exact)
            for address, moment, exact in zip(
                addresses.tolist(), times.time[places].tolist(), times.exact[places].tolist(), strict=True
            )
        ),
        records=tuple(_records(row, times.start) for row in analysis.context.read_apart if row.last),
        torn=part.torn,
    )


def _records(row: Apart, start: int) -> ReadApart:
    return ReadApart(
        pid=row.pid,
        comm=printable(row.comm),
        rules=row.rules,
        contradictions=row.count,
        first_ms=round((row.first - start) / _MS),
        last_ms=round((row.last - start) / _MS),
        torn=row.torn,
    )


def _torn_records(rows: Iterable[Apart]) -> Iterator[Torn]:
    for finding in (finding for row in rows if row.torn for finding in row.findings):
        lowered = any(item.view == "lock" for item in finding.evidence)
        severity = finding.rule.severity if lowered else finding.severity
        for item in finding.evidence:
            if item.address and item.view != "lock":
                yield Torn(
                    rule=finding.rule.id,
                    severity=severity.value,
                    pid=finding.pid,
                    comm=printable(finding.comm),
                    mm=hex(finding.mm),
                    what=item.what,
                    view=item.view,
                    address=hex(item.address),
                    found=item.found,
                    expected=item.expected,
                )


def _clocks(view: ClocksView) -> tuple[ClockFacts, ...]:
    rows = []
    for clock in Clock:
        for bound in Bound:
            times = view.samples.time[(view.samples.clock == clock) & (view.samples.bound == bound)]
            if len(times):
                rows.append(
                    ClockFacts(
                        clock=clock.label,
                        bound=_BOUNDS[bound],
                        samples=len(times),
                        oldest=round(int(times.min()) / _MS),
                        newest=round(int(times.max()) / _MS),
                    )
                )
    return tuple(rows)


def torn_parts(analysis: Analysis) -> list[NotAssessed]:
    """What contradicts itself only, perhaps, because its records were read at different moments: a row a process."""
    return [_torn(row) for row in analysis.context.read_apart if row.torn]


def _torn(row: Apart) -> NotAssessed:
    whose = f"the records of {printable(row.comm)}" if row.pid else "records of many processes"
    contradictions = counted(row.count, "contradiction")
    why = "while it ran" if row.pid and row.ran else "while others wrote them"
    apart = f"read up to {row.apart / _SECOND:.1f} s apart " if row.apart else "read at different moments "
    settle = "a second acquisition and `vmaforensics diff` tell: what is torn does not stay"
    return NotAssessed(
        what=f"{contradictions} in {whose} ({', '.join(row.rules)})",
        why=f"{apart}{why}; {settle}",
        pid=row.pid or None,
        count=row.count,
    )
