"""Runs a command as a process of its own and measures it from outside."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_BLOCK = 1 << 20


class BenchError(Exception):
    """A command failed; the message holds the end of what it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One process, from spawn to exit."""

    wall: float  # seconds
    cpu: float  # seconds, user and system, of all its threads
    peak: int  # bytes, the kernel's ru_maxrss: pages of a mapped image count too while they are in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Every run of one command on one image, and what the page says of it when it cannot be run again."""

    runs: tuple[Run, ...]
    areas: int | None  # printed by the command; None: its output does not list areas
    tool: str
    version: str
    does: str
    date: str
    load: float | None = None  # of the machine when the runs began, processes waiting or running
    entries: int | None = None  # page-table entries the command walked, and how long, in seconds, so it said
    walk: float | None = None
    of_case: bool = False  # see Contender

    @property
    def wall(self) -> float:
        """The median in seconds."""
        return median(run.wall for run in self.runs)

    @property
    def cpu(self) -> float:
        """The median in seconds."""
        return median(run.cpu for run in self.runs)

    @property
    def peak(self) -> int:
        """The largest in bytes."""
        return max(run.peak for run in self.runs)


def run_once(command: Sequence[str], output: Path, timeout: float) -> Run:
    """Run ``command`` with its standard output in the file ``output``.

    Raises :class:`BenchError` if it cannot be run, fails, or takes longer than ``timeout`` seconds.

    A process is born with the peak of the one that spawned it, so this program has to stay small: it never
    holds an image, a result or an output whole.
    """
    errors = output.with_suffix(".err")
    create = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(output), create, 0o600),
        (os.POSIX_SPAWN_OPEN, 2, str(errors), create, 0o600),
    ]
    started = time.monotonic()
    try:
        pid = os.posix_spawnp(command[0], list(command), os.environ, file_actions=actions)
    except OSError as error:
        raise BenchError(f"{command[0]}: {error.strerror}") from None
    previous = signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        _, status, usage = os.wait4(pid, 0)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    wall = time.monotonic() - started
    if status:
        lines = errors.read_text(errors="replace").splitlines()
        code = os.waitstatus_to_exitcode(status)
        raise BenchError(f"{Path(command[0]).name} ended with {code} after {wall:.1f} s: {' / '.join(lines[-3:])}")
    return Run(wall=wall, cpu=usage.ru_utime + usage.ru_stime, peak=usage.ru_maxrss << 10)


def count(path: Path, needle: bytes) -> int:
    """How often ``needle`` occurs in a file, read in blocks."""
    found, rest = 0, b""
    for block in _blocks(path):
        data = rest + block
        found += data.count(needle)
        rest = data[len(data) - len(needle) + 1 :]
    return found


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            yield block
