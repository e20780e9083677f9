"""A file that cannot be mapped: /proc/kcore and sparse copies of it, which are larger than any address space.

It is read in blocks when they are asked for, into one bounded cache; the oldest block goes first.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from vmaforensics.image.source import Fetched, FileSource, Span, take
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

BLOCK = 1 << 14  # bytes
CACHE_BYTES = 256 << 20


class PagedFile(FileSource):
    """The ``size`` bytes of the file at ``path``, read when they are asked for."""

    def __init__(self, path: Path, size: int, cache_bytes: int = CACHE_BYTES) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._size = size
        capacity = max(2, min(cache_bytes // BLOCK, -(-size // BLOCK)))
        self._cache = np.zeros(capacity * BLOCK, np.uint8)
        self._owner = np.full(capacity, -1, np.int64)  # the block in a slot
        self._held = np.zeros(capacity, np.int64)  # bytes of it that could be read, the first ones
        self._slot_of: dict[int, int] = {}
        self._next = 0
        self._failed = 0  # bytes asked for that could not be read
        self._why = ""

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice[Any, Any, Any], /) -> memoryview:
        start, stop, step = part.indices(self._size)
        if step != 1:
            raise ValueError("a file is read in one direction")
        out = np.zeros(max(0, stop - start), np.uint8)
        done = 0
        while done < len(out):
            piece = self._read(start + done, min(len(out) - done, CACHE_BYTES))
            out[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
            if not piece:
                break
            done += len(piece)
        return out.data

    def _read(self, at: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``at``; less where the file cannot be read."""
        try:
            return os.pread(self._file, size, at)
        except OSError as error:  # the kernel refuses some of its own memory
            self._failed += size
            self._why = error.strerror or str(error)
            return b""

    def fetch(self, offsets: NDArray[np.int64], size: int) -> Fetched:
        first, last = offsets // BLOCK, (offsets + max(size, 1) - 1) // BLOCK
        wanted = np.unique(first)
        if (first == last).all() and len(wanted) <= len(self._owner):
            slots = self._load(wanted)[np.searchsorted(wanted, first)]
            into = offsets - first * BLOCK
            return Fetched(self._cache, slots * BLOCK + into, into + size <= self._held[slots])
        # More blocks than there is room for, or items that reach over the end of one: copy this batch.
        copy = np.zeros((len(offsets), size), np.uint8)
        ok = np.zeros(len(offsets), np.bool_)
        single = first == last
        for low in range(0, len(wanted), len(self._owner)):
            some = wanted[low : low + len(self._owner)]
            rows = np.flatnonzero(single & (first >= some[0]) & (first <= some[-1]))
            slots = self._load(some)[np.searchsorted(some, first[rows])]
            into = offsets[rows] - first[rows] * BLOCK
            ok[rows] = into + size <= self._held[slots]
            if len(rows):
                copy[rows] = take(self._cache, slots * BLOCK + into, size)
        for row in np.flatnonzero(~single).tolist():
            piece = self._read(int(offsets[row]), size)
            copy[row, : len(piece)] = np.frombuffer(piece, np.uint8)
            ok[row] = len(piece) == size
        copy[~ok] = 0
        return Fetched(copy.reshape(-1), np.arange(len(offsets), dtype=np.int64) * size, ok)

    def _load(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """The slots of ``blocks``, no more than there are slots; those that are not there are read."""
        numbers = blocks.tolist()
        kept = {slot for block in numbers if (slot := self._slot_of.get(block)) is not None}
        for block in numbers:
            if block in self._slot_of:
                continue
            while self._next in kept:
                self._next = (self._next + 1) % len(self._owner)
            slot = self._next
            self._next = (slot + 1) % len(self._owner)
            kept.add(slot)
            self._slot_of.pop(int(self._owner[slot]), None)
            piece = self._read(block * BLOCK, BLOCK)
            self._cache[slot * BLOCK : slot * BLOCK + len(piece)] = np.frombuffer(piece, np.uint8)
            self._owner[slot], self._held[slot] = block, len(piece)
            self._slot_of[block] = slot
        return np.array([self._slot_of[block] for block in numbers], np.int64)

    def pieces(self, at: int, size: int, step: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        end = at + size
        while at < end:
            piece = self._read(at, min(step, end - at))
            if piece:
                yield at, np.frombuffer(piece, np.uint8)
            at += len(piece) or min(BLOCK, end - at)

    def spans(self, offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> Iterator[Span]:
        for row, (at, size) in enumerate(zip(offsets.tolist(), sizes.tolist(), strict=True)):
            piece = self._read(at, size)
            if len(piece) == size:
                yield Span(np.array([row]), memoryview(piece), np.zeros(1, np.int64))

    def problems(self) -> tuple[str, ...]:
        if not self._failed:
            return ()
        return (f"{counted(self._failed, 'byte')} of the file could not be read ({self._why})",)
