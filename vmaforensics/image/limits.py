"""How much of the machine an analysis may take: memory and cores."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

T = TypeVar("T")
R = TypeVar("R")

_LEAST = 128 << 20  # bytes that are reckoned with, however few there are
_UNKNOWN = 4 << 30  # bytes taken to be free where the system does not say
_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is large is worked on in batches: ``memory`` says how large these are, ``jobs`` how many at a time.

    Neither changes a result or the order of results.
    """

    memory: int | None = None  # bytes; None: half of what is free
    jobs: int = 1

    def batch(self, size: int, most: int) -> int:
        """How many things of ``size`` bytes to look at together, at most ``most``: all that are worked on at a time
        take an eighth of the memory."""
        free = max(free_memory() // 2 if self.memory is None else self.memory, _LEAST)
        return max(min(free // 8 // (self.jobs + 1) // size, most), 1)

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """``work(item)`` for each of ``items`` in order, done ahead by as many threads as there are jobs.

        NumPy lets other threads run while it works on large arrays.
        """
        if self.jobs < 2:
            yield from map(work, items)
            return
        with ThreadPoolExecutor(self.jobs) as pool:
            ahead: deque[Future[R]] = deque()
            try:
                for item in items:
                    ahead.append(pool.submit(work, item))
                    if len(ahead) > self.jobs:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()


def cores() -> int:
    """How many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def free_memory() -> int:
    """Bytes that programs could take without anything being swapped out."""
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    return _UNKNOWN
