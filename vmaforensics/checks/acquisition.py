"""Did the machine stand still while its memory was read?

All clocks of a kernel agree within a few hundredths of a second (those of a machine that panicked apart, whose CPUs
stop one after the other). In an image that was taken while the machine ran they are as far apart as their pages were
read.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.views.clocks.reading_times import AGREE, believe, estimate
from vmaforensics.views.clocks.samples import Clock
from vmaforensics.views.problems import Problem

if TYPE_CHECKING:
    from vmaforensics.views.clocks.clocks import ClocksView
    from vmaforensics.views.clocks.reading_times import ReadingTimes
    from vmaforensics.views.clocks.samples import TimeSamples
    from vmaforensics.views.problems import Problems

_MOST_ERROR = 4  # the line may miss an exact clock by this part of the duration
_MOST_WILD = 4  # pages that seem to have been read after one behind them; of live images one at most, half made tasks
_FAR = 1 << 20  # bytes between clocks that agree, for that to mean anything
_MANY_PLACES, _MANY_KINDS = 16, 3  # that links lead from to memory that holds something else, and records they are of
_GRAIN = 4096  # bytes; places that are further apart count
# Jiffies lose ticks, and these are made of them: they say how old a page is at least, but not to a tenth of a second.
_LOSE_TICKS = (Clock.JIFFIES, Clock.RCU, Clock.TIMER_WHEEL)


class Acquired(StrEnum):
    """How memory was read."""

    ATOMIC = "atomic"  # while the machine stood still
    LIVE = "live"  # while it ran
    UNKNOWN = "unknown"  # there are not enough clocks to tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquisition:
    """How the image was acquired, and how that is known."""

    how: Acquired
    by_clocks: Acquired  # what the clocks say; ``how`` differs where it was given
    panicked: bool  # the kernel had stopped: its clocks are not asked
    spread: int  # ns between the oldest exact clock and the newest clock
    stale: int = 0  # links that lead to memory that holds something else, if there are too many for one moment
    given: bool = False
    times: ReadingTimes | None = None  # when each page was read; None: at one moment, or it cannot be told
    clocks: ClocksView | None = None

    @property
    def live(self) -> bool:
        """Were pages read at different moments?"""
        return self.how is Acquired.LIVE


def judge(clocks: ClocksView | None, given: Acquired | None = None, problems: Problems | None = None) -> Acquisition:
    """How an image with these clocks was acquired; ``given`` overrules them, and what walks met (``problems``) those
    that all lie in memory of one moment."""
    by_clocks, spread, times = (Acquired.UNKNOWN, 0, None) if clocks is None else _by_clocks(clocks)
    panicked = clocks is not None and clocks.panicked
    stale = 0 if problems is None or panicked or by_clocks is Acquired.LIVE else _stale(problems)
    if stale and clocks is not None:  # then one running task that stands still is a clock too
        _, spread, times = _by_samples(clocks, clocks.samples)
    how = given or (Acquired.LIVE if stale else by_clocks)
    return Acquisition(
        how=how,
        by_clocks=by_clocks,
        panicked=panicked,
        spread=spread,
        stale=stale,
        given=given is not None,
        times=times if how is Acquired.LIVE else None,
        clocks=clocks,
    )


def _stale(problems: Problems) -> int:
    """How many links, of several kinds and all over memory, lead to what holds something else; 0 for no more than what
    is overwritten by mistake or by hand.

    In an image of one moment there is none. Where the clocks lie in pages of one moment and other pages are of another
    one, what was freed in between is led to from everywhere.
    """
    stale = problems.take(np.flatnonzero(problems.problem == Problem.STALE))
    places = distinct(stale.where // np.uint64(_GRAIN))
    many = len(places) >= _MANY_PLACES and len(distinct(stale.view)) >= _MANY_KINDS
    return len(stale) if many else 0


def _in_order(times: ReadingTimes | None) -> ReadingTimes | None:
    """``times``, unless exact clocks contradict an order of reading by ascending addresses."""
    return None if times is None or _MOST_ERROR * times.error > times.end - times.start else times


def _by_clocks(clocks: ClocksView) -> tuple[Acquired, int, ReadingTimes | None]:
    """(what they say, ns they are apart, the estimate if they were read one after the other).

    The clocks of the kernel may all lie in one part of memory that was read at one moment. Then tasks are asked that
    were running: two of them that stand still tell of another moment.
    """
    runs = clocks.samples.clock == Clock.TASK_RUNS
    found = _by_samples(clocks, clocks.samples.take(np.flatnonzero(~runs)))
    if clocks.panicked:
        return found
    if found[0] is Acquired.LIVE:  # then they are clocks like others, which often lie where there are none
        return found if found[2] is None else _by_samples(clocks, clocks.samples)
    behind = clocks.samples.pa[runs & (clocks.samples.time < clocks.bases.now - AGREE)]
    pages = distinct(behind // np.uint64(clocks.places.page_size))
    return _by_samples(clocks, clocks.samples) if len(pages) > 1 else found


def _by_samples(clocks: ClocksView, samples: TimeSamples) -> tuple[Acquired, int, ReadingTimes | None]:
    ranges = clocks.places.ranges
    sharp = samples.take(np.flatnonzero(~np.isin(samples.clock, _LOSE_TICKS)))
    believed = believe(sharp, ranges)
    if not len(believed.exact):
        return (Acquired.ATOMIC if clocks.panicked else Acquired.UNKNOWN), 0, None
    oldest = int(sharp.time[believed.exact].min())
    rows = sharp.take(np.concatenate([believed.exact, believed.lower]))
    late = rows.take(np.flatnonzero(rows.time > oldest + AGREE))
    spread = int(rows.time.max()) - oldest
    if clocks.panicked:
        return Acquired.ATOMIC, spread, None
    torn = distinct(sharp.pa[believed.torn] // np.uint64(clocks.places.page_size))
    if (
        len(torn) > _MOST_WILD
    ):  # memory was read in no order, and all clocks that are exact may lie in pages of one moment
        return Acquired.LIVE, max(spread, int(sharp.time[believed.torn].max()) - oldest), None
    if len(distinct(late.pa // np.uint64(clocks.places.page_size))) > 1:
        return Acquired.LIVE, spread, _in_order(estimate(samples, ranges))
    same = rows.pa[np.abs(rows.time - np.int64(oldest)) <= AGREE]
    far = int(same.max()) - int(same.min()) >= _FAR
    return (Acquired.ATOMIC if far else Acquired.UNKNOWN), spread, None
