# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""Rows for volatility3's grids: the frames of kernel stacks."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from volatility3.framework.renderers import format_hints

from vmaforensics.crash.stack_parts import waits_uninterruptibly
from vmaforensics.views.stacks.frames import End, How
from vmaforensics.views.stacks.lines import end_text, frame_line
from vmaforensics.volatility.rows.regions import NOT_APPLICABLE, Row
from vmaforensics.words.printable import comm_of, printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from vmaforensics.columns.types import I64
    from vmaforensics.crash.stack_parts import CaseStacks

log = logging.getLogger(__name__)

COLUMNS: list[tuple[str, type]] = [
    ("PID", int),
    ("TID", int),
    ("Process", str),
    ("CPU", int),
    ("Frame", int),
    ("Function", str),
    ("Address", format_hints.Hex),
    ("Stack", str),
    ("How", str),
    ("Sure", bool),
]


def stack_rows(stacks: CaseStacks, pids: Collection[int] = (), *, everyone: bool = False) -> Iterator[Row]:
    """A row of :data:`COLUMNS` for each frame, innermost first; why a stack ends early is a row of its own.

    Those of CPUs and of tasks in uninterruptible sleep, or of all threads of ``pids``, or of ``everyone``.
    """
    for row in _chosen(stacks, pids, everyone=everyone).tolist():
        yield from _stack(stacks, row)


def _chosen(stacks: CaseStacks, pids: Collection[int], *, everyone: bool) -> I64:
    """Rows of the stacks that are asked for; those of CPUs first."""
    rows = stacks.view.stacks
    tasks = stacks.tasks
    task = np.maximum(rows.row, 0)
    known = rows.row >= 0
    if pids:
        for pid in sorted(set(pids) - set(tasks.tgid.tolist())):
            log.warning("no process in the task list has pid %d", pid)
        wanted = known & np.isin(tasks.tgid[task], list(pids)) if len(tasks) else known
    elif everyone:
        wanted = np.ones(len(rows), np.bool_)
    else:
        waits = known & waits_uninterruptibly(tasks.state[task]) if len(tasks) else known
        wanted = (rows.cpu >= 0) | waits
    found = np.flatnonzero(wanted)
    return found[np.argsort(np.where(rows.cpu[found] >= 0, rows.cpu[found], 1 << 30), kind="stable")].astype(np.int64)


def _stack(stacks: CaseStacks, row: int) -> Iterator[Row]:
    """The frames of one stack."""
    view, tasks = stacks.view, stacks.tasks
    task, cpu = int(view.stacks.row[row]), int(view.stacks.cpu[row])
    who = (
        (0, 0, "swapper")
        if task < 0
        else (
            int(tasks.tgid[task]),
            int(tasks.pid[task]),
            printable(comm_of(tasks.comm[task])),
        )
    )
    on: Any = NOT_APPLICABLE if cpu < 0 else cpu
    first, count = int(view.stacks.first[row]), int(view.stacks.count[row])
    for frame in range(first, first + count):
        yield (
            *who,
            on,
            int(view.frames.depth[frame]),
            frame_line(view, frame).removeprefix("? "),
            format_hints.Hex(int(view.frames.ip[frame])),
            view.kinds[int(view.frames.kind[frame])],
            How(int(view.frames.how[frame])).text,
            bool(view.frames.sure[frame]),
        )
    end = End(int(view.stacks.end[row]))
    if not end.whole or not count:
        text = f"({end_text(view, row)})" if not end.whole else "(in user mode)"
        yield (*who, on, NOT_APPLICABLE, text, *[NOT_APPLICABLE] * 4)
