"""What the kernel says of the machine it runs on: its name, and its clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.table import Table, columns_of, member, table
from vmaforensics.columns.types import I64, U64, U8Wide

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.kernel.kernel import Kernel

_SECOND = 10**9  # ns
_LATEST = 253402300799  # the last second of the year 9999
# struct timekeeper follows a sequence counter, whose size depends on the configuration (lock debugging).
_FURTHEST = 256


@table(struct="uts_namespace")
class _UtsNames(Table):
    """What ``uname`` says in a UTS namespace."""

    nodename: U8Wide = member("name.nodename")


@table(struct="timekeeper")
class _Timekeepers(Table):
    """The time in the forms that follow from each other (struct timekeeper, include/linux/timekeeper_internal.h)."""

    xtime: U64 = member("xtime_sec")  # s since 1970
    ktime: U64 = member("ktime_sec")  # s since boot, without time asleep
    wall_sec: I64 = member("wall_to_monotonic.tv_sec")
    wall_nsec: I64 = member("wall_to_monotonic.tv_nsec")
    real: I64 = member("offs_real")  # ns, from monotonic to wall clock
    boot: I64 = member("offs_boot")  # ns asleep
    base: I64 = member("tkr_mono.base")  # ns, monotonic


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """The kernel's wall clock. Both times count from 1970-01-01T00:00:00Z and leave leap seconds out."""

    booted: int  # ns; what getboottime64 says, and btime of /proc/stat to the second
    now: int  # s; when the time was last kept: a tick ago, or longer if all CPUs were idle
    address: int  # of the struct timekeeper


def hostname(kernel: Kernel) -> bytes | None:
    """``uname -n`` in the first UTS namespace; None if it cannot be read."""
    address = kernel.symbols.get("init_uts_ns")
    if address is None and kernel.vmcoreinfo is not None:
        address = kernel.vmcoreinfo.symbol("init_uts_ns")
    if address is None or not kernel.has("uts_namespace", "name.nodename"):
        return None
    names, ok = kernel.gather(_UtsNames, np.array([address], np.uint64))
    raw = names.nodename[0].tobytes()
    return raw.split(b"\0", 1)[0] if ok[0] else None


def read_clock(kernel: Kernel) -> Clock | None:
    """The clock of kernel/time/timekeeping.c; None where nothing that holds together as one is found.

    ``tk_core`` is a static variable: an unnamed struct up to 6.12, ``struct tk_data`` after that, and the first of
    ``timekeeper_data`` from 6.17 on. It keeps the time in several forms that follow from each other, so that a
    place is proved by what it holds. Where the kernel was writing it, its ``shadow_timekeeper`` is whole.
    """
    if any(not kernel.has("timekeeper", known.path) for known in columns_of(_Timekeepers).values()):
        return None
    places = np.array(list(dict.fromkeys(_places(kernel))), np.uint64)
    keepers, ok = kernel.gather(_Timekeepers, places)
    clocks = (_clock(keepers, row, int(places[row])) for row in np.flatnonzero(ok).tolist())
    return next((clock for clock in clocks if clock is not None), None)


def _places(kernel: Kernel) -> Iterator[int]:
    """Where a ``struct timekeeper`` may be, the likeliest first."""
    for name in ("tk_core", "timekeeper_data"):
        for address in kernel.symbols.find(name):
            for inner in ("timekeeper", "shadow_timekeeper"):
                if kernel.has("tk_data", inner):
                    yield address + kernel.offset("tk_data", inner)
            if kernel.types.struct("tk_data") is None:
                yield from range(address, address + _FURTHEST, 8)
    yield from kernel.symbols.find("shadow_timekeeper")


def _clock(keepers: _Timekeepers, row: int, address: int) -> Clock | None:
    """The clock at ``address``, in ``row``, if its forms agree (tk_set_wall_to_mono, tk_update_ktime_data)."""
    xtime, ktime, base = int(keepers.xtime[row]), int(keepers.ktime[row]), int(keepers.base[row])
    wall_sec, wall_nsec = int(keepers.wall_sec[row]), int(keepers.wall_nsec[row])
    real, boot = int(keepers.real[row]), int(keepers.boot[row])
    monotonic = wall_sec * _SECOND + wall_nsec  # from wall clock to monotonic clock: negative
    agree = (
        0 <= wall_nsec < _SECOND
        and real == -monotonic
        and base == xtime * _SECOND + monotonic
        and ktime - (xtime + wall_sec) in (0, 1)
    )
    booted = real - boot
    if not agree or boot < 0 or not 0 <= booted <= xtime * _SECOND or not 0 < xtime <= _LATEST:
        return None
    return Clock(booted=booted, now=xtime, address=address)
