"""Puts the records of one process's memory map beside each other: a row per region, a cell per view."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from vmaforensics.arch.page_tables import ALLOW_EXECUTE, ALLOW_WRITE, PteState
from vmaforensics.checks.context import Context, comm_of
from vmaforensics.checks.pages.entry_runs import Runs
from vmaforensics.compare.cells import anchor_cells, anon_cells, file_cells, slab_cells
from vmaforensics.compare.ranges import mm_row
from vmaforensics.compare.side_by_side import Cell, Row, Schema, SideBySide
from vmaforensics.compare.vmas import areas_of, nearest
from vmaforensics.errors import UsageError
from vmaforensics.views.processes.mms import Lock
from vmaforensics.views.view import View
from vmaforensics.views.vmas.kind import Kind
from vmaforensics.words.amounts import plural
from vmaforensics.words.permissions import vma_permissions
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from numpy.typing import NDArray

    from vmaforensics.compare.vmas import Areas
    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.views import Views


def side_by_side(views: Views, pid: int) -> SideBySide:
    """The document of one process, without details. Raises :class:`UsageError` if it has no memory map."""
    leader, mm = _process(views, pid)
    return _sides(views, mm, pid, bytes(leader["comm"]), int(leader["task"]))


def side_by_side_of(views: Views, mm: int) -> SideBySide:
    """The document of one address space, whether or not a task has it. Raises :class:`UsageError` if no record
    knows of an ``mm_struct`` there."""
    known = views.mms[mm_row(views, mm)]
    return _sides(views, mm, int(known["pid"]), bytes(known["comm"]), int(known["task"]))


def sides_near(views: Views, mm: int, ranges: Collection[tuple[int, int]], most: int) -> tuple[SideBySide, int]:
    """As :func:`side_by_side_of`, with at most ``most`` rows, and how many were left out: those far from ``ranges``
    go first, but for areas that an index lacks."""
    known = views.mms[mm_row(views, mm)]
    left_out = 0

    def near(areas: Areas) -> NDArray[np.bool_]:
        nonlocal left_out
        keep = nearest(views, areas, ranges, most)
        left_out = int((~keep).sum())
        return keep

    document = _sides(views, mm, int(known["pid"]), bytes(known["comm"]), int(known["task"]), near)
    if len(document.rows) <= most:
        return document, left_out
    # Runs of page-table entries without an area may be as many as an intruder likes.
    rows = document.rows
    named = [any(low < int(row.end, 16) and int(row.start, 16) < high for low, high in ranges) for row in rows]
    order = sorted(range(len(rows)), key=lambda at: (not named[at], rows[at].vma is None, at))
    kept = [rows[at] for at in sorted(order[:most])]
    return msgspec.structs.replace(document, rows=kept), left_out + len(rows) - most


def _sides(
    views: Views, mm: int, pid: int, comm: bytes, task: int, near: Callable[[Areas], NDArray[np.bool_]] | None = None
) -> SideBySide:
    every = areas_of(views, mm)
    areas = every if near is None else every.where(near(every))
    columns = dict(_columns(views, areas))
    vmas = areas.vmas
    told = zip(*(vmas[name].tolist() for name in ("flags", "ok", "kind", "vma")), areas.names, strict=True)
    bounds = zip(areas.start.tolist(), areas.end.tolist(), strict=True)
    rows = [
        Row(
            start=hex(start),
            end=hex(end),
            perms=vma_permissions(flags) if known else "?",
            name=printable(name) or Kind(kind).label,
            vma=hex(vma),
            cells={view: cells[at] for view, cells in columns.items()},
        )
        for at, ((start, end), (flags, known, kind, vma, name)) in enumerate(zip(bounds, told, strict=True))
    ]
    if views.page_tables is not None:
        rows += _uncovered(views, views.page_tables, every)
    row = areas.mm_row
    return SideBySide(
        schema=Schema(),
        pid=pid,
        comm=printable(comm_of(comm)),
        task=hex(task),
        mm=hex(mm),
        lock=Lock(int(views.mms["lock"][row])).text if row >= 0 else Lock.UNKNOWN.text,
        views=list(columns),
        rows=sorted(rows, key=lambda one: int(one.start, 16)),
    )


def _process(views: Views, pid: int) -> tuple[np.void, int]:
    """The leader of a process and its mm; of a thread that lives on where the leader has exited. A process that is
    on no task list is looked for among the others that records know of."""
    mine = views.tasks[views.tasks["tgid"] == pid]
    if not len(mine) and views.sources is not None:
        mine = views.sources.tasks[views.sources.tasks["ok"] & (views.sources.tasks["tgid"] == pid)]
    if not len(mine):
        raise UsageError(f"no process of the image has pid {pid}; `vmaforensics report IMAGE` lists them")
    mms = mine["mm"][np.isin(mine["mm"], views.mms["mm"])]
    if not len(mms):
        raise UsageError(f"process {pid} has no memory map: it is a kernel thread or has exited")
    leader = mine[np.argmax(mine["leader"])]
    own = int(leader["mm"])
    return leader, own if own in mms.tolist() else int(mms[0])


def _columns(views: Views, areas: Areas) -> Iterator[tuple[str, list[Cell]]]:
    """(view, a cell per area) for each view that the kernel has."""
    context = Context(views)
    mm = np.array([areas.mm], np.uint64)
    for view, rows in views.regions().items():
        whole = bool(context.whole(view, mm)[0])
        yield view.label, list(_index_cells(rows[rows["mm"] == mm[0]], areas, view, whole))
    if views.page_tables is not None:
        yield View.PAGE_TABLES.label, _page_cells(views.page_tables, areas)
    if views.slab is not None:
        yield View.SLAB.label, slab_cells(views.slab, views.strays, areas.vmas)
    if views.rmap is not None:
        yield View.FILE_RMAP.label, file_cells(views.rmap, areas.vmas)
        yield View.ANON_RMAP.label, anon_cells(views.rmap, areas.vmas)
    if views.anchors is not None:
        yield View.ANCHORS.label, anchor_cells(views, areas.mm, areas.start, areas.end)


def _index_cells(rows: NDArray[np.void], areas: Areas, view: View, whole: bool) -> Iterator[Cell]:
    """The word that led to each area; for the maple tree also its range, where it is another."""
    found = {int(row["vma"]): row for row in rows}
    for vma, start, end in zip(areas.vmas["vma"].tolist(), areas.start.tolist(), areas.end.tolist(), strict=True):
        row = found.get(vma)
        if row is None:
            yield Cell(state="missing" if whole else "unread")
            continue
        low, high = int(row["start"]), int(row["end"])
        differs = view is View.MAPLE and (low, high) != (start, end)
        note = f"as {low:x}-{high:x}" if differs else ""
        yield Cell(state="missing" if differs else "held", address=hex(int(row["slot"])), note=note)


def _page_cells(view: PageTablesView, areas: Areas) -> list[Cell]:
    """Pages that entries in each area's range lead to, and where the first entry is (physical address)."""
    ptes = view.ptes[view.ptes["mm_row"] == areas.mm_row]
    size = ptes.pages(view.arch)
    mapped = np.concatenate([[0], np.cumsum(np.where(ptes["state"] <= PteState.PROTNONE, size, 0))])
    swapped = np.concatenate([[0], np.cumsum(np.where(ptes["state"] == PteState.SWAP, size, 0))])
    low, high = np.searchsorted(ptes["va"], areas.start), np.searchsorted(ptes["va"], areas.end)
    high = np.maximum(high, low)
    whole = areas.mm_row >= 0 and bool(view.whole[areas.mm_row])
    first = ptes["where"][np.minimum(low, max(len(ptes) - 1, 0))] if len(ptes) else np.zeros(len(low), np.uint64)
    cells = []
    counts = ((mapped[high] - mapped[low]).tolist(), (swapped[high] - swapped[low]).tolist())
    for some, out, where, any_ in zip(*counts, first.tolist(), (high > low).tolist(), strict=True):
        note = f"{some} {plural(some, 'page')}" + (f", {out} swapped" if out else "")
        if any_:
            cells.append(Cell(state="held", address=hex(where), note=note))
        else:
            cells.append(Cell(state="none" if whole else "unread"))
    return cells


