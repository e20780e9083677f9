"""Work counted, not seconds: what a hostile image makes the engine do stays within a budget on any machine.

    with budget(calls=5_000):  # calls of functions, written in Python or in C
        Btf(blob).struct("s")
    with budget(reads=40_000, octets=1 << 30):  # gathers from any physical memory, and bytes they asked for
        again_from_views(clean, overlay)

A budget that runs out raises at that very call, so that a walk without an end fails instead of hanging. Budgets are
several times what the work takes, and orders of magnitude below what a loop over every item or path would take.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from unittest.mock import patch

from vmaforensics.image.memory import PhysicalMemory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    import numpy as np
    from numpy.typing import NDArray

_COUNTED = ("call", "c_call")  # events of sys.setprofile
UNLIMITED = 1 << 62


class OverBudgetError(AssertionError):
    """More work than a test allows."""


@dataclass
class Work:
    """What has been done so far."""

    calls: int = 0
    reads: int = 0
    octets: int = 0


@contextmanager
def budget(*, calls: int | None = None, reads: int = UNLIMITED, octets: int = UNLIMITED) -> Iterator[Work]:
    """Let the body do this much work and no more; counting calls slows it down and is done only if asked for."""
    work = Work()
    gather, word = PhysicalMemory.gather, PhysicalMemory.word

    def read(size: int) -> None:
        work.reads += 1
        work.octets += size
        if work.reads > reads or work.octets > octets:
            raise OverBudgetError(f"more than {reads} reads or {octets} bytes: {work}")

    def counted(
        self: PhysicalMemory, pas: NDArray[np.uint64], size: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        read(len(pas) * size)
        return gather(self, pas, size)

    def counted_word(self: PhysicalMemory, pa: int) -> int | None:
        read(8)
        return word(self, pa)

    def called(frame: FrameType, event: str, _: object) -> None:
        if event in _COUNTED:
            work.calls += 1
            if calls is not None and work.calls > calls:
                sys.setprofile(None)
                raise OverBudgetError(f"more than {calls} calls, the last of them {frame.f_code.co_qualname}")

    before = sys.getprofile()
    with patch.object(PhysicalMemory, "gather", counted), patch.object(PhysicalMemory, "word", counted_word):
        if calls is not None:
            sys.setprofile(called)
        try:
            yield work
        finally:
            sys.setprofile(before)


def analysis_budget() -> AbstractContextManager[Work]:
    """For the analysis of a damaged copy of a sample: a clean one takes 300,000 calls and 1,200 reads of 24 MB."""
    return budget(calls=6_000_000, reads=25_000, octets=1 << 29)
