"""Sources whose bytes come in blocks: each is read, or unpacked, when it is first asked for, into one bounded cache."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.image.source import Fetched, Source, take

if TYPE_CHECKING:
    from numpy.typing import NDArray

CACHE_BYTES = 256 << 20


class BlockSource(Source):
    """A source in blocks. ``size`` is what the largest has, in bytes; ``count`` is how many there are."""

    def __init__(self, size: int, count: int, cache_bytes: int) -> None:
        self.count = count
        slots = max(1, min(cache_bytes // size, count))
        self._cache = np.zeros(slots * size, np.uint8)
        self._owners = np.full(slots, -1, np.int64)  # the block in a slot
        self._next = 0  # the slot to be filled next: the oldest block goes first

    @abstractmethod
    def _blocks(self, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """The block that each of ``offsets`` lies in."""

    @abstractmethod
    def _end(self, block: int) -> int:
        """The offset behind ``block``."""

    @abstractmethod
    def _load(self, wanted: NDArray[np.int64]) -> None:
        """See to it that the blocks ``wanted``, ascending and no more than there are slots, are in the cache."""

    @abstractmethod
    def _places(
        self, blocks: NDArray[np.int64], offsets: NDArray[np.int64], size: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where in the cache the ``size`` bytes at ``offsets`` are, in these loaded blocks, and whether they are."""

    def fetch(self, offsets: NDArray[np.int64], size: int) -> Fetched:
        blocks = self._blocks(offsets)
        single = self._blocks(offsets + max(size - 1, 0)) == blocks
        wanted = distinct(blocks)
        if single.all() and len(wanted) <= len(self._owners):
            self._load(wanted)
            return Fetched(self._cache, *self._places(blocks, offsets, size))
        # More blocks than there is room for, or items that reach over the end of one: copy this batch.
        copy = np.zeros((len(offsets), size), np.uint8)
        ok = np.zeros(len(offsets), np.bool_)
        for low in range(0, len(wanted), len(self._owners)):
            some = wanted[low : low + len(self._owners)]
            rows = np.flatnonzero(single & (blocks >= some[0]) & (blocks <= some[-1]))
            self._load(distinct(blocks[rows]))
            places, ok[rows] = self._places(blocks[rows], offsets[rows], size)
            if len(rows):
                copy[rows] = take(self._cache, places, size)
        for row in np.flatnonzero(~single).tolist():
            ok[row] = self._across(int(offsets[row]), copy[row])
        copy[~ok] = 0
        return Fetched(copy.reshape(-1), np.arange(len(offsets), dtype=np.int64) * size, ok)

    def _across(self, at: int, out: NDArray[np.uint8]) -> bool:
        """Put the bytes from ``at`` on, of several blocks, into ``out``; returns whether they can be read."""
        done = 0
        while done < len(out):
            here = np.array([at + done])
            block = self._blocks(here)
            size = min(self._end(int(block[0])) - at, len(out)) - done
            self._load(block)
            places, ok = self._places(block, here, size)
            if not ok[0]:
                return False
            out[done : done + size] = self._cache[places[0] : places[0] + size]
            done += size
        return True

    def _room(self, kept: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """``count`` slots to be filled: those of the oldest blocks, but none of the slots ``kept``."""
        order = np.arange(self._next, self._next + len(self._owners)) % len(self._owners)
        slots = order[~np.isin(order, kept)][:count]
        self._next = (int(slots[-1]) + 1) % len(self._owners)
        return slots
