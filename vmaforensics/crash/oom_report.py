"""The last report of the OOM killer, out of the log (mm/oom_kill.c: dump_header, dump_tasks, dump_oom_summary)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.crash.death import seconds
from vmaforensics.crash.memory_document import OomPart, OomTask
from vmaforensics.views.log.records import LOG_KERN
from vmaforensics.words.printable import decoded, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.views.log.records import Log

_INVOKED: Final = re.compile(r".{1,16} invoked oom-killer: gfp_mask=.*oom_score_adj=-?\d+$", re.DOTALL)
_HEADER: Final = re.compile(r"\[\s*pid\s*\]\s+(?P<columns>uid\s+tgid\s+total_vm\s.*\bname)$")
_ROW: Final = re.compile(r"\[\s*(?P<pid>\d{1,10})\]\s+(?P<rest>(-?\d+\s+)*-?\d+) (?P<name>.*)$", re.DOTALL)
_CONSTRAINT: Final = re.compile(r"oom-kill:constraint=")
_KILLED: Final = re.compile(
    r"(Memory cgroup out of memory|Out of memory( \(oom_kill_allocating_task\))?): Killed process "
)
_MOST_LINES: Final = 1 << 16  # of one report: as many tasks
_MOST_DIGITS: Final = 15  # of a number: more is not believed
_LARGEST: Final = 5


def last_oom_report(log: Log, page_size: int) -> OomPart | None:
    """The last report that the kernel itself wrote; None for none. ``page_size`` is what its table counts in."""
    rows = np.flatnonzero(log.records.facility == LOG_KERN)
    starts = [row for row in rows.tolist() if b" invoked oom-killer: " in log.text(row)]
    start = next((row for row in reversed(starts) if _INVOKED.match(decoded(log.text(row)))), None)
    if start is None:
        return None
    caller = log.records.caller[start]
    own = rows[(rows >= start) & (log.records.caller[rows] == caller)][:_MOST_LINES]
    lines = [decoded(log.text(row)) for row in own.tolist()]
    tasks = _tasks(lines, page_size)
    return OomPart(
        time=seconds(int(log.records.time[start])),
        invoked=printable(lines[0]),
        constraint=next((printable(line) for line in lines if _CONSTRAINT.match(line)), None),
        killed=next((printable(line) for line in lines if _KILLED.match(line)), None),
        largest=sorted(tasks, key=lambda task: -task.resident)[:_LARGEST],
        tasks=len(tasks),
    )


def _tasks(lines: Sequence[str], page_size: int) -> list[OomTask]:
    """The table of tasks: columns go by the names of its header, and a name may hold anything."""
    columns: list[str] = []
    found: list[OomTask] = []
    for line in lines:
        if header := _HEADER.match(line):
            columns = header["columns"].split()[:-1]
            found = []
            continue
        row = _ROW.match(line) if columns else None
        if row is None:
            continue
        # A name may begin with digits: what is more than the columns belongs to it.
        numbers = row["rest"].split()[: len(columns)]
        if len(numbers) < len(columns) or any(len(number) > _MOST_DIGITS for number in numbers):
            continue
        values = dict(zip(columns, (int(number) for number in numbers), strict=True))
        name = line.split(maxsplit=len(columns) + (2 if line[1] == " " else 1))[-1]
        found.append(
            OomTask(
                pid=int(row["pid"]),
                name=printable(name),
                resident=values.get("rss", 0) * page_size,
                swapped=values.get("swapents", 0) * page_size,
            )
        )
    return found
