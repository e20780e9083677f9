"""Ranges of a process's memory by what knows them: a VMA, or nothing but the page tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import bounds_of
from vmaforensics.columns.runs import begins_range, run_lasts, run_starts
from vmaforensics.errors import UsageError

if TYPE_CHECKING:
    from vmaforensics.views.views import Views


class VmaRange(NamedTuple):
    """Where an index has a VMA."""

    start: int
    end: int
    union_row: int  # row of Views.union


def mm_of(views: Views, pid: int) -> int:
    """The ``mm_struct`` of a process. Where its first thread has exited, that of another thread.

    Raises :class:`UsageError` if there is no such process or it has no memory of its own.
    """
    tasks = views.tasks.take(views.tasks.tgid == pid)
    if not len(tasks) and views.sources is not None:  # on no task list, but known to another record
        others = views.sources.tasks
        tasks = others.take(others.ok & (others.tgid == pid))
    if not len(tasks):
        raise UsageError(f"no process of the image has pid {pid}; `vmaforensics report IMAGE` lists them")
    known = tasks.mm[(tasks.mm != 0) & (views.mm_rows(tasks.mm) >= 0)]
    if not len(known):
        raise no_memory_map(views, pid)
    return int(known[0])


def no_memory_map(views: Views, pid: int) -> UsageError:
    """That process ``pid`` has none, and why."""
    untyped = "damaged types of the kernel do not say where it is; give a symbol file of this kernel with --symbols"
    why = untyped if views.untyped else "it is a kernel thread or has exited"
    return UsageError(f"process {pid} has no memory map: {why}")


def mm_row(views: Views, mm: int) -> int:
    """Row of ``views.mms`` of the ``mm_struct`` at ``mm``. Raises :class:`UsageError` if no record knows of it."""
    row = int(views.mm_rows(np.array([mm], np.uint64))[0])
    if row < 0:
        raise UsageError(f"no record of the image knows of an mm_struct in use at {mm:#x}")
    return row


def entries_within(views: Views, mm: int, start: int, end: int) -> range:
    """Rows of the page-table entries of ``mm`` that map a part of ``[start, end)``."""
    if views.page_tables is None:
        return range(0)
    return views.page_tables.entries.within(int(views.mm_rows(np.array([mm], np.uint64))[0]), start, end)


def vmas_within(views: Views, mm: int, start: int, end: int) -> list[VmaRange]:
    """The VMAs of the indices of ``mm`` that reach into ``[start, end)``, ascending."""
    union = views.union
    low, high = bounds_of(union.mm, np.uint64(mm))
    first, last = union.start[low:high], union.end[low:high]
    inside = np.flatnonzero((first < np.uint64(min(end, 2**64 - 1))) & (last > np.uint64(start)))
    return [VmaRange(int(first[at]), int(last[at]), at + low) for at in inside.tolist()]


def uncovered_within(views: Views, mm: int, start: int, end: int) -> list[tuple[int, int]]:
    """Runs of neighbouring entries that no VMA covers, and that reach into ``[start, end)``; whole, ascending."""
    view = views.page_tables
    if view is None:
        return []
    # Runs are joined over the whole process, so that a run is whole even if it begins before ``start``.
    row = views.mm_rows(np.array([mm], np.uint64))[0]
    first, last = view.entries.bounds(int(row))
    ptes = view.entries.take(view.orphans[slice(*np.searchsorted(view.orphans, [first, last]))])
    stop = ptes.ends(view.arch)
    begins = run_starts(begins_range(ptes.va, stop))
    runs = zip(ptes.va[begins].tolist(), stop[run_lasts(begins, len(ptes))].tolist(), strict=True)
    return [(low, high) for low, high in runs if low < end and high > start]


def range_at(views: Views, mm: int, address: int) -> tuple[int, int]:
    """Bounds of the VMA that covers ``address``, or of the run of entries without a VMA that does.

    Raises :class:`UsageError` if nothing knows the address.
    """
    for known in vmas_within(views, mm, address, address + 1):
        return known.start, known.end
    for start, end in uncovered_within(views, mm, address, address + 1):
        return start, end
    raise UsageError(f"neither a VMA nor a page-table entry of the process covers {address:#x}")
