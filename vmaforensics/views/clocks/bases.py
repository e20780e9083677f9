"""Every time on one base, CLOCK_MONOTONIC: what the others have to be shifted or scaled by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I64, U32, U64
from vmaforensics.kernel.machine import read_clock
from vmaforensics.views.clocks.samples import LATEST
from vmaforensics.views.structures.per_cpu import on_each_cpu

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

SECOND = 10**9  # ns
_NTP_SCALE_SHIFT = 32  # include/linux/timex.h
_HZ = range(24, 1201)  # of all architectures
_FIRST_WRAP = 300  # s after boot at which the low word of jiffies wraps (INITIAL_JIFFIES, include/linux/jiffies.h)


@table(struct="timekeeper")
class _Keepers(Table):
    """What of struct timekeeper says how times are converted (include/linux/timekeeper_internal.h)."""

    base: I64 = member("tkr_mono.base")  # ns, monotonic, at the last tick but for the rest of a second
    nsec: U64 = member("tkr_mono.xtime_nsec")  # that rest, shifted
    shift: U32 = member("tkr_mono.shift")
    tick: U64 = member("ntp_tick")  # ns of a tick, shifted by NTP_SCALE_SHIFT


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeBases:
    """How times are converted to CLOCK_MONOTONIC, and how that becomes UTC. All in ns."""

    now: int  # of the timekeeper
    keeper: int  # address of the struct timekeeper
    booted: int  # UTC at 0 of CLOCK_BOOTTIME, since 1970
    real: int  # from CLOCK_MONOTONIC to UTC
    hz: int | None  # ticks a second; None: cannot be told
    lost: int | None  # how far jiffies have fallen behind since boot; None: cannot be told
    scheduler: int | None  # from CLOCK_MONOTONIC to sched_clock; None: the kernel has no such variable

    def of_jiffies(self, jiffies: U64) -> I64:
        """jiffies_64 as ns; nothing but zeros without ``hz``."""
        if self.hz is None:
            return np.zeros(len(jiffies), np.int64)
        first = (-_FIRST_WRAP * self.hz) % (1 << 32)
        ticks = jiffies.astype(np.int64) - np.int64(first)
        sane = (ticks > 0) & (ticks < np.int64(1 << 62) // SECOND)
        return np.where(sane, ticks, 0) * np.int64(SECOND) // np.int64(self.hz)

    def of_scheduler(self, clock: U64) -> I64:
        """sched_clock, as run queues, tasks and the log use it; zeros without ``scheduler``."""
        if self.scheduler is None:
            return np.zeros(len(clock), np.int64)
        # ktime_get_ns() + __gtod_offset == sched_clock() + __sched_clock_offset (kernel/sched/clock.c)
        sane = (clock > 0) & (clock < np.uint64(1 << 62))
        return np.where(sane, clock.astype(np.int64) - np.int64(self.scheduler), 0)


def read_bases(kernel: Kernel) -> TimeBases | None:
    """The bases as the timekeeper has them; None where it cannot be read."""
    clock = read_clock(kernel)
    if clock is None or not all(kernel.has("timekeeper", path) for path in ("tkr_mono.xtime_nsec", "ntp_tick")):
        return None
    rows, ok = kernel.gather(_Keepers, np.array([clock.address], np.uint64))
    if not ok[0] or int(rows.shift[0]) > 32:
        return None
    now = int(rows.base[0]) + (int(rows.nsec[0]) >> int(rows.shift[0]))
    if not 0 < now < LATEST:
        return None
    tick = int(rows.tick[0]) >> _NTP_SCALE_SHIFT
    hz = round(SECOND / tick) if tick else 0
    shift = kernel.symbols.get("__gtod_offset")
    words, held = kernel.words(np.array([shift or 0], np.uint64), 1)
    bases = TimeBases(
        now=now,
        keeper=clock.address,
        booted=clock.booted,
        real=clock.now * SECOND - int(rows.base[0]),
        hz=hz if hz in _HZ else None,
        lost=None,
        scheduler=int(words[0, 0].astype(np.int64)) if shift is not None and held[0] else None,
    )
    return replace(bases, lost=_lost(kernel, bases))


def _lost(kernel: Kernel, bases: TimeBases) -> int | None:
    """Ticks are lost during boot, in a guest that does not run, with interrupts off for long: jiffies never catch up.

    A CPU that goes idle notes jiffies and the time in one structure (tick_nohz_next_event, tick_nohz_start_idle). The
    time may have been noted anew after an interrupt, so that the least difference of all CPUs is the closest.
    """
    ticks = on_each_cpu(kernel, "tick_cpu_sched")
    if bases.hz is None or not all(kernel.has("tick_sched", name) for name in ("last_jiffies", "idle_entrytime")):
        return None
    jiffies, ok = kernel.gather_member("tick_sched", "last_jiffies", ticks)
    entered, held = kernel.gather_member("tick_sched", "idle_entrytime", ticks)
    ticked = bases.of_jiffies(jiffies)
    noted = ok & held & (ticked > 0) & (entered > 0) & (entered < np.uint64(1 << 62))
    behind = (entered.astype(np.int64) - ticked)[noted]
    return max(int(behind.min()), 0) if len(behind) else None
