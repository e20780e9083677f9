"""A table of times found in memory: each says when its own page was read, exactly, at the earliest or at the latest."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I64, U8, U64

if TYPE_CHECKING:
    from vmaforensics.columns.types import Bools
    from vmaforensics.kernel.kernel import Kernel

LATEST = 1 << 59  # ns: no machine has been up for 18 years


class Bound(IntEnum):
    """What a time says of the moment at which its page was read."""

    EXACT = 0  # that moment, up to a tick, while the machine runs
    LOWER = 1  # not before it
    UPPER = 2  # not after it, but for some latency


class Clock(IntEnum):
    """Where a time comes from."""

    JIFFIES = 0
    TIMEKEEPER = 1
    VDSO = 2
    RUN_QUEUE = 3
    TICK = 4
    TIMER_WHEEL = 5
    RCU = 6
    LOG = 7
    TASK_RAN = 8
    TASK_STARTED = 9
    TIMER = 10
    TASK_RUNS = 11

    @property
    def label(self) -> str:
        """The variable or member that holds it."""
        return (
            "jiffies_64",
            "timekeeper",
            "vdso data",
            "rq->clock",
            "tick_sched",
            "timer_base.clk",
            "rcu_state",
            "time stamps of the log",
            "last run of tasks",
            "start of tasks",
            "timers that were queued",
            "tasks that were running",
        )[self]


@table()
class TimeSamples(Table):
    """Times in memory; a row is a word. Sorted by address."""

    pa: U64  # physical address of the word
    time: I64  # ns of CLOCK_MONOTONIC
    bound: U8  # a Bound
    clock: U8  # a Clock


def samples_at(
    kernel: Kernel, clock: Clock, addresses: U64, times: I64, ok: Bools, *, bound: Bound | U8 = Bound.LOWER
) -> TimeSamples:
    """Rows for the words at kernel ``addresses`` that hold ``times``; without those that are not ``ok`` or no time."""
    where = kernel.space.translate(addresses)
    rows = TimeSamples.zeros(len(addresses))
    rows.pa[:], rows.time[:], rows.bound[:], rows.clock[:] = where.pa, times, bound, clock
    return rows.take(np.flatnonzero(ok & where.mapped & (times > 0) & (times < LATEST)))
