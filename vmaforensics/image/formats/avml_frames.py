"""The bytes of snappy frames, unpacked when they are first read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cramjam
import numpy as np

from vmaforensics.image.blocks import CACHE_BYTES, BlockSource
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.image.source import FileSource

IDENTIFIER = b"\xff\x06\x00\x00sNaPpY"  # the chunk that begins a stream (framing_format.txt)
LARGEST_FRAME = 65536  # bytes, unpacked
# Frames given to the library in one call: it allocates some 200 KB each time. 4,096 frames took 0.72 s one by
# one, 0.24 s by sixteen, and more again in larger groups.
_GROUP = 16
_DAMAGED = -1


class Frames(NamedTuple):
    """Snappy frames in the order of what they unpack to; all in bytes."""

    offsets: NDArray[np.int64]  # in the file
    sizes: NDArray[np.int64]  # in the file
    lengths: NDArray[np.int64]  # when unpacked


class FrameSource(BlockSource):
    """What the ``frames`` of ``file`` unpack to, one behind the other."""

    def __init__(self, file: FileSource, frames: Frames, cache_bytes: int = CACHE_BYTES) -> None:
        self._file = file
        self._offsets, self._sizes, self._lengths = frames
        super().__init__(LARGEST_FRAME, len(frames.offsets), cache_bytes)
        self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(frames.lengths)])
        self._slots = np.zeros(self.count, dtype=np.int32)  # per frame: 0 not looked at, -1 damaged, n in slot n - 1

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _blocks(self, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._starts[1:], offsets, side="right")

    def _end(self, block: int) -> int:
        return int(self._starts[block + 1])

    def _places(
        self, blocks: NDArray[np.int64], offsets: NDArray[np.int64], size: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        slots = self._slots[blocks].astype(np.int64)
        ok = slots > 0
        return np.where(ok, (slots - 1) * LARGEST_FRAME + offsets - self._starts[blocks], 0), ok

    def _load(self, wanted: NDArray[np.int64]) -> None:
        new = wanted[self._slots[wanted] == 0]
        if len(new) == 0:
            return
        slots = self._room(self._slots[wanted[self._slots[wanted] > 0]].astype(np.int64) - 1, len(new))
        evicted = self._owners[slots]
        self._slots[evicted[evicted >= 0]] = 0
        self._owners[slots] = -1
        # Neighbours in the file that become neighbours in the cache are unpacked together.
        apart = (np.diff(new) != 1) | (np.diff(slots) != 1) | (self._lengths[new[:-1]] != LARGEST_FRAME)
        for part in np.split(np.arange(len(new)), np.flatnonzero(apart) + 1):
            frames, at = new[part], int(slots[part[0]]) * LARGEST_FRAME
            good = self._unpack(int(frames[0]), len(frames), self._cache[at : at + int(self._lengths[frames].sum())])
            self._slots[frames] = np.where(good, slots[part] + 1, _DAMAGED)
            self._owners[slots[part][good]] = frames[good]

    def _unpack(self, first: int, count: int, out: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Unpack ``count`` frames from number ``first`` on into ``out``; returns which are undamaged."""
        good = np.zeros(count, dtype=np.bool_)
        base = int(self._starts[first])
        for low in range(first, first + count, _GROUP):
            high = min(low + _GROUP, first + count)
            part = slice(int(self._starts[low]) - base, int(self._starts[high]) - base)
            if self._decode(low, high, out[part]):
                good[low - first : high - first] = True
                continue
            for frame in range(low, high):
                part = slice(int(self._starts[frame]) - base, int(self._starts[frame + 1]) - base)
                good[frame - first] = self._decode(frame, frame + 1, out[part])
        return good

    def _decode(self, first: int, end: int, out: NDArray[np.uint8]) -> bool:
        """Whether the frames from ``first`` up to ``end`` unpack to exactly ``out``. The library checks the CRCs."""
        spans = zip(self._offsets[first:end].tolist(), self._sizes[first:end].tolist(), strict=True)
        stream = b"".join([IDENTIFIER, *(self._file[at : at + size] for at, size in spans)])
        try:
            return bool(cramjam.snappy.decompress_into(stream, out.data) == len(out))
        except cramjam.DecompressionError:
            return False

    def pieces(self, at: int, size: int, step: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Past the cache."""
        end, most = at + size, max(1, step // LARGEST_FRAME)
        if size == 0:
            return
        first, last = (int(frame) for frame in self._blocks(np.array([at, end - 1])))
        for low in range(first, last + 1, most):
            high = min(low + most, last + 1)
            base = int(self._starts[low])
            whole = np.empty(int(self._starts[high]) - base, dtype=np.uint8)
            good = self._unpack(low, high - low, whole)
            self._slots[low:high][~good] = _DAMAGED
            edges = np.flatnonzero(np.diff(good, prepend=False, append=False)) + low
            for begin, stop in zip(self._starts[edges[::2]].tolist(), self._starts[edges[1::2]].tolist(), strict=True):
                begin, stop = max(begin, at), min(stop, end)
                for start in range(begin, stop, step):
                    yield start, whole[start - base : min(start + step, stop) - base]

    @property
    def lossy(self) -> bool:
        return bool((self._slots == _DAMAGED).any())

    def lost(self, offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._slots == _DAMAGED)])
        damaged: NDArray[np.bool_] = before[self._blocks(offsets)] < before[self._blocks(offsets + sizes - 1) + 1]
        return damaged

    def problems(self) -> tuple[str, ...]:
        bad = np.flatnonzero(self._slots == _DAMAGED)
        if len(bad) == 0:
            return ()
        size = int(self._lengths[bad].sum())
        text = (
            f"of the snappy frames read so far, {counted(len(bad), 'frame')} with {counted(size, 'byte')} absent: "
            f"damaged, by their CRC or by their data (first: at file offset {int(self._offsets[bad[0]]):#x})"
        )
        return (text,)
