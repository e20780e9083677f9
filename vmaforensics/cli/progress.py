"""How far a run has come: a bar on stderr for people, lines of JSON for programs, or nothing."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vmaforensics.progress import unheard

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from vmaforensics.progress import Progress

_AFTER = 0.5  # seconds a run lasts before it is worth a bar
_OFTEN = 0.1  # seconds between two lines of JSON about one stage

# Every stage in the order of a report, what it is called, and its part of the time; measured on an image of
# 410 processes with 128,000 VMAs. The remaining time is estimated from these.
_STAGES = {
    "unpack": ("unpacking the image", 100),
    "kernel": ("finding the kernel", 30),
    "tasks": ("task list", 3),
    "slab": ("slab caches", 10),
    "sources": ("who knows of each mm", 2),
    "clocks": ("clocks in memory", 1),
    "indices": ("lists and trees of VMAs", 3),
    "areas": ("VMAs", 6),
    "files": ("files and names", 6),
    "identities": ("files by each record that names them", 1),
    "anchors": ("anchors and registers", 1),
    "handles": ("descriptors and memory files", 2),
    "page-tables": ("page tables", 12),
    "text": ("pages of text", 5),
    "table-roots": ("whose page tables are", 1),
    "kernel-half": ("the kernel half", 1),
    "vdso": ("vDSO", 1),
    "rmap": ("reverse maps", 5),
    "frames": ("page frames", 3),
    "swap": ("swap", 1),
    "code": ("code and tables of the kernel", 5),
    "checks": ("cross-checking", 20),
    "stacks": ("stacks", 3),
    "log": ("the kernel's log", 1),
    "kinds": ("telling user memory from kernel memory", 5),
    "document": ("writing the document", 20),
    "hash": ("hashing the file", 100),
    "rendering": ("rendering", 10),
    "writing": ("writing", 300),
    "images": ("images", 100),
}
_COUNTED = frozenset({"images"})  # in things, not in bytes


# What most runs do without, and how it is called.
_RARE = {"types": "types of the symbol file, kept for later"}


@contextmanager
def watched(args: argparse.Namespace) -> Iterator[Progress]:
    """What to give the analysis as its ``progress``, by the options of the command line.

    A bar is drawn only where stderr is a terminal and the run lasts, and is gone when the block ends: leave the
    block before writing to stdout.
    """
    if args.progress == "json":
        yield _Lines()
    elif args.progress == "never" or args.quiet or not sys.stderr.isatty():
        yield unheard
    else:
        shown = _Shown(_planned(args))
        try:
            yield shown
        finally:
            shown.stop()


def _planned(args: argparse.Namespace) -> dict[str, int]:
    """The stages that a command will go through, with their parts of the time."""
    if hasattr(args, "scheduler"):
        return {"images": _STAGES["images"][1]}  # its workers go through all others
    from vmaforensics.image.open import is_packed

    document, copy, case = hasattr(args, "fail_on"), hasattr(args, "keep"), hasattr(args, "lines")
    absent = {
        "unpack": not any(map(is_packed, getattr(args, "image", ()))),
        "checks": not (document or copy or getattr(args, "finding", None)),
        "stacks": not (copy or case),
        "log": not (copy or case),
        "frames": not copy,
        "document": not document,
        "hash": not getattr(args, "sha256", False),
        "rendering": not document,
        "writing": not copy,
    }
    return {stage: share for stage, (_, share) in _STAGES.items() if not absent.get(stage)}


class _Shown:
    """A bar with the stage, the rate of searches, and the remaining time."""

    def __init__(self, planned: dict[str, int]) -> None:
        self._planned = planned
        self._before = 0.0
        self._start = self._stage_start = time.monotonic()
        self._stage = ""
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __call__(self, stage: str, done: int = 0, total: int = 0, /) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._stage_start = stage, now
        if self._bar is None:
            if now - self._start < _AFTER:
                return
            self._make()
        assert self._bar is not None
        assert self._task is not None
        passed = now - self._stage_start
        rate = _rate(stage, done, passed) if total and done and passed > 0.05 else ""
        described = f"{done:,} of {total:,} {_name(stage)}" if stage in _COUNTED else _name(stage)
        self._bar.update(self._task, completed=self._reached(stage, done, total), description=described, rate=rate)
        self._bar.start()  # nothing, once it is shown

    def _make(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description:30}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%", markup=False),
            TextColumn("{task.fields[rate]:>10}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left", markup=False),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
            transient=True,
            # Results are written to the real stdout.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("", total=sum(self._planned.values()), rate="")

    def _reached(self, stage: str, done: int, total: int) -> float:
        """Parts of the whole that are done."""
        before = 0.0
        for name, share in self._planned.items():
            if name == stage:
                self._before = before
                return before + (share * min(done / total, 1.0) if total else 0.0)
            before += share
        return self._before  # a stage this knows nothing of

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()


class _Lines:
    """One JSON object per line: ``{"stage": …, "done": …, "total": …, "elapsed": …}``; bytes, seconds."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._last: tuple[str, float] = ("", 0.0)

    def __call__(self, stage: str, done: int = 0, total: int = 0, /) -> None:
        now = time.monotonic()
        if stage == self._last[0] and now - self._last[1] < _OFTEN:
            return
        self._last = (stage, now)
        line = {"stage": stage, "done": done, "total": total, "elapsed": round(now - self._start, 3)}
        sys.stderr.write(json.dumps(line) + "\n")
        sys.stderr.flush()


def _rate(stage: str, done: int, passed: float) -> str:
    """How fast it goes; ``passed`` is in seconds."""
    return f"{done / passed * 60:.1f}/min" if stage in _COUNTED else f"{done / passed / 1e6:.0f} MB/s"


def _name(stage: str) -> str:
    return _STAGES[stage][0] if stage in _STAGES else _RARE.get(stage, stage)
