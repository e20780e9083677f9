# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""Every region of every address space with what each record says of it, as columns.

The same regions and verdicts as ``compare/records.py`` puts side by side for one process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.context import Context
from vmaforensics.checks.pages.entry_runs import Runs
from vmaforensics.compare.cells import REMEMBERED, anon_cells, file_cells, slab_cells
from vmaforensics.views.anchors.anchors import AUXV
from vmaforensics.views.indices.entries import IndexEntries
from vmaforensics.views.slab.objects import State
from vmaforensics.views.view import View
from vmaforensics.views.vmas.vmas import Vmas

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from vmaforensics.compare.side_by_side import Cell
    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.views import Views

# What a view says of a region: it has it; it was read whole and lacks it, or says otherwise; it could not be
# read; it need not have it.
HELD, MISSING, UNREAD, NONE = np.arange(4, dtype=np.uint8)
_STATES = {"held": HELD, "missing": MISSING, "unread": UNREAD, "none": NONE}


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionTable:
    """Areas that any record leads to: parallel arrays, sorted by mm, start and VMA.

    ``start`` and ``end`` are the VMA's own; where it could not be read, those of the index, or 0. ``cells`` has
    HELD, MISSING, UNREAD or NONE for each view there is. ``agrees``: no record gives another range or owner.
    ``indexed``: an index leads to it.
    """

    mm: NDArray[np.uint64]
    start: NDArray[np.uint64]
    end: NDArray[np.uint64]
    vmas: Vmas
    names: list[bytes]
    agrees: NDArray[np.bool_]
    indexed: NDArray[np.bool_]
    cells: dict[View, NDArray[np.uint8]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncovered:
    """Runs of page-table entries that no area of any record covers: parallel arrays."""

    mm: NDArray[np.uint64]
    start: NDArray[np.uint64]
    end: NDArray[np.uint64]
    allow: NDArray[np.uint8]  # of the first entry, over all levels
    contents: list[str]  # what its page looks like; empty: not looked at


def region_table(views: Views) -> RegionTable:
    """The areas of the indices, and those that only the slab or a reverse map knows."""
    union = views.union
    at = views.vma_rows(union["vma"])
    parts = [(union.mm, views.vmas.take(at), [views.names[row] for row in at.tolist()])]
    parts += [(rows.mm, rows, names) for rows, names in _strays(views)]
    mm, vmas = np.concatenate([part[0] for part in parts]), Vmas.concatenate([part[1] for part in parts])
    names = [name for part in parts for name in part[2]]
    indexed = np.arange(len(mm)) < len(union)
    # What an index knows is told as the index knows it, the rest as the first that knows it.
    (pairs,) = _numbered((mm, vmas["vma"]))
    first = np.zeros(len(mm), np.bool_)
    first[np.unique(pairs, return_index=True)[1]] = True
    keep = np.flatnonzero(indexed | (first & np.isin(mm, views.mms["mm"])))
    low, high = vmas["start"].copy(), vmas["end"].copy()
    low[: len(union)] = np.where(vmas["ok"][: len(union)], low[: len(union)], union["start"])
    high[: len(union)] = np.where(vmas["ok"][: len(union)], high[: len(union)], union["end"])
    order = keep[np.lexsort((vmas["vma"][keep], low[keep], mm[keep]))]
    vmas, mm, start, end = vmas.take(order), mm[order], low[order], high[order]
    cells, agrees = _index_cells(views, mm, vmas, start, end)
    return RegionTable(
        mm=mm,
        start=start,
        end=end,
        vmas=vmas,
        names=[names[row] for row in order.tolist()],
        agrees=agrees,
        indexed=indexed[order],
        cells=cells | dict(_witness_cells(views, mm, vmas, start, end)),
    )


def uncovered(views: Views, table: RegionTable) -> Uncovered:
    """What the page tables map and no region of ``table`` covers."""
    view = views.page_tables
    if view is None:
        nothing = np.zeros(0, np.uint64)
        return Uncovered(mm=nothing, start=nothing, end=nothing, allow=np.zeros(0, np.uint8), contents=[])
    rows = view.orphans
    mm, va = views.mms["mm"][view.ptes["mm_row"][rows]], view.ptes["va"][rows]
    # Orphans are covered by no area of an index; by one that only the slab knows, perhaps.
    covered = np.zeros(len(rows), np.bool_)
    for at in np.flatnonzero(~table.indexed).tolist():
        covered |= (mm == table.mm[at]) & (va >= table.start[at]) & (va < table.end[at])
    runs = Runs.of(view, rows[~covered])
    contents = dict(zip(view.orphans.tolist(), view.contents, strict=False))
    return Uncovered(
        mm=views.mms["mm"][runs.mm_row],
        start=runs.start,
        end=runs.end,
        allow=view.ptes["allow"][runs.entry],
        contents=[contents.get(row) or "" for row in runs.entry.tolist()],
    )


def _numbered(*pairs: tuple[NDArray[np.uint64], NDArray[np.uint64]]) -> list[NDArray[np.int64]]:
    """Numbers for pairs of (mm, VMA): equal pairs of all the arrays have equal numbers."""
    _, mm = np.unique(np.concatenate([pair[0] for pair in pairs]), return_inverse=True)
    _, vma = np.unique(np.concatenate([pair[1] for pair in pairs]), return_inverse=True)
    numbers = mm.astype(np.int64) * (len(vma) + 1) + vma
    return np.split(numbers, np.cumsum([len(pair[0]) for pair in pairs])[:-1])


def _strays(views: Views) -> Iterator[tuple[Vmas, list[bytes]]]:
    """Areas that no index view led to, by source: their rows, and their names."""
    if (strays := views.strays) is not None:
        live = np.flatnonzero(strays.attached & (strays.state != State.FREE))
        yield strays.vmas.take(live), [strays.names[row] for row in live.tolist()]
    if views.rmap is not None:
        areas = views.rmap.vmas
        stray = np.isin(areas["vma"], np.array(sorted(views.rmap.strays), np.uint64)) & areas["ok"]
        yield areas.take(stray), [views.rmap.strays[vma] for vma in areas["vma"][stray].tolist()]


def _index_cells(
    views: Views, mm: NDArray[np.uint64], vmas: Vmas, start: NDArray[np.uint64], end: NDArray[np.uint64]
) -> tuple[dict[View, NDArray[np.uint8]], NDArray[np.bool_]]:
    """A cell per region for each index, and whether they and the VMA agree on range and owner."""
    context = Context(views)
    agrees = ~vmas["ok"] | (vmas["mm"] == mm)
    cells = {}
    for view, rows in views.regions().items():
        asked, known = _numbered((mm, vmas["vma"]), (rows["mm"], rows["vma"]))
        order = np.argsort(known, kind="stable")
        found = np.minimum(np.searchsorted(known[order], asked), max(len(known) - 1, 0))
        row = rows.take(order[found]) if len(rows) else IndexEntries.zeros(len(mm))
        held = known[order[found]] == asked if len(rows) else np.zeros(len(mm), np.bool_)
        # Only the maple tree has ranges of its own.
        other = held & ((row.start != start) | (row.end != end)) & (view is View.MAPLE)
        agrees &= ~other
        whole = context.whole(view, mm)
        cells[view] = np.where(held & ~other, HELD, np.where(other | whole, MISSING, UNREAD))
    return cells, agrees


def _witness_cells(
    views: Views, mm: NDArray[np.uint64], vmas: Vmas, start: NDArray[np.uint64], end: NDArray[np.uint64]
) -> Iterator[tuple[View, NDArray[np.uint8]]]:
    """A cell per region for each record outside of the indices."""
    if views.page_tables is not None:
        yield View.PAGE_TABLES, _page_cells(views, views.page_tables, mm, start, end)
    if views.slab is not None:
        yield View.SLAB, _states(slab_cells(views.slab, views.strays, vmas))
    if views.rmap is not None:
        yield View.FILE_RMAP, _states(file_cells(views.rmap, vmas))
        yield View.ANON_RMAP, _states(anon_cells(views.rmap, vmas))
    if views.anchors is not None:
        yield View.ANCHORS, _anchor_cells(views, mm, start, end)


def _states(cells: Sequence[Cell]) -> NDArray[np.uint8]:
    return np.array([_STATES[cell.state] for cell in cells], np.uint8)


def _page_cells(
    views: Views, view: PageTablesView, mm: NDArray[np.uint64], start: NDArray[np.uint64], end: NDArray[np.uint64]
) -> NDArray[np.uint8]:
    """HELD where any entry lies in the region. An area without any is no disagreement."""
    row = views.mm_rows(mm)
    whole = np.where(row >= 0, view.whole[row], False)
    owner, va = np.ascontiguousarray(view.ptes["mm_row"]), np.ascontiguousarray(view.ptes["va"])
    held = np.zeros(len(mm), np.bool_)
    edges = np.flatnonzero(np.concatenate([[True], mm[1:] != mm[:-1], [True]]))[: len(mm) and None]
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        first, last = np.searchsorted(owner, [row[low], row[low] + 1])
        mine = va[first:last]
        held[low:high] = np.searchsorted(mine, end[low:high]) > np.searchsorted(mine, start[low:high])
    return np.where(held, HELD, np.where(whole, NONE, UNREAD))


def _anchor_cells(
    views: Views, mm: NDArray[np.uint64], start: NDArray[np.uint64], end: NDArray[np.uint64]
) -> NDArray[np.uint8]:
    """HELD where an address that the kernel remembers of the process lies in the region."""
    assert views.anchors is not None
    anchors = views.anchors
    threads = anchors.threads[anchors.threads["user"]]
    owners = [threads["mm"], threads["mm"]] + [views.mms["mm"]] * (len(REMEMBERED) + len(AUXV))
    values = [threads["ip"], threads["sp"], *(views.mms[name] for name in REMEMBERED)]
    values += [anchors.mms[name] for name in AUXV]
    owner, value = np.concatenate(owners), np.concatenate(values).astype(np.uint64)
    held = np.full(len(mm), NONE)
    # The last region that begins at or below each address, in the same mm.
    order = np.lexsort(
        (
            np.concatenate([np.ones(len(value), np.bool_), np.zeros(len(mm), np.bool_)]),
            np.concatenate([value, start]),
            np.concatenate([owner, mm]),
        )
    )
    region = np.where(order >= len(value), order - len(value), -1)
    before = np.maximum.accumulate(np.where(region >= 0, np.arange(len(order)), -1))
    asked = (region < 0) & (before >= 0)
    at, one = region[before[asked]], order[asked]
    inside = (mm[at] == owner[one]) & (value[one] < end[at]) & (value[one] != 0)
    held[at[inside]] = HELD
    return held
