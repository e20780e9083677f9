"""A memory with changes: labelled edits of a clean image, and images with holes, for the proofs.

>>> edited = Overlay(image.memory)
>>> edited.write(pa, (0x1000).to_bytes(8, "little"))
>>> edited.drop(np.array([0x1234], np.uint64))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import difference, distinct, rows_of
from vmaforensics.columns.runs import true_ranges
from vmaforensics.image.memory import PhysicalMemory
from vmaforensics.image.placed import PAGE_SHIFT, PAGE_SIZE, PageState, Placed
from vmaforensics.image.source import take

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


class Overlay(PhysicalMemory):
    """``base`` as it would be after some writes and with some pages missing; ``base`` itself stays as it is.

    Costs of a read grow with the rows asked for, hardly with the number of edits.
    """

    as_in_file = False

    def __init__(self, base: PhysicalMemory) -> None:
        super().__init__(base.ranges)
        self.base = base
        self.batch = base.batch
        self.plain = base.plain
        self._dropped = np.zeros(0, dtype=np.uint64)  # sorted page frames
        # Edited pages in ascending order: page frames, contents, and which bytes are held.
        self._edited = np.zeros(0, dtype=np.uint64)
        self._pages = np.zeros((0, PAGE_SIZE), dtype=np.uint8)
        self._held = np.zeros((0, PAGE_SIZE), dtype=np.bool_)

    def write(self, pa: int, data: bytes) -> None:
        """Put ``data`` at physical address ``pa``. In a page that is not in the dump only the bytes written
        become known. Raises :class:`ValueError` if a page is not RAM."""
        end = pa + len(data)
        first, last = pa >> PAGE_SHIFT, -(-end >> PAGE_SHIFT)
        pfns = np.arange(first, last, dtype=np.uint64)
        if (self.base.page_states(pfns) == PageState.NOT_RAM).any():
            raise ValueError(f"cannot write {len(data)} bytes at {pa:#x}: not RAM of this image")
        self._open(pfns)
        for pfn in range(first, last):
            page = pfn << PAGE_SHIFT
            low, high = max(pa, page), min(end, page + PAGE_SIZE)
            row = int(np.searchsorted(self._edited, np.uint64(pfn)))
            self._pages[row, low - page : high - page] = np.frombuffer(data[low - pa : high - pa], np.uint8)
            self._held[row, low - page : high - page] = True

    def drop(self, pfns: int | NDArray[np.uint64]) -> None:
        """Make these page frames absent, edited or not."""
        gone = np.atleast_1d(np.asarray(pfns, dtype=np.uint64))
        self._dropped = distinct(self._dropped, gone)
        self._keep(~np.isin(self._edited, gone))

    def changed(self) -> NDArray[np.uint64]:
        """The page frames that were written to or dropped, ascending."""
        return distinct(self._dropped, self._edited)

    def _open(self, pfns: NDArray[np.uint64]) -> None:
        """Make copies of those of ``pfns`` that have none yet."""
        new = pfns[~np.isin(pfns, self._edited)]
        if len(new) == 0:
            return
        steps = np.arange(PAGE_SIZE, dtype=np.uint64)
        data, whole = self.gather(new << np.uint64(PAGE_SHIFT), PAGE_SIZE)
        held = np.repeat(whole[:, None], PAGE_SIZE, axis=1)
        for row in np.flatnonzero(~whole).tolist():  # held in part, perhaps
            octets, held[row] = self.gather((new[row] << np.uint64(PAGE_SHIFT)) + steps, 1)
            data[row] = octets[:, 0]
        self._edited = np.concatenate([self._edited, new])
        self._pages = np.concatenate([self._pages, data])
        self._held = np.concatenate([self._held, held])
        self._keep(np.argsort(self._edited, kind="stable"))
        self._dropped = difference(self._dropped, new)

    def _keep(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> None:
        self._edited, self._pages, self._held = self._edited[rows], self._pages[rows], self._held[rows]

    def _locate(self, pas: NDArray[np.uint64], size: int) -> Placed:
        buffer, offsets, states = self.base._locate(pas, size)
        pfns = pas >> np.uint64(PAGE_SHIFT)
        states = self._without_dropped(pfns, states)
        row = rows_of(self._edited, pfns)
        hit = row >= 0
        if not hit.any():
            return Placed(buffer, offsets, states)
        # One buffer has to hold both what lies in the base and what was written: copy this batch.
        copy = np.zeros((len(pas), size), dtype=np.uint8)
        simple = np.flatnonzero((states == PageState.PRESENT) & ~hit)
        copy[simple] = take(buffer, offsets[simple], size) if len(simple) else 0
        at = row[hit] * PAGE_SIZE + (pas[hit] & np.uint64(PAGE_SIZE - 1)).astype(np.int64)
        copy[hit] = take(self._pages.reshape(-1), at, size)
        known = take(self._held.view(np.uint8).reshape(-1), at, size).all(axis=1)
        states[hit] = np.where(known, PageState.PRESENT, PageState.ABSENT)
        return Placed(copy.reshape(-1), np.arange(len(pas), dtype=np.int64) * size, states)

    def page_states(self, pfns: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """A page written to in part is present only if the rest of it is known."""
        pfns = np.asarray(pfns, dtype=np.uint64)
        states = self._without_dropped(pfns, self.base.page_states(pfns))
        row = rows_of(self._edited, pfns)
        hit = row >= 0
        whole = self._held[row[hit]].all(axis=1) | (states[hit] == PageState.PRESENT)
        states[hit] = np.where(whole, PageState.PRESENT, PageState.ABSENT)
        return states

    def _without_dropped(self, pfns: NDArray[np.uint64], states: NDArray[np.uint8]) -> NDArray[np.uint8]:
        gone = (rows_of(self._dropped, pfns) >= 0) & (states != PageState.NOT_RAM)
        return np.where(gone, np.uint8(PageState.ABSENT), states)

    def problems(self) -> tuple[str, ...]:
        return self.base.problems()

    def chunks(self, size: int = 1 << 24) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        changed = self.changed().tolist()
        at, done = 0, 0  # the next changed page, and up to where everything has been yielded
        for pa, piece in self.base.chunks(size):
            end = pa + len(piece)
            done = max(done, pa)
            while at < len(changed) and changed[at] << PAGE_SHIFT < end:
                page = changed[at] << PAGE_SHIFT
                if page > done:
                    yield done, piece[done - pa : page - pa]
                yield from self._runs(changed[at])
                done = max(done, page + PAGE_SIZE)
                at += 1
            if done < end:
                yield done, piece[done - pa :]
                done = end
        for pfn in changed[at:]:
            yield from self._runs(pfn)

    def _runs(self, pfn: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """What is held of a changed page."""
        row = rows_of(self._edited, np.array([pfn], dtype=np.uint64))
        hit = row >= 0
        if hit[0]:
            page, held = self._pages[row[0]], self._held[row[0]]
            for low, high in true_ranges(held).tolist():
                yield (pfn << PAGE_SHIFT) + low, page[low:high]
