"""The records of one memory map beside each other, by process or by ``mm_struct``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distances_to
from vmaforensics.compare.cell_text import rows_shown
from vmaforensics.compare.comparison import Comparison, compare_records
from vmaforensics.compare.ranges import mm_row, no_memory_map
from vmaforensics.compare.records_document import RecordsDocument, Schema
from vmaforensics.errors import UsageError
from vmaforensics.views.structures.lock import Lock
from vmaforensics.words.printable import comm_of, printable

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from vmaforensics.views.processes.tasks import Tasks
    from vmaforensics.views.views import Views


@dataclass(frozen=True, slots=True, kw_only=True)
class MapRecords:
    """The records of one memory map, and whose it is."""

    pid: int
    comm: bytes  # of the task
    task: int  # address of the task_struct; 0: no task has the mm_struct
    mm: int  # address of the mm_struct
    lock: Lock
    compared: Comparison
    left_out: int = 0  # rows of the comparison that are not in ``compared``

    @property
    def printable_comm(self) -> str:
        """The task's name, printable."""
        return printable(comm_of(self.comm))

    def document(self) -> RecordsDocument:
        """The document to publish, without details."""
        return RecordsDocument(
            schema=Schema(),
            pid=self.pid,
            comm=self.printable_comm,
            task=hex(self.task),
            mm=hex(self.mm),
            lock=self.lock.text,
            views=[view.label for view in self.compared.cells()],
            rows=rows_shown(self.compared),
        )


def records_of_process(views: Views, pid: int) -> MapRecords:
    """The records of a process. Raises :class:`UsageError` if it has no memory map."""
    tasks, leader, mm = _process(views, pid)
    return _records(views, mm, pid, bytes(tasks.comm[leader]), int(tasks.task[leader]))


def records_of_mm(views: Views, mm: int) -> MapRecords:
    """The records of one address space, whether or not a task has it. Raises :class:`UsageError` if no record
    knows of an ``mm_struct`` there."""
    row = mm_row(views, mm)
    return _records(views, mm, int(views.mms.pid[row]), bytes(views.mms.comm[row]), int(views.mms.task[row]))


def records_near(records: MapRecords, ranges: Collection[tuple[int, int]], most: int) -> MapRecords:
    """At most ``most`` rows of ``records``: those far from ``ranges`` are left out first, except for VMAs that an index
    lacks."""
    whole = records.compared
    compared = whole.take(_nearest(whole, ranges, most))
    if len(compared.vmas) + len(compared.runs) > most:
        compared = _most_named(compared, ranges, most)
    total, kept = (len(part.vmas) + len(part.runs) for part in (whole, compared))
    return replace(records, compared=compared, left_out=total - kept)


def _records(views: Views, mm: int, pid: int, comm: bytes, task: int) -> MapRecords:
    row = int(views.mm_rows(np.array([mm], np.uint64))[0])
    return MapRecords(
        pid=pid,
        comm=comm,
        task=task,
        mm=mm,
        lock=Lock(int(views.mms.lock[row])) if row >= 0 else Lock.UNKNOWN,
        compared=compare_records(views, np.array([mm], np.uint64)),
    )


def _process(views: Views, pid: int) -> tuple[Tasks, int, int]:
    """The tasks of a process, the row of its leader among them, and its mm; of a thread that lives on where the
    leader has exited. A process that is on no task list is looked for among the others that records know of."""
    tasks = views.tasks.take(views.tasks.tgid == pid)
    if not len(tasks) and views.sources is not None:
        others = views.sources.tasks
        tasks = others.take(others.ok & (others.tgid == pid))
    if not len(tasks):
        raise UsageError(f"no process of the image has pid {pid}; `vmaforensics report IMAGE` lists them")
    mms = tasks.mm[np.isin(tasks.mm, views.mms.mm)]
    if not len(mms):
        raise no_memory_map(views, pid)
    leader = int(np.argmax(tasks.leader))
    own = int(tasks.mm[leader])
    return tasks, leader, own if own in mms.tolist() else int(mms[0])


def _nearest(compared: Comparison, ranges: Collection[tuple[int, int]], most: int) -> NDArray[np.int64]:
    """At most ``most`` VMAs: those that some index lacks and those in ``ranges``, then their neighbours."""
    vmas = compared.vmas
    place = np.arange(len(vmas))
    if len(vmas) <= most:
        return place
    named = _within(vmas.start, vmas.end, ranges)
    for cells in compared.indices.values():
        named |= cells.slot == 0
    hits = np.flatnonzero(named)
    away = place
    if len(hits):
        away = distances_to(hits, place)
    return np.sort(np.argsort(away, kind="stable")[:most])


def _most_named(compared: Comparison, ranges: Collection[tuple[int, int]], most: int) -> Comparison:
    """At most ``most`` VMAs and runs; runs may be as many as an intruder likes. Those in ``ranges`` come first, then
    VMAs, then what has the lower address."""
    vmas, runs = compared.vmas, compared.runs
    order = compared.shown_order()
    is_run = order >= len(vmas)
    named = np.concatenate([_within(vmas.start, vmas.end, ranges), _within(runs.start, runs.end, ranges)])[order]
    kept = order[np.lexsort((is_run, ~named))[:most]]
    chosen = np.sort(kept)
    split = int(np.searchsorted(chosen, len(vmas)))
    return replace(compared.take(chosen[:split]), runs=runs.take(chosen[split:] - len(vmas)))


def _within(
    start: NDArray[np.uint64], end: NDArray[np.uint64], ranges: Collection[tuple[int, int]]
) -> NDArray[np.bool_]:
    """Does each ``[start, end)`` have a part of one of ``ranges``?"""
    named = np.zeros(len(start), np.bool_)
    for low, high in ranges:
        named |= (start < np.uint64(min(high, (1 << 64) - 1))) & (end > np.uint64(low))
    return named
