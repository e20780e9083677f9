"""Did the machine stand still while its memory was read?

All clocks of a kernel agree within a few hundredths of a second (those of a machine that panicked apart, whose CPUs
stop one after the other). In an image that was taken while the machine ran they are as far apart as their pages were
read.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.views.clocks.reading_times import AGREE, believe, estimate
from vmaforensics.views.clocks.samples import Clock
from vmaforensics.views.problems import Problem, Problems
from vmaforensics.views.slab.torn_slabs import TornSlabs

if TYPE_CHECKING:
    from vmaforensics.views.clocks.clocks import ClocksView
    from vmaforensics.views.clocks.reading_times import ReadingTimes
    from vmaforensics.views.clocks.samples import TimeSamples

_MOST_ERROR = 4  # the line may miss an exact clock by this part of the duration
_MOST_WILD = 4  # pages that seem to have been read after one behind them; of live images one at most, half made tasks
_FAR = 1 << 20  # bytes between clocks that agree, for that to mean anything
# That links lead from to memory that holds something else, and records they are of; a cache with torn slabs is one too
_MANY_PLACES, _MANY_KINDS = 16, 3
_SLAB = 6  # as many places a torn slab weighs: no edit of a record makes one
# Where a host lets a virtual CPU wait, its clock and that of what runs on it stay behind: 0.14 s were seen. What reads
# all of memory takes longer, and while it does free objects change in every machine.
_STARVED = 250_000_000  # ns
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
    torn: int = 0  # slabs whose free objects are not those that their struct page counts, if there are too many
    given: bool = False
    times: ReadingTimes | None = None  # when each page was read; None: at one moment, or it cannot be told
    clocks: ClocksView | None = None

    @property
    def live(self) -> bool:
        """Were pages read at different moments?"""
        return self.how is Acquired.LIVE


def judge(
    clocks: ClocksView | None,
    given: Acquired | None = None,
    problems: Problems | None = None,
    slabs: TornSlabs | None = None,
) -> Acquisition:
    """How an image with these clocks was acquired; ``given`` overrules them, and what walks met (``problems``) and
    ``slabs`` that are of another moment than their struct pages those that all lie in memory of one moment."""
    by_clocks, spread, times = (Acquired.UNKNOWN, 0, None) if clocks is None else _by_clocks(clocks)
    panicked = clocks is not None and clocks.panicked
    if by_clocks is Acquired.LIVE and spread <= _STARVED and _agree(problems, slabs):
        by_clocks, times = Acquired.ATOMIC, None
    told = panicked or by_clocks is Acquired.LIVE
    stale, torn = _Contradictions() if told else _contradictions(problems, slabs)
    if (stale or torn) and clocks is not None:  # then one running task that stands still is a clock too
        _, spread, times = _by_samples(clocks, clocks.samples)
    how = given or (Acquired.LIVE if stale or torn else by_clocks)
    return Acquisition(
        how=how,
        by_clocks=by_clocks,
        panicked=panicked,
        spread=spread,
        stale=stale,
        torn=torn,
        given=given is not None,
        times=times if how is Acquired.LIVE else None,
        clocks=clocks,
    )


class _Contradictions(NamedTuple):
    stale: int = 0  # links that lead to memory that holds something else
    torn: int = 0  # slabs whose free objects are not those that others count


def _agree(problems: Problems | None, slabs: TornSlabs | None) -> bool:
    """Does nothing else than clocks say that pages were read at different moments?"""
    if problems is None or slabs is None:
        return False
    return not len(slabs) and not (problems.problem == Problem.STALE).any()


def _contradictions(problems: Problems | None, slabs: TornSlabs | None) -> _Contradictions:
    """What contradicts itself, of several kinds and all over memory; nothing if it is no more than what is overwritten
    by mistake or by hand.

    In an image of one moment there is none. Where the clocks lie in pages of one moment and other pages are of another
    one, what was freed in between is led to from everywhere, and the lists of free objects are no more what is counted.
    Few links can be broken by hand, and the slabs of a cache or two by who makes use of an error of the kernel.
    """
    stale = Problems.zeros(0) if problems is None else problems.take(problems.problem == Problem.STALE)
    slabs = TornSlabs.zeros(0) if slabs is None else slabs
    weight = len(distinct(stale.where // np.uint64(_GRAIN))) + _SLAB * len(slabs)
    kinds = len(distinct(stale.view)) + len(distinct(slabs.cache))
    many = weight >= _MANY_PLACES and kinds >= _MANY_KINDS
    return _Contradictions(len(stale), len(slabs)) if many else _Contradictions()


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
