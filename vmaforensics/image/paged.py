"""A file that cannot be mapped: /proc/kcore and sparse copies of it, which are larger than any address space."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from vmaforensics.image.blocks import CACHE_BYTES, BlockSource
from vmaforensics.image.source import FileSource, Span
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

BLOCK = 1 << 14  # bytes


class PagedFile(BlockSource, FileSource):
    """The ``size`` bytes of the file at ``path``, read when they are asked for."""

    def __init__(self, path: Path, size: int, cache_bytes: int = CACHE_BYTES) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._size = size
        super().__init__(BLOCK, -(-size // BLOCK), cache_bytes)
        self._held = np.zeros(len(self._owners), np.int64)  # bytes of each slot that could be read, the first ones
        self._slot_of: dict[int, int] = {}
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

    def _blocks(self, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        return offsets // BLOCK

    def _end(self, block: int) -> int:
        return (block + 1) * BLOCK

    def _places(
        self, blocks: NDArray[np.int64], offsets: NDArray[np.int64], size: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        wanted, back = np.unique(blocks, return_inverse=True)
        slots = np.array([self._slot_of[block] for block in wanted.tolist()], np.int64)[back]
        into = offsets - blocks * BLOCK
        return slots * BLOCK + into, into + size <= self._held[slots]

    def _load(self, wanted: NDArray[np.int64]) -> None:
        numbers = wanted.tolist()
        new = [block for block in numbers if block not in self._slot_of]
        if not new:
            return
        kept = [slot for block in numbers if (slot := self._slot_of.get(block)) is not None]
        for block, slot in zip(new, self._room(np.array(kept, np.int64), len(new)).tolist(), strict=True):
            self._slot_of.pop(int(self._owners[slot]), None)
            piece = self._read(block * BLOCK, BLOCK)
            self._cache[slot * BLOCK : slot * BLOCK + len(piece)] = np.frombuffer(piece, np.uint8)
            self._owners[slot], self._held[slot] = block, len(piece)
            self._slot_of[block] = slot

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
