"""Clocks of the kernel itself, static and of each CPU.

Exact ones are written by every tick: update_wall_time and tick_do_update_jiffies64 (kernel/time), update_vsyscall, and
update_rq_clock (kernel/sched/core.c) on a CPU that is not idle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.ragged import expand_ranges
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U64
from vmaforensics.views.clocks.bases import SECOND
from vmaforensics.views.clocks.samples import Bound, Clock, TimeSamples, samples_at
from vmaforensics.views.structures.per_cpu import on_each_cpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.clocks.bases import TimeBases

_COARSE = 6  # CLOCK_MONOTONIC_COARSE, include/uapi/linux/time.h: an element of basetime
_MOST_RECORDS = 1 << 16  # of the log
_FUTURE = 1 << 62  # ns; KTIME_MAX and the like stand for no time


@table(struct="rq")
class _RunQueues(Table):
    clock: U64 = member("clock")
    curr: U64 = member("curr")
    idle: U64 = member("idle")


@table(struct="vdso_timestamp")
class _Stamps(Table):
    sec: U64 = member("sec")
    nsec: U64 = member("nsec")


def kernel_clocks(kernel: Kernel, bases: TimeBases) -> TimeSamples:
    """All of them that this kernel has."""
    parts = [_timekeeper(kernel, bases), *_jiffies(kernel, bases), *_vdso(kernel), *_run_queues(kernel, bases)]
    parts += [*_ticks(kernel, bases), *_grace_periods(kernel, bases), *_log(kernel, bases)]
    return TimeSamples.concatenate(parts)


def _timekeeper(kernel: Kernel, bases: TimeBases) -> TimeSamples:
    at = np.array([bases.keeper + kernel.offset("timekeeper", "tkr_mono.xtime_nsec")], np.uint64)
    return samples_at(
        kernel, Clock.TIMEKEEPER, at, np.array([bases.now], np.int64), np.ones(1, np.bool_), bound=Bound.EXACT
    )


def _jiffies(kernel: Kernel, bases: TimeBases) -> Iterator[TimeSamples]:
    at = kernel.symbols.get("jiffies_64")
    if at is not None:
        where = np.array([at], np.uint64)
        words, ok = kernel.words(where, 1)
        bound = Bound.LOWER if bases.lost is None else Bound.EXACT
        times = bases.of_jiffies(words[:, 0]) + np.int64(bases.lost or 0)
        yield samples_at(kernel, Clock.JIFFIES, where, times, ok, bound=bound)


def _vdso(kernel: Kernel) -> Iterator[TimeSamples]:
    """The coarse monotonic clock in the page that programs read the time from (include/vdso/datapage.h)."""
    if not kernel.has("vdso_timestamp", "nsec"):
        return
    if kernel.has("vdso_data", "basetime"):
        at = kernel.symbols.get("_vdso_data")
        inner = kernel.offset("vdso_data", "basetime")
    elif kernel.has("vdso_time_data", "clock_data") and kernel.has("vdso_clock", "basetime"):
        pointer = kernel.symbols.get("vdso_k_time_data")
        words, ok = kernel.words(np.array([pointer or 0], np.uint64), 1)
        at = int(words[0, 0]) if ok[0] and kernel.arch.kernel_pointer(words[0])[0] else None
        inner = kernel.offset("vdso_time_data", "clock_data") + kernel.offset("vdso_clock", "basetime")
    else:
        return
    if at is None:
        return
    where = np.array([at + inner + _COARSE * kernel.sizeof("vdso_timestamp")], np.uint64)
    stamps, ok = kernel.gather(_Stamps, where)
    ok &= (stamps.nsec < SECOND) & (stamps.sec < np.uint64(_FUTURE // SECOND))
    times = np.where(ok, stamps.sec, 0).astype(np.int64) * SECOND + np.where(ok, stamps.nsec, 0).astype(np.int64)
    yield samples_at(kernel, Clock.VDSO, where, times, ok, bound=Bound.EXACT)


def _run_queues(kernel: Kernel, bases: TimeBases) -> Iterator[TimeSamples]:
    """rq->clock: exact where the CPU runs a task, else as old as the last thing that happened there."""
    where = on_each_cpu(kernel, "runqueues")
    if not len(where) or not all(kernel.has("rq", name) for name in ("clock", "curr", "idle")):
        return
    rows, ok = kernel.gather(_RunQueues, where)
    bound = np.where(rows.curr != rows.idle, np.uint8(Bound.EXACT), np.uint8(Bound.LOWER))
    at = where + np.uint64(kernel.offset("rq", "clock"))
    yield samples_at(kernel, Clock.RUN_QUEUE, at, bases.of_scheduler(rows.clock), ok, bound=bound)


def _ticks(kernel: Kernel, bases: TimeBases) -> Iterator[TimeSamples]:
    """What each CPU noted as it went idle and woke, how far its timer wheels have run, and its next timer."""
    ticks = on_each_cpu(kernel, "tick_cpu_sched")
    for path in ("idle_entrytime", "idle_waketime", "last_tick"):
        if len(ticks) and kernel.has("tick_sched", path):
            times, ok = kernel.gather_signed("tick_sched", path, ticks)
            at = ticks + np.uint64(kernel.offset("tick_sched", path))
            late = np.where(times < _FUTURE, times, 0)
            if path != "last_tick":  # that may be the time of the next one
                yield samples_at(kernel, Clock.TICK, at, late, ok)
    wheels = on_each_cpu(kernel, "timer_bases")
    if len(wheels) and kernel.has("timer_base", "clk") and bases.hz:
        clocks, ok = kernel.gather_member("timer_base", "clk", wheels)
        at = wheels + np.uint64(kernel.offset("timer_base", "clk"))
        # It can be a tick ahead: __run_timers counts it up before it runs what is due.
        yield samples_at(kernel, Clock.TIMER_WHEEL, at, bases.of_jiffies(clocks) - SECOND // bases.hz, ok)
    timers = on_each_cpu(kernel, "hrtimer_bases")
    if len(timers) and kernel.has("hrtimer_cpu_base", "expires_next"):
        times, ok = kernel.gather_signed("hrtimer_cpu_base", "expires_next", timers)
        at = timers + np.uint64(kernel.offset("hrtimer_cpu_base", "expires_next"))
        yield samples_at(kernel, Clock.TIMER, at, times, ok & (times < _FUTURE), bound=Bound.UPPER)


def _grace_periods(kernel: Kernel, bases: TimeBases) -> Iterator[TimeSamples]:
    state = kernel.symbols.get("rcu_state")
    for path in ("gp_start", "gp_activity", "gp_req_activity"):
        if state is not None and kernel.has("rcu_state", path):
            words, ok = kernel.gather_member("rcu_state", path, np.array([state], np.uint64))
            at = np.array([state + kernel.offset("rcu_state", path)], np.uint64)
            yield samples_at(kernel, Clock.RCU, at, bases.of_jiffies(words), ok)


def _log(kernel: Kernel, bases: TimeBases) -> Iterator[TimeSamples]:
    """When each record of the log was written (kernel/printk/printk_ringbuffer.h, 5.10 on)."""
    ring = kernel.symbols.get("prb")
    names = ("desc_ring.infos", "desc_ring.count_bits")
    if ring is None or not all(kernel.has("printk_ringbuffer", name) for name in names):
        return
    pointer, ok = kernel.words(np.array([ring], np.uint64), 1)
    infos, held = kernel.gather_member("printk_ringbuffer", names[0], pointer[:, 0])
    bits, _ = kernel.gather_member("printk_ringbuffer", names[1], pointer[:, 0])
    if not (ok[0] and held[0] and kernel.has("printk_info", "ts_nsec") and kernel.arch.kernel_pointer(infos)[0]):
        return
    count = np.uint64(min(1 << min(int(bits[0] & np.uint64(0xFFFFFFFF)), 30), _MOST_RECORDS))
    size = np.uint64(kernel.sizeof("printk_info"))
    _, row = expand_ranges(np.zeros(1, np.int64), np.array([count], np.int64))
    at = infos[0] + row.astype(np.uint64) * size
    stamps, read = kernel.gather_member("printk_info", "ts_nsec", at)
    yield samples_at(
        kernel, Clock.LOG, at + np.uint64(kernel.offset("printk_info", "ts_nsec")), bases.of_scheduler(stamps), read
    )
