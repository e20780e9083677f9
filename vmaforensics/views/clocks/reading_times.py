"""When each part of memory was read, estimated from the clocks that lie in it.

An acquisition of a running machine reads memory in ascending order. So the moment of reading, as a function of the
place, never falls: it goes through the exact clocks and above all lower bounds. Between exact clocks it is taken to be
the upper hull of the lower bounds there, outside of them a line as steep as these and the bounds make it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import last_rows_of
from vmaforensics.views.clocks.samples import LATEST, Bound, Clock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vmaforensics.columns.types import I64, U64, Bools
    from vmaforensics.views.clocks.samples import TimeSamples

TICK = 10_000_000  # ns; the longest there is (HZ=100): what clocks that say the same may differ by

# ns; of 160 images of machines that stood still, the clocks of none were more than half of it apart
AGREE = 100_000_000
_SPREAD = 0.3  # how much faster or slower than between exact clocks memory may be read for a while
_COARSE = 0.01  # of the whole: what the steps of an acquisition in large pieces, and its pauses, leave unseen
_FASTEST = 4  # times the mean speed; behind all exact clocks, no more is believed
_STEEPEST = 1.5  # times the mean speed, outside of exact clocks
_STALLED = 4  # times as long as in the mean, that a part of memory may have taken before the first exact clock
_SLOWER = 2  # times as long as the line says, before the first exact clock, at least: acquisitions start slowly


class Times(NamedTuple):
    """Estimated moments, and what the true ones lie between: arrays of one length, ns of CLOCK_MONOTONIC."""

    time: I64
    earliest: I64  # whatever the speed: no page before it was read later
    latest: I64  # as estimated, with its error
    by: I64  # the next exact clock, whatever the speed in between: none can be later


class Floor(NamedTuple):
    """A staircase: from each place on, memory was read no earlier than the time; both ascend. Never empty."""

    place: NDArray[np.float64]
    time: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingTimes:
    """The estimate: a line through knots, over bytes of RAM in the order of reading."""

    starts: U64  # first address of each range of RAM, ascending
    before: I64  # bytes of RAM below each range
    place: NDArray[np.float64]  # of each knot, in bytes read before it
    time: NDArray[np.float64]  # of each knot, ns
    exact: Bools  # is the knot an exact clock?
    floor: Floor  # what no estimate may fall below
    begun: int  # ns: before it nothing was read, even if memory was read slowly before the first exact clock
    wild: int  # samples that contradict the rest
    error: int  # ns: the largest error at an exact clock when it is left out; 0 if none can be

    @property
    def start(self) -> int:
        """When the first byte was read, ns."""
        return int(self.time[0])

    @property
    def end(self) -> int:
        """When the last byte was read, ns."""
        return int(self.time[-1])

    def address_of(self, place: NDArray[np.float64]) -> U64:
        """The physical address of the byte before which so many were read."""
        row = np.maximum(last_rows_of(self.before.astype(np.float64), place), 0)
        return self.starts[row] + (place - self.before[row]).astype(np.uint64)

    def at(self, pa: U64) -> Times:
        """When the bytes at physical addresses ``pa`` were read."""
        places = places_of(self.starts, self.before, pa)
        time = np.interp(places, self.place, self.time)
        known = self.time[self.exact]
        row = np.clip(np.searchsorted(known, time), 1, max(len(known) - 1, 1))
        near = np.abs(time - known[np.minimum(row, len(known) - 1)])
        near = np.minimum(near, np.abs(time - known[row - 1]))
        band = TICK + max(_COARSE * (self.end - self.start), self.error) + _SPREAD * near
        low = last_rows_of(self.floor.place, places)
        least = np.where(low >= 0, self.floor.time[np.maximum(low, 0)], -np.inf) if len(low) else time
        earliest = np.minimum(np.maximum(least - TICK, self.begun), time)
        latest = time + band
        following = np.searchsorted(self.place[self.exact], places)
        by = np.where(following < len(known), known[np.minimum(following, len(known) - 1)] + TICK, latest)
        return Times(*(part.astype(np.int64) for part in (time, earliest, latest, np.maximum(by, latest))))


def places_of(starts: U64, before: I64, pa: U64) -> NDArray[np.float64]:
    """How many bytes of RAM lie below each address."""
    row = np.maximum(last_rows_of(starts, pa), 0)
    return (before[row] + (pa - starts[row]).astype(np.int64)).astype(np.float64)


class Believed(NamedTuple):
    """Rows of samples that can all be true of memory that was read in ascending order."""

    exact: I64  # in that order, a row for each place
    lower: I64
    wild: I64  # lower bounds that cannot be
    torn: I64  # of these, by far: no half made task, if there are many


def believe(samples: TimeSamples, ranges: Sequence[tuple[int, int]]) -> Believed:
    """What of ``samples`` (sorted by address) in the memory of ``ranges`` (ascending) holds together."""
    rows = np.flatnonzero(_within(samples.pa, ranges))
    exact, stale = _ascending(samples, rows)
    lower = rows[samples.bound[rows] == Bound.LOWER]
    lower = np.sort(np.concatenate([lower, stale[samples.clock[stale] != Clock.JIFFIES]]))
    # No page before an exact clock was read after it.
    limit = np.append(samples.time[exact], np.int64(1) << 62)[np.searchsorted(samples.pa[exact], samples.pa[lower])]
    fits = samples.time[lower] <= limit + TICK
    return Believed(exact, lower[fits], lower[~fits], lower[samples.time[lower] > limit + AGREE])


def estimate(samples: TimeSamples, ranges: Sequence[tuple[int, int]]) -> ReadingTimes | None:
    """The estimate from ``samples`` (sorted by address) of memory in ``ranges`` (ascending); None without an exact
    clock, or where all clocks lie in one place."""
    starts = np.array([start for start, _ in ranges], np.uint64)
    sizes = np.array([end - start for start, end in ranges], np.int64)
    before = np.cumsum(sizes) - sizes
    believed = believe(samples, ranges)
    if not len(believed.exact):
        return None

    def points(rows: I64) -> _Points:
        return _Points(places_of(starts, before, samples.pa[rows]), samples.time[rows].astype(np.float64))

    anchors, bounds = points(believed.exact), points(believed.lower)
    upper = points(np.flatnonzero((samples.bound == Bound.UPPER) & _within(samples.pa, ranges)))
    speed = _speed(anchors, bounds)
    if speed is None:
        return None
    line = _line(anchors, bounds, upper, float(sizes.sum()), speed)
    return ReadingTimes(
        starts=starts,
        before=before,
        place=line.place,
        time=line.time,
        exact=np.isin(line.place, anchors.place),
        floor=_floor(anchors, bounds, line),
        begun=_begun(anchors, bounds, line, speed),
        wild=len(believed.wild),
        error=_left_out(anchors, bounds, float(sizes.sum())),
    )


class _Points(NamedTuple):
    place: NDArray[np.float64]
    time: NDArray[np.float64]

    def where(self, chosen: Bools) -> _Points:
        return _Points(self.place[chosen], self.time[chosen])


def _within(pa: U64, ranges: Sequence[tuple[int, int]]) -> Bools:
    starts = np.array([start for start, _ in ranges], np.uint64)
    ends = np.array([end for _, end in ranges], np.uint64)
    row = last_rows_of(starts, pa)
    inside: Bools = (row >= 0) & (pa < ends[np.maximum(row, 0)])
    return inside


def _ascending(samples: TimeSamples, rows: I64) -> tuple[I64, I64]:
    """Of ``rows``, (exact clocks that can all be, by place; exact ones that stood still).

    A CPU that went idle or hangs keeps its clock, and jiffies may have lost ticks: those are no more than lower bounds.
    The timekeeper is believed; of the others the largest set that ascends with it is taken.
    """
    rows = rows[samples.bound[rows] == Bound.EXACT]
    chains: list[list[int]] = []
    for row in rows.tolist():
        fitting = [chain for chain in chains if samples.time[chain[-1]] <= samples.time[row] + TICK]
        chains.append([*max(fitting, key=len, default=[]), row])
    keeper = set(rows[samples.clock[rows] == Clock.TIMEKEEPER].tolist())
    chain = max(chains, key=lambda chain: (bool(keeper & set(chain)), len(chain)), default=[])
    last = {int(samples.pa[row]): row for row in chain}  # of clocks at one address, one
    return np.array(sorted(last.values()), np.int64), np.setdiff1d(rows, chain)


def _speed(anchors: _Points, bounds: _Points) -> float | None:
    """ns a byte over all that is known; None if all of it lies in one place."""
    far, last = anchors.place[-1] - anchors.place[0], anchors.time[-1] - anchors.time[0]
    if far > 0 and last > TICK:
        return float(last / far)
    beyond = bounds.where((bounds.place > anchors.place[-1]) & (bounds.time > anchors.time[-1] + TICK))
    if len(beyond.place):
        return float(np.max((beyond.time - anchors.time[-1]) / (beyond.place - anchors.place[-1])))
    before = bounds.where((bounds.place < anchors.place[0]) & (bounds.time < anchors.time[0]))
    if not len(before.place):
        return None
    return float(np.min((anchors.time[0] - before.time) / (anchors.place[0] - before.place)))


def _line(anchors: _Points, bounds: _Points, upper: _Points, size: float, speed: float) -> _Points:
    bounds = bounds.where(bounds.time <= anchors.time[-1] + _FASTEST * speed * (size - anchors.place[-1]) + TICK)
    first, last = (anchors.place[0], anchors.time[0]), (anchors.place[-1], anchors.time[-1])
    slope = _slope_before(anchors, bounds)
    slope = slope if slope <= _STEEPEST * speed else speed  # older bounds than that say nothing
    place, time = [0.0], [first[1] - slope * first[0]]
    for number, (at, then) in enumerate(zip(anchors.place.tolist(), anchors.time.tolist(), strict=True)):
        if number:
            low = anchors.place[number - 1]
            between = bounds.where((bounds.place > low) & (bounds.place < at) & (bounds.time > time[-1]))
            for spot, moment in _hull((place[-1], time[-1]), between, (at, then)):
                place.append(spot)
                time.append(moment)
        if at > place[-1]:
            place.append(at)
            time.append(max(then, time[-1]))
    beyond = bounds.where(bounds.place > last[0])
    least = _least_slope(last, beyond, speed)
    limits = upper.where(upper.place > last[0])
    most = float(np.min((limits.time - last[1]) / (limits.place - last[0]), initial=np.inf))
    if size > place[-1]:
        place.append(size)
        time.append(time[-1] + max(least, min(speed, max(most, 0.0))) * (size - last[0]))
    # Wild clocks make it as steep as can be: what is reckoned from it has to be a number still.
    return _Points(np.array(place), np.clip(np.array(time), -LATEST, 2 * LATEST))


def _slope_before(anchors: _Points, bounds: _Points) -> float:
    """Of the least steep line to the first exact clock that lies above the bounds there; infinite where none are."""
    before = bounds.where(bounds.place < anchors.place[0])
    slopes = (anchors.time[0] - before.time) / (anchors.place[0] - before.place)
    return max(float(np.min(slopes, initial=np.inf)), 0.0)


def _begun(anchors: _Points, bounds: _Points, line: _Points, speed: float) -> int:
    """Before when nothing was read, at a guess that is early: a bound only tells that it was not read before.

    Whoever acquires memory to a disk may stand still for a while before the first clock: until others have been pushed
    out of memory, for one.
    """
    slope = min(_SLOWER * _slope_before(anchors, bounds), _STALLED * speed)
    early = anchors.time[0] - slope * anchors.place[0]
    return max(int(min(early, line.time[0])) - TICK, 0)


def _least_slope(last: tuple[float, float], beyond: _Points, speed: float) -> float:
    """How steep the line behind the last exact clock has to be to lie above the bounds there.

    What would have it several times as steep as all before is wild, unless it is not alone.
    """
    slopes = np.sort((beyond.time - last[1]) / (beyond.place - last[0]))
    while len(slopes) > 1 and slopes[-1] > 2 * _STEEPEST * max(speed, slopes[-2]):
        slopes = slopes[:-1]
    return float(slopes[-1]) if len(slopes) else 0.0


def _hull(left: tuple[float, float], points: _Points, right: tuple[float, float]) -> list[tuple[float, float]]:
    """Vertices of the upper hull strictly between two knots."""
    kept = [left]
    order = np.argsort(points.place, kind="stable")
    within = [
        (spot, min(moment, right[1]))
        for spot, moment in zip(points.place[order].tolist(), points.time[order].tolist(), strict=True)
    ]
    for spot in [*within, right]:
        while len(kept) > 1 and _above(kept[-2], kept[-1], spot):
            kept.pop()
        kept.append(spot)
    return kept[1:-1]


def _above(first: tuple[float, float], middle: tuple[float, float], last: tuple[float, float]) -> bool:
    """Does the line from first to last pass above the middle?"""
    rise = (last[1] - first[1]) * (middle[0] - first[0])
    return rise >= (middle[1] - first[1]) * (last[0] - first[0])


def _floor(anchors: _Points, bounds: _Points, line: _Points) -> Floor:
    """The running maximum of what was read at the earliest; what the line itself had to leave out is left out here."""
    place, time = np.concatenate([anchors.place, bounds.place]), np.concatenate([anchors.time, bounds.time])
    believed = time <= np.interp(place, line.place, line.time) + TICK
    order = np.argsort(place[believed], kind="stable")
    return Floor(place[believed][order], np.maximum.accumulate(time[believed][order]))


def _left_out(anchors: _Points, bounds: _Points, size: float) -> int:
    """The largest error at an inner exact clock when the rest has to do without it, ns."""
    worst = 0.0
    for number in range(1, len(anchors.place) - 1):
        rest = np.arange(len(anchors.place)) != number
        fewer = anchors.where(rest)
        speed = _speed(fewer, bounds)
        if speed is not None:
            line = _line(fewer, bounds, _Points(np.zeros(0), np.zeros(0)), size, speed)
            missed = float(np.interp(anchors.place[number], line.place, line.time)) - anchors.time[number]
            worst = max(worst, abs(missed))
    return int(worst)
