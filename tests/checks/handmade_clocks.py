"""Clocks made by hand, for views made by hand: all of memory is read in 160 s, or while the machine stands still."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handmade import BASE, Machine

from checks.handmade_views import task_of
from vmaforensics.kernel.space.kernel_space import KernelSpace, LinearPiece
from vmaforensics.views.clocks.bases import TimeBases
from vmaforensics.views.clocks.clocks import ClocksView, Places
from vmaforensics.views.clocks.samples import Bound, Clock, TimeSamples
from vmaforensics.views.clocks.task_clocks import TaskTimes

if TYPE_CHECKING:
    from collections.abc import Sequence

SECOND = 10**9
SIZE = 16 << 28  # bytes of RAM: all places of handmade views
START = 1000  # s after boot; reading takes 160 s, 10 s for each of the regions of handmade views


def reading_time(address: int) -> int:
    """s after boot at which the word at a kernel address is read."""
    return START + 160 * (address - BASE) // SIZE


def clocks(
    *, live: bool = True, ran: dict[int, float] | None = None, panicked: bool = False, extra: Sequence[int] = ()
) -> ClocksView:
    """Exact clocks all over memory; ``ran`` has when each process last ran, in s."""
    ran = ran or {}
    places = [number * SIZE // 64 for number in range(64)]
    kernel = Machine().kernel()
    kernel.space = KernelSpace.linear(kernel.memory, [LinearPiece(BASE, BASE + SIZE - 1, 0)])
    where = Places(kernel)
    where.ranges = [(0, SIZE)]
    times = [(reading_time(BASE + pa) if live else START) * SECOND for pa in places]
    bounds = [Bound.EXACT] * len(places)
    samples = TimeSamples.of(
        len(places) + len(extra),
        pa=[*places, *(SIZE - 8 for _ in extra)],
        time=[*times, *extra],
        bound=[*bounds, *(Bound.LOWER for _ in extra)],
        clock=[Clock.TIMEKEEPER, *[Clock.RUN_QUEUE] * (len(places) - 1), *(Clock.TASK_STARTED for _ in extra)],
    )
    pids = sorted(ran)
    tasks = TaskTimes.of(
        len(pids),
        task=[task_of(pid) for pid in pids],
        ran=[int(ran[pid] * SECOND) for pid in pids],
        started=[SECOND] * len(pids),
        pa=[task_of(pid) - BASE for pid in pids],
        ok=[True] * len(pids),
    )
    bases = TimeBases(now=START * SECOND, keeper=0, booted=0, real=0, hz=250, lost=0, scheduler=0)
    return ClocksView(bases=bases, samples=samples, tasks=tasks, panicked=panicked, places=where)
