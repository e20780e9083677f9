"""Every area of one address space, whichever record leads to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.views.indices.entries import union_of
from vmaforensics.views.slab.objects import State
from vmaforensics.views.vmas.vmas import Vmas

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray

    from vmaforensics.views.views import Views


@dataclass(frozen=True, slots=True, kw_only=True)
class Areas:
    """Every area of one mm that any view leads to: parallel arrays, sorted by start.

    ``start`` and ``end`` are the VMA's own; where it could not be read, those of the index.
    """

    mm: int
    mm_row: int
    start: NDArray[np.uint64]
    end: NDArray[np.uint64]
    vmas: Vmas
    names: list[bytes]

    def __len__(self) -> int:
        return len(self.vmas)

    def where(self, keep: NDArray[np.bool_]) -> Areas:
        """Those of them that ``keep`` says."""
        return Areas(
            mm=self.mm,
            mm_row=self.mm_row,
            start=self.start[keep],
            end=self.end[keep],
            vmas=self.vmas.take(keep),
            names=[self.names[at] for at in np.flatnonzero(keep).tolist()],
        )


def areas_of(views: Views, mm: int) -> Areas:
    """The areas of ``mm`` in the index views, and those that only the slab or a reverse map knows."""
    indexed = union_of([rows.take(rows.mm == np.uint64(mm)) for rows in views.regions().values()])
    at = views.vma_rows(indexed["vma"])
    rows = [views.vmas.take(at)]
    start = [np.where(rows[0]["ok"], rows[0]["start"], indexed["start"])]
    end = [np.where(rows[0]["ok"], rows[0]["end"], indexed["end"])]
    names = [views.names[row] for row in at.tolist()]
    known = set(indexed["vma"].tolist())
    for strays, called in _strays(views, mm):
        fresh = ~np.isin(strays["vma"], np.array(sorted(known), np.uint64))
        rows.append(strays.take(fresh))
        start.append(strays["start"][fresh])
        end.append(strays["end"][fresh])
        names += [name for name, new in zip(called, fresh.tolist(), strict=True) if new]
        known.update(strays["vma"].tolist())
    vmas = Vmas.concatenate(rows)
    low = np.concatenate(start)
    order = np.lexsort((vmas["vma"], low))
    return Areas(
        mm=mm,
        mm_row=int(views.mm_rows(np.array([mm], np.uint64))[0]),
        start=low[order],
        end=np.concatenate(end)[order],
        vmas=vmas.take(order),
        names=[names[row] for row in order.tolist()],
    )


def _strays(views: Views, mm: int) -> Iterator[tuple[Vmas, list[bytes]]]:
    """Areas that no index view led to, by source: their rows, and their names."""
    if (strays := views.strays) is not None:
        live = np.flatnonzero(strays.attached & (strays.state != State.FREE) & (strays.vmas.mm == np.uint64(mm)))
        yield strays.vmas.take(live), [strays.names[row] for row in live.tolist()]
    if views.rmap is not None:
        rows = views.rmap.vmas
        stray = np.isin(rows["vma"], np.array(sorted(views.rmap.strays), np.uint64))
        stray &= rows["ok"] & (rows["mm"] == np.uint64(mm))
        yield rows.take(stray), [views.rmap.strays[vma] for vma in rows["vma"][stray].tolist()]


def nearest(views: Views, areas: Areas, ranges: Collection[tuple[int, int]], most: int) -> NDArray[np.bool_]:
    """At most ``most`` areas: those that some index lacks and those in ``ranges``, then their neighbours."""
    if len(areas) <= most:
        return np.ones(len(areas), np.bool_)
    named = np.zeros(len(areas), np.bool_)
    for rows in views.regions().values():
        named |= ~np.isin(areas.vmas["vma"], rows["vma"][rows["mm"] == np.uint64(areas.mm)])
    for low, high in ranges:
        named |= (areas.start < np.uint64(min(high, (1 << 64) - 1))) & (areas.end > np.uint64(low))
    hits = np.flatnonzero(named)
    place = np.arange(len(areas))
    if len(hits):
        after = np.minimum(np.searchsorted(hits, place), len(hits) - 1)
        before = np.maximum(np.searchsorted(hits, place, "right") - 1, 0)
        away = np.minimum(np.abs(hits[after] - place), np.abs(place - hits[before]))
    else:
        away = place
    keep = np.zeros(len(areas), np.bool_)
    keep[np.argsort(away, kind="stable")[:most]] = True
    return keep
