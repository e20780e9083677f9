"""What the kernel says of the machine it runs on: its name, and its clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.kernel.kernel import Kernel

_SECOND = 10**9  # ns
_LATEST = 253402300799  # the last second of the year 9999
# struct timekeeper follows a sequence counter, whose size depends on the configuration (lock debugging).
_FURTHEST = 256

_FIELDS = (
    "xtime_sec",
    "ktime_sec",
    "wall_to_monotonic.tv_sec",
    "wall_to_monotonic.tv_nsec",
    "offs_real",
    "offs_boot",
    "tkr_mono.base",
)


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
    got, ok = kernel.gather("uts_namespace", np.array([address], np.uint64), ["name.nodename"])
    raw: bytes = got["name.nodename"][0].tobytes()
    return raw.split(b"\0", 1)[0] if ok[0] else None


def read_clock(kernel: Kernel) -> Clock | None:
    """The clock of kernel/time/timekeeping.c; None where nothing that holds together as one is found.

    ``tk_core`` is a static variable: an unnamed struct up to 6.12, ``struct tk_data`` after that, and the first of
    ``timekeeper_data`` from 6.17 on. It keeps the time in several forms that follow from each other, so that a
    place is proved by what it holds. Where the kernel was writing it, its ``shadow_timekeeper`` is whole.
    """
    if any(not kernel.has("timekeeper", field) for field in _FIELDS):
        return None
    places = list(dict.fromkeys(_places(kernel)))
    got, ok = kernel.gather("timekeeper", np.array(places, np.uint64), _FIELDS)
    for address, fine, row in zip(places, ok.tolist(), got[list(_FIELDS)].tolist(), strict=True):
        clock = _clock(address, *row) if fine else None
        if clock is not None:
            return clock
    return None


def _places(kernel: Kernel) -> Iterator[int]:
    """Where a ``struct timekeeper`` may be, the likeliest first."""
    for name in ("tk_core", "timekeeper_data"):
        for address in kernel.symbols.find(name):
            for member in ("timekeeper", "shadow_timekeeper"):
                if kernel.has("tk_data", member):
                    yield address + kernel.offset("tk_data", member)
            if kernel.types.struct("tk_data") is None:
                yield from range(address, address + _FURTHEST, 8)
    yield from kernel.symbols.find("shadow_timekeeper")


def _clock(
    address: int, xtime: int, ktime: int, wall_sec: int, wall_nsec: int, real: int, boot: int, base: int
) -> Clock | None:
    """The clock, if its forms agree (tk_set_wall_to_mono, tk_update_ktime_data)."""
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
