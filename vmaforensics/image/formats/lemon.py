"""LiME files as LEMON writes them: pages it could not read are filled with a text of 16 bytes, repeated.

LEMON reads page by page, from the start of each range (dump.c, ``dump_region``), and nothing in the file says
which program wrote it. So every page that is read is looked at: filler is absent, not memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.image.formats.segments import FlatMemory
from vmaforensics.image.placed import PAGE_SHIFT, PAGE_SIZE, PageState, Placed
from vmaforensics.image.source import take
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

FILLERS = (b"LEMON FAIL READ ", b"QUALCOMM SECURE ", b"TENSOR PROTECTED")
_WORDS = np.frombuffer(b"".join(FILLERS), dtype="<u8")[::2]
_WORD = 8
_UNSEEN, _MEMORY, _FILLER = 0, 1, 2
_PAGES = [np.frombuffer(text * (PAGE_SIZE // len(text)), dtype=np.uint8) for text in FILLERS]


class LemonMemory(FlatMemory):
    """Segments of a file in which filler stands for pages that could not be read."""

    _met: NDArray[np.uint64] | None = None  # sorted page frames found to be filler so far
    _looked: NDArray[np.uint8] | None = None  # what was found of each page, in the order of the segments
    _first: NDArray[np.uint64]  # number of the first page of each segment

    def lie_as(self, other: FlatMemory) -> None:
        super().lie_as(other)
        self._met, self._looked = None, None

    def _locate(self, pas: NDArray[np.uint64], size: int) -> Placed:
        buffer, places, states = super()._locate(pas, size)
        states[self._filler(pas >> np.uint64(PAGE_SHIFT)) & (states == PageState.PRESENT)] = PageState.ABSENT
        return Placed(buffer, places, states)

    def page_states(self, pfns: NDArray[np.uint64]) -> NDArray[np.uint8]:
        states = super().page_states(pfns)
        here = np.flatnonzero(states == PageState.PRESENT)
        states[here[self._filler(np.asarray(pfns, dtype=np.uint64)[here])]] = PageState.ABSENT
        return states

    def chunks(self, size: int = 1 << 24) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        for pa, piece in super().chunks(size):
            pfns = np.arange(pa >> PAGE_SHIFT, -(-(pa + len(piece)) >> PAGE_SHIFT), dtype=np.uint64)
            low = pa
            for pfn in pfns[self._filler(pfns)].tolist():
                start = max(pa, pfn << PAGE_SHIFT)
                if start > low:
                    yield low, piece[low - pa : start - pa]
                low = start + PAGE_SIZE - start % PAGE_SIZE
            if low < pa + len(piece):
                yield low, piece[low - pa :]

    def problems(self) -> tuple[str, ...]:
        if self._met is None:
            return super().problems()
        text = (
            f"of the pages read so far, {counted(len(self._met), 'page')} absent: LEMON could not read them and wrote "
            f"filler instead (first: page frame {int(self._met[0]):#x})"
        )
        return (*super().problems(), text)

    def _filler(self, pfns: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether what is held of each page from its first byte on is filler, all of it."""
        if self._looked is None:
            pages = (self._lengths + np.uint64(PAGE_SIZE - 1)) >> np.uint64(PAGE_SHIFT)
            self._first = np.cumsum(pages) - pages
            self._looked = np.zeros(int(pages.sum()), np.uint8)
        pas = pfns << np.uint64(PAGE_SHIFT)
        at = np.searchsorted(self._starts, pas, side="right") - 1
        into = pas - self._starts[at]
        mask = np.zeros(len(pfns), dtype=np.bool_)
        # The first segment is empty, and what lies behind the end of one is in none.
        held = np.flatnonzero(into < self._lengths[at])
        at, into = at[held], into[held]
        numbers = (self._first[at] + (into >> np.uint64(PAGE_SHIFT))).astype(np.int64)
        new = np.flatnonzero(self._looked[numbers] == _UNSEEN)
        if len(new):
            length = np.minimum(self._lengths[at[new]] - into[new], np.uint64(PAGE_SIZE))
            filler = self._is_filler((self._offsets[at] + into)[new].astype(np.int64), length)
            self._looked[numbers[new]] = np.where(filler, _FILLER, _MEMORY)
            if filler.any():
                met = pfns[held[new[filler]]]
                self._met = distinct(self._met if self._met is not None else met[:0], met)
        mask[held] = self._looked[numbers] == _FILLER
        return mask

    def _is_filler(self, offsets: NDArray[np.int64], length: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether each stretch of a page, in the file, is filler."""
        mask = np.zeros(len(offsets), dtype=np.bool_)
        rows = np.flatnonzero(length >= np.uint64(_WORD))
        if len(rows) == 0:
            return mask
        buffer, places, ok = self._source.fetch(offsets[rows], _WORD)
        words = take(buffer, places, _WORD).view("<u8")[:, 0]
        hits = rows[(words[:, None] == _WORDS).any(axis=1) & ok]
        if not len(hits):
            return mask
        # A page may be asked for many times over.
        pages, first, back = np.unique(offsets[hits], return_index=True, return_inverse=True)
        full = np.zeros(len(pages), dtype=np.bool_)
        for number, hit in enumerate(hits[first].tolist()):
            size = int(length[hit])
            buffer, places, _ = self._source.fetch(offsets[hit : hit + 1], size)
            page = buffer[places[0] : places[0] + size]
            full[number] = any(np.array_equal(page, filler[:size]) for filler in _PAGES)
        mask[hits] = full[back]
        return mask
