"""Bitmaps of page frames: is this page in, how many are before it, and which runs do they form?

A dump of 1 TiB has a bitmap of 32 MiB, so the bits are never spread out: they are counted by words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

WORD = np.uint64(64)
MOST_RUNS = 1 << 22
PAGES_STEP = 1 << 20


class PageBitmap:
    """``bits`` bits, least significant first, in little-endian uint64 ``words``."""

    def __init__(self, words: NDArray[np.uint64], bits: int) -> None:
        self.bits = bits
        used = words[: (bits + 63) // 64]
        if bits % 64 and len(used) and int(used[-1]) >> (bits % 64):
            used = used.copy()
            used[-1] &= np.uint64((1 << bits % 64) - 1)
        self._words = used
        counts = np.bitwise_count(used)
        self._before = np.zeros(len(used) + 1, dtype=np.int64)  # set bits before each word
        np.cumsum(counts, out=self._before[1:])

    @property
    def count(self) -> int:
        """How many bits are set."""
        return int(self._before[-1])

    def test(self, pfns: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether the bit of each page frame (each below ``bits``) is set."""
        hits: NDArray[np.bool_] = (self._words[pfns // WORD] >> (pfns % WORD) & np.uint64(1)).astype(np.bool_)
        return hits

    def rank(self, pfns: NDArray[np.uint64]) -> NDArray[np.int64]:
        """How many set bits lie before each page frame (each below ``bits``)."""
        word = pfns // WORD
        below = self._words[word] & ((np.uint64(1) << pfns % WORD) - np.uint64(1))
        rank: NDArray[np.int64] = self._before[word] + np.bitwise_count(below)
        return rank

    def before(self, pfn: int) -> int:
        """How many set bits lie before ``pfn``, which may be beyond the last."""
        if pfn >= self.bits:
            return self.count
        return int(self.rank(np.array([pfn], dtype=np.uint64))[0])

    def runs(self) -> NDArray[np.uint64]:
        """The runs of set bits as sorted ``(n, 2)`` ``[first, end)`` page frames.

        Raises :class:`ValueError` if there are more than 4,194,304: no machine's memory looks like that.
        """
        # A bit of ``edges`` is set where a bit of the map differs from the one before it.
        edges = self._words << np.uint64(1)
        edges[1:] |= self._words[:-1] >> np.uint64(63)
        edges ^= self._words
        if int(np.bitwise_count(edges).sum()) > 2 * MOST_RUNS:
            raise ValueError(f"more than {MOST_RUNS:,} runs of pages")
        busy = np.flatnonzero(edges)
        octets = edges[busy].astype("<u8").view(np.uint8).reshape(-1, 8)
        row, column = np.nonzero(np.unpackbits(octets, axis=1, bitorder="little"))
        at = busy[row].astype(np.uint64) * WORD + column.astype(np.uint64)
        if len(at) % 2:
            at = np.append(at, np.uint64(self.bits))
        return at.reshape(-1, 2)

    def pages(self, first: int, end: int) -> Iterator[NDArray[np.uint64]]:
        """The page frames from ``first`` up to ``end`` whose bits are set, in ascending order, in arrays of
        at most 1,048,576."""
        end = min(end, self.bits)
        for low in range(first // 64, (end + 63) // 64, PAGES_STEP // 64):
            words = self._words[low : low + PAGES_STEP // 64]
            if not words.any():
                continue
            bits = np.unpackbits(words.astype("<u8").view(np.uint8), bitorder="little")
            pfns = np.flatnonzero(bits).astype(np.uint64) + np.uint64(low * 64)
            yield pfns[(pfns >= np.uint64(first)) & (pfns < np.uint64(end))]


def pack(pfns: NDArray[np.uint64], size: int) -> NDArray[np.uint8]:
    """A bitmap of ``size`` bytes with the bits of ``pfns`` (sorted, each below ``8 * size``) set."""
    octets = np.zeros(size, dtype=np.uint8)
    np.bitwise_or.at(octets, pfns >> np.uint64(3), (np.uint64(1) << (pfns & np.uint64(7))).astype(np.uint8))
    return octets
