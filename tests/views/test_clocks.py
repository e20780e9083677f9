"""Clocks in memory: their conversion, and when each page was read by what they say; on memories and tables by hand."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import BASE, LINUX, Machine

from vmaforensics.views.clocks.bases import read_bases
from vmaforensics.views.clocks.clocks import gather_clocks
from vmaforensics.views.clocks.reading_times import believe, estimate
from vmaforensics.views.clocks.samples import Bound, Clock, TimeSamples
from vmaforensics.views.processes.tasks import Tasks

SECOND = 10**9
MIB = 1 << 20
RAM = [(0, 100 * MIB)]
BOOTED = 1_700_000_000  # UTC, s
STRUCTS = LINUX | {
    "timespec64": "tv_sec:i64 tv_nsec:i64",
    "tk_read_base": "base:i64 xtime_nsec:u64 shift:u32",
    "timekeeper": "tkr_mono:tk_read_base xtime_sec:u64 ktime_sec:u64 wall_to_monotonic:timespec64 offs_real:i64 "
    "offs_boot:i64 ntp_tick:u64",
    "sched_entity": "exec_start:u64",
    "sched_info": "last_arrival:u64 last_queued:u64",
    "task_struct": LINUX["task_struct"] + " se:sched_entity sched_info:sched_info start_time:u64 cpu:i32",
    "tick_sched": "last_jiffies:u64 idle_entrytime:i64 idle_waketime:i64",
    "rq": "clock:u64 clock_task:u64 curr:* idle:*",
    "page": "flags:u64[8]",
}


def machine_at(seconds: int) -> Machine:
    """A machine whose timekeeper says that it was booted so long ago; sched_clock is a second ahead."""
    machine = Machine(STRUCTS)
    keeper = {
        "tkr_mono.base": seconds * SECOND,
        "tkr_mono.xtime_nsec": (SECOND // 2) << 8,
        "tkr_mono.shift": 8,
        "xtime_sec": BOOTED + seconds,
        "ktime_sec": seconds,
        "wall_to_monotonic.tv_sec": -BOOTED,
        "offs_real": BOOTED * SECOND,
        "ntp_tick": 4_000_000 << 32,
    }
    machine.symbols["tk_core"] = machine.put("timekeeper", keeper)
    machine.symbols["__gtod_offset"] = machine.room(8)
    machine.word(machine.symbols["__gtod_offset"], SECOND)
    machine.symbols["jiffies_64"] = machine.room(8)
    machine.word(machine.symbols["jiffies_64"], 4294892296 + 250 * seconds)  # INITIAL_JIFFIES at 250 HZ
    return machine


def samples(*rows: tuple[int, float, Bound]) -> TimeSamples:
    """(MiB, s, bound) each, in ascending order; exact ones are those of run queues but for the first."""
    exact = [bound is Bound.EXACT for _, _, bound in rows]
    first = exact.index(True) if True in exact else -1
    return TimeSamples.of(
        len(rows),
        pa=[at * MIB for at, _, _ in rows],
        time=[int(time * SECOND) for _, time, _ in rows],
        bound=[bound for _, _, bound in rows],
        clock=[
            Clock.TIMEKEEPER if row == first else Clock.RUN_QUEUE if is_exact else Clock.TASK_RAN
            for row, is_exact in enumerate(exact)
        ],
    )


def test_the_bases_follow_from_the_timekeeper() -> None:
    bases = read_bases(machine_at(500).kernel())
    assert bases is not None
    assert (bases.now, bases.hz, bases.real) == (500 * SECOND + SECOND // 2, 250, BOOTED * SECOND)
    ticked = bases.of_jiffies(np.array([4294892296 + 250 * 500, 0], np.uint64))
    assert ticked.tolist() == [500 * SECOND, 0]
    assert bases.of_scheduler(np.array([7 * SECOND, 0], np.uint64)).tolist() == [6 * SECOND, 0]


def test_jiffies_that_lost_ticks_are_put_right_by_what_a_cpu_noted_as_it_went_idle() -> None:
    machine = machine_at(500)
    noted = {"last_jiffies": 4294892296 + 250 * 400, "idle_entrytime": 400 * SECOND + 200_000_000}
    machine.symbols["tick_cpu_sched"] = machine.put("tick_sched", noted)
    bases = read_bases(machine.kernel())
    assert bases is not None
    assert bases.lost == 200_000_000


def test_without_a_timekeeper_there_are_no_clocks() -> None:
    machine = machine_at(500)
    del machine.symbols["tk_core"]
    assert read_bases(machine.kernel()) is None
    assert gather_clocks(machine.kernel(), Tasks.zeros(0), None) is None


def test_a_task_that_is_half_made_says_nothing() -> None:
    machine = machine_at(500)
    times = {"se.exec_start": 400 * SECOND, "sched_info.last_arrival": 401 * SECOND, "start_time": 7 * SECOND}
    tasks = [machine.put("task_struct", times), machine.put("task_struct", times | {"start_time": 1 << 60})]
    rows = Tasks.of(2, task=tasks, ok=[True, True], state=[0, 0x800])
    view = gather_clocks(machine.kernel(), rows, None)
    assert view is not None
    of_tasks = view.samples.take(np.isin(view.samples.clock, (Clock.TASK_RAN, Clock.TASK_STARTED)))
    assert sorted((of_tasks.time // SECOND).tolist()) == [7, 399, 400]
    assert view.tasks.ran.tolist() == [400 * SECOND] * 2
    assert view.samples.pa[view.samples.clock == Clock.JIFFIES].tolist() == [machine.symbols["jiffies_64"] - BASE]


def test_what_was_moved_to_another_cpu_while_it_waited_ran_until_it_was_queued() -> None:
    machine = machine_at(500)
    times = {"se.exec_start": 0, "sched_info.last_arrival": 301 * SECOND, "sched_info.last_queued": 401 * SECOND}
    task = machine.put("task_struct", times | {"start_time": 7 * SECOND})
    view = gather_clocks(machine.kernel(), Tasks.of(1, task=[task], ok=[True]), None)
    assert view is not None
    assert view.tasks.ran.tolist() == [400 * SECOND]  # sched_clock is a second ahead


@pytest.mark.parametrize(
    ("clock", "flags", "said"),
    [
        (401, 0, [396]),  # charged time is 2 s behind that of the CPU, sched_clock a second ahead
        (397, 0, []),  # the CPU stands still too
        (390, 0, [396]),  # that was read before
        (401, 0x2, []),  # PF_IDLE
    ],
)
def test_a_task_that_runs_says_when_it_was_read(clock: int, flags: int, said: list[int]) -> None:
    machine = machine_at(500)
    machine.symbols["runqueues"] = machine.put("rq", {"clock": clock * SECOND, "clock_task": (clock - 2) * SECOND})
    task = machine.put("task_struct", {"se.exec_start": 395 * SECOND, "on_cpu": 1, "flags": flags, "start_time": 1})
    view = gather_clocks(machine.kernel(), Tasks.of(1, task=[task], ok=[True]), None)
    assert view is not None
    runs = view.samples.take(view.samples.clock == Clock.TASK_RUNS)
    assert (runs.time // SECOND).tolist() == said
    assert (runs.bound == Bound.EXACT).all()


def test_an_idle_cpu_does_not_say_what_time_it_is() -> None:
    machine = machine_at(500)
    idle = {"clock": 401 * SECOND, "curr": 0xFFFF_8880_0000_1000, "idle": 0xFFFF_8880_0000_1000}
    machine.symbols["runqueues"] = machine.put("rq", idle)
    view = gather_clocks(machine.kernel(), Tasks.zeros(0), None)
    assert view is not None
    of_cpu = view.samples.take(view.samples.clock == Clock.RUN_QUEUE)
    assert (of_cpu.bound.tolist(), of_cpu.time.tolist()) == ([Bound.LOWER], [400 * SECOND])


def test_the_line_goes_through_exact_clocks_and_above_bounds() -> None:
    times = estimate(
        samples(
            (5, 101, Bound.LOWER),
            (20, 104, Bound.EXACT),
            (40, 110, Bound.LOWER),
            (60, 112, Bound.EXACT),
            (90, 118, Bound.LOWER),
        ),
        RAM,
    )
    assert times is not None
    at = times.at(np.array([20, 40, 60, 90], np.uint64) * np.uint64(MIB)).time / SECOND
    assert at[[0, 2]].tolist() == [104, 112]
    assert at[1] == pytest.approx(110)
    assert at[3] >= 118
    assert times.start / SECOND == pytest.approx(100)


def test_the_true_time_lies_in_the_band_where_the_speed_changes() -> None:
    def true(mib: int) -> float:
        return 100 + mib * 0.2 + max(0, mib - 50) * 0.05

    clocks = [(20, Bound.EXACT), (48, Bound.LOWER), (55, Bound.EXACT), (80, Bound.EXACT), (95, Bound.LOWER)]
    times = estimate(samples(*((at, true(at), bound) for at, bound in clocks)), RAM)
    assert times is not None
    places = np.arange(1, 100, 3)
    found = times.at(places.astype(np.uint64) * np.uint64(MIB))
    truth = np.array([true(int(place)) for place in places]) * SECOND
    assert ((found.earliest <= truth) & (truth <= found.latest)).all()


def test_nothing_was_read_before_its_earliest_time_even_if_the_acquisition_began_slowly() -> None:
    def true(mib: int) -> float:  # for a minute it stood still
        return 100 + mib / 2 + 60 * (mib > 15)

    clocks = [(10, Bound.LOWER), (60, Bound.EXACT), (70, Bound.LOWER), (90, Bound.EXACT)]
    times = estimate(samples(*((at, true(at), bound) for at, bound in clocks)), RAM)
    assert times is not None
    places = np.arange(0, 100, 3)
    found = times.at(places.astype(np.uint64) * np.uint64(MIB))
    truth = np.array([true(int(place)) for place in places])
    assert (found.earliest / SECOND <= truth).all()
    assert found.earliest[places == 12] / SECOND == pytest.approx(105, abs=0.1)
    assert found.earliest[places == 72] / SECOND == pytest.approx(195, abs=0.1)
    assert times.begun / SECOND <= 100


def test_wild_and_stale_clocks_do_not_bend_the_line() -> None:
    straight = [(at, 100 + at / 10, Bound.EXACT) for at in (20, 40, 60)]
    wild = [(30, 9000, Bound.LOWER), (50, 1, Bound.EXACT), (70, 10**8, Bound.LOWER), (80, 107.9, Bound.LOWER)]
    rows = sorted([*straight, *wild], key=lambda row: row[0])
    believed = believe(samples(*rows), RAM)
    assert believed.wild == 1
    times = estimate(samples(*rows), RAM)
    assert times is not None
    assert times.end / SECOND == pytest.approx(110, abs=1)
    assert times.start / SECOND == pytest.approx(100, abs=1)


def test_memory_that_is_no_ram_takes_no_time() -> None:
    rows = samples((20, 102, Bound.EXACT), (1040, 104, Bound.EXACT))
    times = estimate(rows, [(0, 30 * MIB), (1030 * MIB, 1100 * MIB)])
    assert times is not None
    at = times.at(np.array([25 * MIB, 1030 * MIB], np.uint64)).time / SECOND
    assert at.tolist() == pytest.approx([102.5, 103.0])
    assert times.address_of(times.place[:1]).tolist() == [0]


def test_one_clock_alone_gives_no_times() -> None:
    assert estimate(samples((20, 104, Bound.EXACT)), RAM) is None
    assert estimate(TimeSamples.zeros(0), RAM) is None


@pytest.mark.parametrize("seed", range(20))
def test_chance_values_make_no_clock_fail(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = 200
    rows = TimeSamples.of(
        count,
        pa=np.sort(random.integers(0, 200 * MIB, count)),
        time=random.integers(1, 1 << 59, count) >> random.integers(0, 58, count),
        bound=random.integers(0, 3, count),
        clock=random.integers(0, 11, count),
    )
    times = estimate(rows, RAM)
    if times is None:
        return
    found = times.at(np.arange(0, 100 * MIB, MIB, dtype=np.uint64))
    assert (found.earliest <= found.time).all()
    assert (found.time <= found.latest).all()
    assert (np.diff(found.time) >= 0).all()


def test_a_timekeeper_of_nonsense_is_none() -> None:
    machine = machine_at(500)
    machine.set("timekeeper", machine.symbols["tk_core"], "tkr_mono.xtime_nsec", (1 << 64) - 1)
    machine.set("timekeeper", machine.symbols["tk_core"], "tkr_mono.shift", 0)
    assert read_bases(machine.kernel()) is None
