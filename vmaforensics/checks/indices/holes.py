"""Empty ranges of an address space in which a VMA that is missing may have been."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.indices.maple_slots import leaf_slots, node_gaps, null_pairs
from vmaforensics.columns.lookup import distinct
from vmaforensics.views.indices.maple_nodes import slot_addresses
from vmaforensics.views.view import View
from vmaforensics.words.printable import decoded

if TYPE_CHECKING:
    from vmaforensics.checks.context import Context
    from vmaforensics.views.vmas.vmas import Vmas

_LARGEST = np.uint64(1 << 40)  # bytes; a larger hole is what lies between the parts of an address space
_LAST = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Hole:
    """An empty range of an address space, and why a VMA may have been there."""

    start: int
    end: int
    where: int  # address of the empty slot of the maple tree, 0 if it is just what lies between two VMAs
    suspect: bool  # the tree's own records do not allow it
    file: Evidence | None  # the VMAs on both sides map one file, and its offsets leave just this room


class HoleOf(NamedTuple):
    """A hole, and whose it is."""

    mm: int
    hole: Hole


class Holes:
    """Finds where a VMA that is missing may have been; ask for it with ``context.shared``."""

    def __init__(self, context: Context) -> None:
        self._context = context
        nodes = context.views.maple_nodes
        self._slots = slots = context.shared(leaf_slots)
        gaps = context.shared(node_gaps)
        #: Per slot: its leaf holds a wider gap than its parent records.
        self._wider = (gaps.real > gaps.recorded)[slots.node]
        with np.errstate(over="ignore"):
            size = slots.high - slots.low + np.uint64(1)
        #: Per slot: it is empty, and the tree's own records do not allow that.
        self._suspect = slots.empty & self._wider & (size > gaps.recorded[slots.node])
        pairs = null_pairs(context)
        self._suspect[pairs] = self._suspect[pairs - 1] = True
        self._suspect &= context.whole(View.MAPLE, nodes.mm[slots.node])

    def lone(self) -> list[HoleOf]:
        """Each single empty slot that makes its leaf's recorded gap wrong and is no larger than a VMA may be.

        Several in one leaf mean that the record was changed, not the slots: that is MT-GAP.
        """
        slots = self._slots
        rows = np.flatnonzero(self._suspect & self._wider & ((slots.high - slots.low) < _LARGEST))
        if not len(rows):
            return []
        alone = rows[np.bincount(slots.node[self._suspect])[slots.node[rows]] == 1].tolist()
        return [HoleOf(int(self._context.views.maple_nodes.mm[slots.node[row]]), self._of_slot(row)) for row in alone]

    def candidates(self, mm: int, size: int) -> list[Hole]:
        """Where ``size`` bytes may have been, the best reason deciding: an empty slot the tree does not allow,
        room that a file's offsets leave, any room of just that size, any empty slot the tree does not allow."""
        slots = self._slots
        empty = np.flatnonzero(slots.empty & (self._context.views.maple_nodes.mm[slots.node] == np.uint64(mm)))
        every = [*self._between(mm), *map(self._of_slot, empty.tolist())]
        holes = {(hole.start, hole.end): hole for hole in every}
        fits = [hole for hole in holes.values() if hole.end - hole.start == size]
        return (
            [hole for hole in fits if hole.suspect]
            or [hole for hole in fits if hole.file]
            or fits
            or [hole for hole in holes.values() if hole.suspect]
        )

    def _of_slot(self, row: int) -> Hole:
        slots, views = self._slots, self._context.views
        nodes = views.maple_nodes
        node = slots.node[row : row + 1]
        top = int(views.mms.task_size[views.mm_rows(nodes.mm[node])[0]])
        start, end = int(slots.low[row]), min(int(slots.high[row]) + 1, top or _LAST)
        return Hole(
            start=start,
            end=end,
            where=int(slot_addresses(nodes, node, slots.slot[row : row + 1])[0]),
            suspect=bool(self._suspect[row]),
            file=self._file_around(self._vmas(int(nodes.mm[node[0]])), start, end),
        )

    def _vmas(self, mm: int) -> Vmas:
        """The VMAs of an mm that were read, over all indices, ascending."""
        views = self._context.views
        addresses = [entries.vma[entries.mm == np.uint64(mm)] for entries in views.indices().values()]
        vmas = views.vmas.take(views.vma_rows(distinct(np.concatenate(addresses))))
        vmas = vmas.take(vmas.ok)
        return vmas.sort_by(vmas.start)

    def _between(self, mm: int) -> list[Hole]:
        """What lies between the VMAs of an mm."""
        vmas = self._vmas(mm)
        rows = np.flatnonzero(vmas.start[1:] > vmas.end[:-1])
        ranges = zip(vmas.end[rows].tolist(), vmas.start[rows + 1].tolist(), strict=True)
        return [
            Hole(start=start, end=end, where=0, suspect=False, file=self._file_around(vmas, start, end))
            for start, end in ranges
        ]

    def _file_around(self, vmas: Vmas, start: int, end: int) -> Evidence | None:
        """Do the VMAs on both sides map one file at offsets that leave just this room?"""
        views = self._context.views
        before, after = vmas.take(vmas.end == np.uint64(start)), vmas.take(vmas.start == np.uint64(end))
        if not len(before) or not len(after) or views.files is None or min(before.file_row[0], after.file_row[0]) < 0:
            return None
        inode = views.files.rows.inode
        offset = int(before.pgoff[0]) + int(views.arch.pages(before.end - before.start)[0])
        if inode[before.file_row[0]] != inode[after.file_row[0]] or int(after.pgoff[0]) < offset:
            return None
        name = decoded(views.names[int(views.vma_rows(before.vma[:1])[0])])
        return Evidence(
            what=f"the VMAs on both sides map {name}; between them is room for its file offset "
            f"{offset * views.arch.page_size:#x}",
            view=View.FILES.label,
            address=int(before.vma[0]),
        )
