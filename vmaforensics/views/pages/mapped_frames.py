"""The page frames that page-table entries lead to: how many entries lead to each, and its row in a table of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct, rows_of
from vmaforensics.views.pages.frame_ranges import described
from vmaforensics.views.pages.page_types import PageReader

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64, U32, U64, Bools
    from vmaforensics.kernel.kernel import Kernel


_BLOCK = 15  # frames whose counts are looked through together, as a power of two
_FEW_GAPS = 4  # times as many numbers as frames are taken, for the sake of speed


class FramePlaces:
    """Numbers for the frames that the kernel has a struct page of; small gaps between them are numbered too.

    Raises :class:`KernelNotFoundError` if the kernel's types do not have ``struct page`` as we know it.
    """

    def __init__(self, kernel: Kernel) -> None:
        ranges = described(PageReader(kernel)).astype(np.int64)
        first, end = ranges[:, 0], ranges[:, 1]
        if len(first) and int(end[-1]) - int(first[0]) <= _FEW_GAPS * int((end - first).sum()):
            first, end = first[:1], end[-1:]
        self._first, self._end = first.astype(np.uint64), end.astype(np.uint64)
        sizes = end - first
        self._before = np.cumsum(sizes) - sizes
        self.count = int(sizes.sum())

    def of(self, pfns: U64) -> tuple[I64, Bools]:
        """Number of each frame, and which have one."""
        if not self.count:
            return np.zeros(len(pfns), np.int64), np.zeros(len(pfns), np.bool_)
        if len(self._first) == 1:
            with np.errstate(over="ignore"):
                number = pfns - self._first[0]
            return number.view(np.int64), number < np.uint64(self.count)
        which = np.maximum(np.searchsorted(self._first, pfns, "right") - 1, 0)
        first = self._first[which]
        with np.errstate(over="ignore"):
            place = (pfns - first).astype(np.int64) + self._before[which]
        return place, (pfns >= first) & (pfns < self._end[which])

    def frames(self, places: I64) -> U64:
        """The frame with each number."""
        which = np.searchsorted(self._before, places, "right") - 1
        found: U64 = self._first[which] + (places - self._before[which]).astype(np.uint64)
        return found


class EntryCounts:
    """How many entries lead to each frame, in four bytes for each frame that the kernel has a struct page of."""

    def __init__(self, kernel: Kernel) -> None:
        self.places = FramePlaces(kernel)
        # The counts of all frames take memory only where entries lead to, and only there are they looked at.
        self._counts: U32 = np.zeros(-(-self.places.count >> _BLOCK << _BLOCK), np.uint32)
        self._counted = np.zeros(len(self._counts) >> _BLOCK, np.bool_)  # blocks of frames
        self._others = np.zeros(0, np.uint64)  # frames that entries lead to and that are not counted
        self._special = np.zeros(0, np.uint64)  # frames that nobody counts: pages of zeros, raw frames

    def count(self, pfns: U64) -> None:
        """An entry leads to each of ``pfns``."""
        place, known = self.places.of(pfns)
        if not known.all():
            self.add(pfns[~known])
            place = place[known]
        np.add.at(self._counts, place, np.uint32(1))
        self._counted[place >> _BLOCK] = True

    def add(self, pfns: U64) -> None:
        """Entries lead to these frames and do not count."""
        if len(pfns):
            self._others = distinct(self._others, pfns)

    def include(self, others: EntryCounts) -> None:
        """Count what ``others``, of the same kernel, have counted too."""
        for block in np.flatnonzero(others._counted).tolist():
            within = slice(block << _BLOCK, block + 1 << _BLOCK)
            self._counts[within] += others._counts[within]
        self._counted |= others._counted
        self.add(others._others)
        self.add_special(others._special)

    def frames(self) -> U64:
        """Every frame that some entry leads to and counts for, ascending."""
        blocks = np.flatnonzero(self._counted)
        block, within = np.nonzero(self._counts.reshape(-1, 1 << _BLOCK)[blocks] != 0)  # of bytes it is quicker
        counted = self.places.frames((blocks[block] << _BLOCK) + within)
        return distinct(counted, self._others) if len(self._others) else counted

    def add_special(self, pfns: U64) -> None:
        """Entries lead to these frames, which have no page that anybody counts mappings of."""
        if len(pfns):
            self._special = distinct(self._special, pfns)

    def mapped(self) -> U64:
        """Every frame that some entry leads to, pages of zeros and raw frames too; ascending."""
        return distinct(self.frames(), self._special) if len(self._special) else self.frames()

    def of_run(self, first: int, end: int) -> I64:
        """How many entries lead to each of the frames ``[first, end)``, which lie in one range."""
        place, known = self.places.of(np.array([first], np.uint64))
        if not known[0]:
            return np.zeros(end - first, np.int64)
        return self._counts[place[0] : place[0] + end - first].astype(np.int64)


class FrameRows:
    """The rows of frames in a table that is sorted by them."""

    def __init__(self, places: FramePlaces, frames: U64) -> None:
        self._places, self._frames = places, frames
        place, known = places.of(frames)
        self._rows = np.zeros(places.count, np.int32)  # and one more; what is 0 takes no memory
        self._rows[place[known]] = np.flatnonzero(known) + 1

    def of(self, pfns: U64) -> I64:
        """Row of each frame, -1 where it has none."""
        place, known = self._places.of(pfns)
        if known.all():
            return self._rows[place].astype(np.int64) - 1
        found = rows_of(self._frames, pfns)
        found[known] = self._rows[place[known]] - 1
        return found
