"""Empty ranges of an address space in which an area that is missing may have been."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.indices.maple import gap_mismatches, leaf_slots, null_pairs
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.checks.context import Context
    from vmaforensics.views.vmas.vmas import Vmas

_LARGEST = np.uint64(1 << 40)  # bytes; a larger hole is what lies between the parts of an address space


@dataclass(frozen=True, slots=True, kw_only=True)
class Hole:
    """An empty range of an address space, and why an area may have been there."""

    start: int
    end: int
    where: int  # address of the empty slot of the maple tree, 0 if it is just what lies between two areas
    suspect: bool  # the tree's own records do not allow it
    file: Evidence | None  # the areas on both sides map one file, and its offsets leave just this room


class Holes:
    """Finds where an area that is missing may have been."""

    def __init__(self, context: Context) -> None:
        self.context = context
        nodes = context.views.maple_nodes
        self.slots = leaf_slots(nodes)
        self.suspect = np.zeros(len(self.slots.mm), np.bool_)
        # Empty ranges wider than the parent of their leaf records.
        rows, real, recorded = gap_mismatches(nodes)
        wider = np.zeros(len(nodes), np.bool_)
        wider[rows[real[rows] > recorded[rows]]] = True
        self.wider = wider[self.slots.node]  # per slot: its leaf holds a wider gap than its parent records
        with np.errstate(over="ignore"):
            size = self.slots.high - self.slots.low + np.uint64(1)
        self.suspect |= self.slots.empty & wider[self.slots.node] & (size > recorded[self.slots.node])
        pairs = null_pairs(self.slots)
        self.suspect[pairs] = self.suspect[pairs - 1] = True
        self.suspect &= context.whole(View.MAPLE, self.slots.mm)

    def lone(self) -> list[tuple[int, Hole]]:
        """(mm, hole) where a single empty slot makes its leaf's recorded gap wrong, and is no larger than an
        area may be. Several in one leaf mean that the record was changed, not the slots: that is MT-GAP."""
        rows = np.flatnonzero(self.suspect & self.wider & ((self.slots.high - self.slots.low) < _LARGEST))
        if not len(rows):
            return []
        alone = rows[np.bincount(self.slots.node[self.suspect])[self.slots.node[rows]] == 1].tolist()
        return [(int(self.slots.mm[row]), self._of_slot(row)) for row in alone]

    def candidates(self, mm: int, size: int) -> list[Hole]:
        """Where ``size`` bytes may have been, the best reason deciding: an empty slot the tree does not allow,
        room that a file's offsets leave, any room of just that size, any empty slot the tree does not allow."""
        mine = np.flatnonzero(self.slots.empty & (self.slots.mm == np.uint64(mm)))
        holes = {(one.start, one.end): one for one in [*self._between(mm), *map(self._of_slot, mine.tolist())]}
        fits = [one for one in holes.values() if one.end - one.start == size]
        return (
            [one for one in fits if one.suspect]
            or [one for one in fits if one.file]
            or fits
            or [one for one in holes.values() if one.suspect]
        )

    def _of_slot(self, row: int) -> Hole:
        mm = int(self.slots.mm[row])
        top = int(self.context.views.mms["task_size"][self.context.views.mm_rows(self.slots.mm[row : row + 1])[0]])
        start, end = int(self.slots.low[row]), min(int(self.slots.high[row]) + 1, top or (1 << 64) - 1)
        return Hole(
            start=start,
            end=end,
            where=int(self.slots.where[row]),
            suspect=bool(self.suspect[row]),
            file=self._file_around(self._areas(mm), start, end),
        )

    def _areas(self, mm: int) -> Vmas:
        """The decoded areas of an mm over all views, ascending."""
        rows = self.context.views.regions().values()
        addresses = np.unique(np.concatenate([one["vma"][one["mm"] == np.uint64(mm)] for one in rows]))
        vmas = self.context.views.vmas[self.context.views.vma_rows(addresses)]
        read: Vmas = vmas[vmas["ok"]]
        return read.sort_by(read.start)

    def _between(self, mm: int) -> list[Hole]:
        vmas = self._areas(mm)
        rows = np.flatnonzero(vmas["start"][1:] > vmas["end"][:-1])
        spans = zip(vmas["end"][rows].tolist(), vmas["start"][rows + 1].tolist(), strict=True)
        return [
            Hole(start=start, end=end, where=0, suspect=False, file=self._file_around(vmas, start, end))
            for start, end in spans
        ]

    def _file_around(self, vmas: Vmas, start: int, end: int) -> Evidence | None:
        """Do the areas on both sides map one file at offsets that leave just this room?"""
        context, files = self.context, self.context.views.files
        before, after = vmas[vmas["end"] == np.uint64(start)], vmas[vmas["start"] == np.uint64(end)]
        if not len(before) or not len(after) or files is None or min(before["file_row"][0], after["file_row"][0]) < 0:
            return None
        inode = files.rows["inode"][[before["file_row"][0], after["file_row"][0]]]
        offset = int(before["pgoff"][0]) + (int(before["end"][0] - before["start"][0]) >> 12)
        if inode[0] != inode[1] or int(after["pgoff"][0]) < offset:
            return None
        name = context.views.names[int(context.views.vma_rows(before["vma"][:1])[0])]
        shown = name.decode("utf-8", "backslashreplace")
        return Evidence(
            what=f"the areas on both sides map {shown}; between them is room for its file offset {offset << 12:#x}",
            view=View.FILES.label,
            address=int(before["vma"][0]),
        )
