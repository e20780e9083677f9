"""Puts the records of one process's memory map beside each other: a row per region, a cell per view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.context import Context, comm_of
from vmaforensics.checks.runs import Runs
from vmaforensics.errors import UsageError
from vmaforensics.kernel import paging
from vmaforensics.report.maps import permissions
from vmaforensics.report.printable import printable
from vmaforensics.report.side_by_side import Cell, Row, Schema, SideBySide
from vmaforensics.report.witnesses import anchor_cells, anon_cells, file_cells, slab_cells
from vmaforensics.views.mms import Lock
from vmaforensics.views.page_tables import PteState
from vmaforensics.views.slab import State
from vmaforensics.views.tables import Kind, View, union_of
from vmaforensics.views.vmas import VMAS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.views.page_tables import PageTablesView
    from vmaforensics.views.tables import Views


@dataclass(frozen=True, slots=True, kw_only=True)
class Areas:
    """Every area of one mm that any view leads to: parallel arrays, sorted by start.

    ``start`` and ``end`` are the VMA's own; where it could not be read, those of the index.
    """

    mm: int
    mm_row: int
    start: NDArray[np.uint64]
    end: NDArray[np.uint64]
    vmas: NDArray[np.void]  # dtype VMAS
    names: list[bytes]

    def __len__(self) -> int:
        return len(self.vmas)


def areas_of(views: Views, mm: int) -> Areas:
    """The areas of ``mm`` in the index views, and those that only the slab or a reverse map knows."""
    indexed = union_of([rows[rows["mm"] == np.uint64(mm)] for rows in views.regions().values()])
    at = views.vma_rows(indexed["vma"])
    rows = [views.vmas[at]]
    start = [np.where(rows[0]["ok"], rows[0]["start"], indexed["start"])]
    end = [np.where(rows[0]["ok"], rows[0]["end"], indexed["end"])]
    names = [views.names[row] for row in at.tolist()]
    known = set(indexed["vma"].tolist())
    for strays, called in _strays(views, mm):
        fresh = ~np.isin(strays["vma"], np.array(sorted(known), np.uint64))
        rows.append(strays[fresh])
        start.append(strays["start"][fresh])
        end.append(strays["end"][fresh])
        names += [name for name, new in zip(called, fresh.tolist(), strict=True) if new]
        known.update(strays["vma"].tolist())
    vmas = np.concatenate(rows).astype(VMAS)
    low = np.concatenate(start)
    order = np.lexsort((vmas["vma"], low))
    return Areas(
        mm=mm,
        mm_row=int(views.mm_rows(np.array([mm], np.uint64))[0]),
        start=low[order],
        end=np.concatenate(end)[order],
        vmas=vmas[order],
        names=[names[row] for row in order.tolist()],
    )


def _strays(views: Views, mm: int) -> Iterator[tuple[NDArray[np.void], list[bytes]]]:
    """Areas that no index view led to, by source: rows of dtype ``VMAS``, and their names."""
    if views.slab is not None:
        slab = views.slab
        live = slab.attached & (slab.stray_state != State.FREE) & (slab.strays["mm"] == np.uint64(mm))
        yield slab.strays[live], [slab.names[row] for row in np.flatnonzero(live).tolist()]
    if views.rmap is not None:
        rows = views.rmap.areas
        stray = np.isin(rows["vma"], np.array(sorted(views.rmap.strays), np.uint64))
        stray &= rows["ok"] & (rows["mm"] == np.uint64(mm))
        yield rows[stray], [views.rmap.strays[vma] for vma in rows["vma"][stray].tolist()]


def side_by_side(views: Views, pid: int) -> SideBySide:
    """The document of one process, without details. Raises :class:`UsageError` if it has no memory map."""
    task, mm = _process(views, pid)
    areas = areas_of(views, mm)
    columns = dict(_columns(views, areas))
    vmas = areas.vmas
    told = zip(*(vmas[name].tolist() for name in ("flags", "ok", "kind", "vma")), areas.names, strict=True)
    bounds = zip(areas.start.tolist(), areas.end.tolist(), strict=True)
    rows = [
        Row(
            start=hex(start),
            end=hex(end),
            perms=permissions(flags) if known else "?",
            name=printable(name) or Kind(kind).label,
            vma=hex(vma),
            cells={view: cells[at] for view, cells in columns.items()},
        )
        for at, ((start, end), (flags, known, kind, vma, name)) in enumerate(zip(bounds, told, strict=True))
    ]
    if views.page_tables is not None:
        rows += _uncovered(views, views.page_tables, areas)
    row = areas.mm_row
    return SideBySide(
        schema=Schema(),
        pid=pid,
        comm=printable(comm_of(task["comm"])),
        task=hex(int(task["task"])),
        mm=hex(mm),
        lock=Lock(int(views.mms["lock"][row])).text if row >= 0 else Lock.UNKNOWN.text,
        views=list(columns),
        rows=sorted(rows, key=lambda one: int(one.start, 16)),
    )


def _process(views: Views, pid: int) -> tuple[np.void, int]:
    """The leader of a process and its mm; of a thread that lives on where the leader has exited."""
    mine = views.tasks[views.tasks["tgid"] == pid]
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
        yield View.SLAB.label, slab_cells(views.slab, areas.vmas)
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
    size = view.size(ptes)
    mapped = np.concatenate([[0], np.cumsum(np.where(ptes["state"] <= PteState.PROTNONE, size, 0))])
    swapped = np.concatenate([[0], np.cumsum(np.where(ptes["state"] == PteState.SWAP, size, 0))])
    low, high = np.searchsorted(ptes["va"], areas.start), np.searchsorted(ptes["va"], areas.end)
    high = np.maximum(high, low)
    whole = areas.mm_row >= 0 and bool(view.whole[areas.mm_row])
    first = ptes["where"][np.minimum(low, max(len(ptes) - 1, 0))] if len(ptes) else np.zeros(len(low), np.uint64)
    cells = []
    counts = ((mapped[high] - mapped[low]).tolist(), (swapped[high] - swapped[low]).tolist())
    for some, out, where, any_ in zip(*counts, first.tolist(), (high > low).tolist(), strict=True):
        note = f"{some} page{'' if some == 1 else 's'}" + (f", {out} swapped" if out else "")
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
        count = (end - start) >> 12
        cell = Cell(state="held", address=hex(int(pte["where"])), note=f"{count} page{'' if count == 1 else 's'}")
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
    write, execute = allow & paging.ALLOW_WRITE, allow & paging.ALLOW_EXECUTE
    return f"r{'w' if write else '-'}{'x' if execute else '-'}"
