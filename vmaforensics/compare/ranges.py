"""Ranges of a process's memory by what knows them: an area, or nothing but the page tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.views.views import Views


def mm_of(views: Views, pid: int) -> int:
    """The ``mm_struct`` of a process. Where its first thread has exited, that of another thread.

    Raises :class:`UsageError` if there is no such process or it has no memory of its own.
    """
    tasks = views.tasks[views.tasks["tgid"] == pid]
    if not len(tasks) and views.sources is not None:  # on no task list, but known to another record
        tasks = views.sources.tasks[views.sources.tasks["ok"] & (views.sources.tasks["tgid"] == pid)]
    if not len(tasks):
        raise UsageError(f"no process of the image has pid {pid}; `vmaforensics report IMAGE` lists them")
    known = tasks["mm"][(tasks["mm"] != 0) & (views.mm_rows(tasks["mm"]) >= 0)]
    if not len(known):
        raise UsageError(f"pid {pid} has no memory map: it is a kernel thread or has exited")
    return int(known[0])


def mm_row(views: Views, mm: int) -> int:
    """Row of ``views.mms`` of the ``mm_struct`` at ``mm``. Raises :class:`UsageError` if no record knows of it."""
    row = int(views.mm_rows(np.array([mm], np.uint64))[0])
    if row < 0:
        raise UsageError(f"no record of the image knows of an mm_struct in use at {mm:#x}")
    return row


def rows_within(views: Views, mm: int, start: int, end: int) -> NDArray[np.intp]:
    """Rows of the page-table entries of ``mm`` that map a part of ``[start, end)``, ascending."""
    view = views.page_tables
    if view is None or end <= start:
        return np.zeros(0, np.intp)
    mm_row = views.mm_rows(np.array([mm], np.uint64))[0]
    low, high = np.searchsorted(view.ptes["mm_row"], [mm_row, mm_row + 1])
    va = view.ptes["va"][low:high]
    size = view.ptes.take(slice(low, high)).sizes(view.arch)
    inside = (va <= np.uint64(end - 1)) & (va + (size - np.uint64(1)) >= np.uint64(start))
    rows: NDArray[np.intp] = np.flatnonzero(inside) + low
    return rows


def areas_within(views: Views, mm: int, start: int, end: int) -> list[tuple[int, int, int]]:
    """(start, end, row of ``views.union``) of the areas of ``mm`` that reach into ``[start, end)``, ascending."""
    rows = views.union
    low, high = np.searchsorted(rows["mm"], [np.uint64(mm), np.uint64(mm + 1)])
    part = rows[low:high]
    inside = np.flatnonzero((part["start"] < np.uint64(min(end, 2**64 - 1))) & (part["end"] > np.uint64(start)))
    return [(int(part["start"][at]), int(part["end"][at]), int(at + low)) for at in inside.tolist()]


def orphans_within(views: Views, mm: int, start: int, end: int) -> list[tuple[int, int]]:
    """Runs of neighbouring entries in ``[start, end)`` that no area covers, whole, ascending."""
    view = views.page_tables
    if view is None:
        return []
    # Runs are joined over the whole process, so that one is told whole even if it begins before ``start``.
    rows = rows_within(views, mm, 0, 1 << 64)
    ptes = view.ptes[rows[view.ptes["range_row"][rows] < 0]]
    last = ptes["va"] + ptes.sizes(view.arch)
    first = np.ones(len(ptes), np.bool_)
    first[1:] = ptes["va"][1:] != last[:-1]
    begin = np.flatnonzero(first)
    stop = np.append(begin[1:], len(ptes))[: len(begin)] - 1
    runs = zip(ptes["va"][begin].tolist(), last[stop].tolist(), strict=True)
    return [(low, high) for low, high in runs if low < end and high > start]


def range_at(views: Views, mm: int, address: int) -> tuple[int, int]:
    """Bounds of the area that covers ``address``, or of the run of entries without an area that does.

    Raises :class:`UsageError` if nothing knows the address.
    """
    for start, end, _ in areas_within(views, mm, address, address + 1):
        return start, end
    for start, end in orphans_within(views, mm, address, address + 1):
        return start, end
    raise UsageError(f"neither an area nor a page-table entry of the process covers {address:#x}")