def _uncovered(views: Views, view: PageTablesView, areas: Areas) -> Iterator[Row]:
    """Runs of entries that no area of any view covers."""
    rows = view.orphans[view.ptes["mm_row"][view.orphans] == areas.mm_row]
    va = view.ptes["va"][rows]
    if len(areas):
        reach = np.maximum.accumulate(areas.end)  # areas may lie in each other
        at = np.searchsorted(areas.start, va, "right") - 1
        rows = rows[(at < 0) | (va >= reach[at])]
    runs = Runs.of(view, rows)
    contents = dict(zip(view.orphans.tolist(), view.contents, strict=False))
    for at in range(len(runs.start)):
        first = runs.first(at)
        start, end = runs.bounds(at)
        pte = view.ptes[first]
        count = (end - start) >> view.arch.page_shift
        cell = Cell(state="held", address=hex(int(pte["where"])), note=f"{count} {plural(count, 'page')}")
        inside = [Cell(state="missing")] * len(views.regions())
        cells = dict(zip((one.label for one in views.regions()), inside, strict=True))
        yield Row(
            start=hex(start),
            end=hex(end),
            perms=_rights(int(pte["allow"])),
            name=f"holds {contents[first]}" if contents.get(first) else "",
            vma=None,
            cells=cells | {View.PAGE_TABLES.label: cell},
        )


def _rights(allow: int) -> str:
    write, execute = allow & ALLOW_WRITE, allow & ALLOW_EXECUTE
    return f"r{'w' if write else '-'}{'x' if execute else '-'}"
