# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""Physical memory read through a layer of volatility3: the way for formats that only volatility3 reads.

A layer says which addresses it holds and not which are RAM, so :attr:`PageState.NOT_RAM` here means: the
layer describes nothing there. A page that it describes and cannot read is :attr:`PageState.ABSENT`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from volatility3.framework import interfaces
from volatility3.framework.layers.linear import LinearlyMappedLayer

from vmaforensics.columns.lookup import distinct
from vmaforensics.image.formats.segments import PHYSICAL_LIMIT, ByteCount
from vmaforensics.image.memory import PhysicalMemory
from vmaforensics.image.placed import PAGE_SHIFT, PAGE_SIZE, PageState, Placed
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

log = logging.getLogger(__name__)

CACHE_PAGES = 1 << 14
# Translation layers keep their last 512 answers for good (lru_cache on read): pieces have to be small.
_PIECE = 16 * PAGE_SIZE


class LayerMemory(PhysicalMemory):
    """The bytes of a physical layer. What the layer describes is RAM; see the module's docstring."""

    def __init__(self, layer: interfaces.layers.DataLayerInterface, *, cache_pages: int = CACHE_PAGES) -> None:
        described, held = _runs(layer)
        super().__init__(_merge(described))
        self._layer = layer
        self._runs = _merge(held)
        self._held = ByteCount(self._runs[:, 0], self._runs[:, 1] - self._runs[:, 0])
        self._ram = ByteCount(self.ranges[:, 0], self.ranges[:, 1] - self.ranges[:, 0])
        self.batch = min(self.batch, cache_pages)
        self._cache = np.zeros(cache_pages * PAGE_SIZE, dtype=np.uint8)
        self._slots: dict[int, int] = {}  # page frame: page of the cache
        self._bad: set[int] = set()  # page frames the layer described and failed to read
        self._why = ""

    @property
    def size(self) -> int:
        """Bytes the layer says it holds."""
        return int((self._runs[:, 1] - self._runs[:, 0]).sum())

    # PhysicalMemory -------------------------------------------------------------------------------

    def _locate(self, pas: NDArray[np.uint64], size: int) -> Placed:
        held = self._held.within(pas, size) == size
        some = self._ram.within(pas, size) > 0
        states = np.where(held, PageState.PRESENT, np.where(some, PageState.ABSENT, PageState.NOT_RAM))
        offsets = np.zeros(len(pas), dtype=np.int64)
        rows = np.flatnonzero(held)
        pages, inverse = np.unique(pas[rows] >> np.uint64(PAGE_SHIFT), return_inverse=True)
        slots = self._load(pages)[inverse]
        into = (pas[rows] & np.uint64(PAGE_SIZE - 1)).astype(np.int64)
        offsets[rows] = np.where(slots >= 0, slots * PAGE_SIZE + into, 0)
        states[rows[slots < 0]] = PageState.ABSENT
        return Placed(self._cache, offsets, states.astype(np.uint8))

    def chunks(self, size: int = 1 << 24) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        step = max(size, 1)
        for start, end in self._runs.tolist():
            for low in range(start, end, step):
                yield from self._pieces(low, min(low + step, end))

    def page_states(self, pfns: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """Of a page that the layer describes only in part: ``PRESENT`` if it holds all of that part."""
        pfns = np.asarray(pfns, dtype=np.uint64)
        sane = pfns < np.uint64(PHYSICAL_LIMIT >> PAGE_SHIFT)
        pas = np.where(sane, pfns, 0).astype(np.uint64) << np.uint64(PAGE_SHIFT)
        ram = self._ram.within(pas, PAGE_SIZE)
        held = sane & (ram > 0) & (self._held.within(pas, PAGE_SIZE) == ram)
        states = np.where(held, PageState.PRESENT, PageState.ABSENT).astype(np.uint8)
        states[(ram == 0) | ~sane] = PageState.NOT_RAM
        pages = distinct(pfns[held])
        bad = pages[~self._valid(pages)]
        states[held & np.isin(pfns, bad)] = PageState.ABSENT
        return states

    def problems(self) -> tuple[str, ...]:
        if not self._bad:
            return ()
        text = (
            f"of the pages read so far, {counted(len(self._bad), 'page')} absent: layer {self._layer.name} "
            f"describes and cannot read them (first: page frame {min(self._bad):#x}: {self._why})"
        )
        return (text,)

    # The layer ------------------------------------------------------------------------------------

    def _load(self, pages: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The cache page of each of ``pages`` (sorted, distinct), read if need be; -1 if unreadable."""
        wanted = pages.tolist()
        new = [page for page in wanted if page not in self._slots and page not in self._bad]
        if len(self._slots) + len(new) > len(self._cache) // PAGE_SIZE:
            self._slots.clear()
            new = [page for page in wanted if page not in self._bad]
        for first, count in _streaks(new, _PIECE // PAGE_SIZE):
            low = len(self._slots)
            room = self._cache[low * PAGE_SIZE : (low + count) * PAGE_SIZE]
            bad = self._read_pages(first, count, room)
            for number in range(count):
                if number in bad:
                    self._bad.add(first + number)
                else:
                    # Slots are given out in order; those of bad pages are given out again.
                    slot = len(self._slots)
                    if slot != low + number:
                        at, to = (low + number) * PAGE_SIZE, slot * PAGE_SIZE
                        self._cache[to : to + PAGE_SIZE] = self._cache[at : at + PAGE_SIZE]
                    self._slots[first + number] = slot
        return np.array([self._slots.get(page, -1) for page in wanted], dtype=np.int64)

    def _read_pages(self, first: int, count: int, room: NDArray[np.uint8]) -> set[int]:
        """Fill ``room`` with the held bytes of ``count`` pages; returns which are unreadable."""
        pa = first << PAGE_SHIFT
        at = np.array([pa], np.uint64)
        if int(self._held.within(at, count << PAGE_SHIFT)[0]) == count << PAGE_SHIFT:
            data = self._read(pa, count << PAGE_SHIFT)
            if data is not None:
                room[:] = np.frombuffer(data, np.uint8)
                return set()
            if count == 1:
                return {0}
        elif count == 1:  # a page held in part
            room[:] = 0
            low = int(np.searchsorted(self._runs[:, 1], at[0], "right"))
            for start, end in self._runs[low:].tolist():
                if start >= pa + PAGE_SIZE:
                    break
                start, end = max(start, pa), min(end, pa + PAGE_SIZE)
                data = self._read(start, end - start)
                if data is None:
                    return {0}
                room[start - pa : end - pa] = np.frombuffer(data, np.uint8)
            return set()
        return {
            number
            for number in range(count)
            if self._read_pages(first + number, 1, room[number * PAGE_SIZE : (number + 1) * PAGE_SIZE])
        }

    def _pieces(self, low: int, end: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """``[low, end)``, which lies in one run, without the pages that cannot be read."""
        parts: list[bytes] = []
        start = low
        while low < end:
            size = min(end - low, _PIECE - low % _PIECE)
            data = self._read(low, size)
            if data is None and size > 1 and low % PAGE_SIZE + size > PAGE_SIZE:
                size = PAGE_SIZE - low % PAGE_SIZE
                data = self._read(low, size)
            if data is not None:
                parts.append(data)
            else:
                self._bad.add(low >> PAGE_SHIFT)
                if parts:
                    yield start, np.frombuffer(b"".join(parts), np.uint8)
                parts, start = [], low + size
            low += size
        if parts:
            yield start, np.frombuffer(b"".join(parts), np.uint8)

    def _read(self, pa: int, size: int) -> bytes | None:
        """The layer's bytes, or None: whatever its decoder raises makes the bytes unreadable, no more."""
        try:
            data = self._layer.read(pa, size)
        except Exception as error:
            self._why = self._why or f"{type(error).__name__}: {error}"
            log.debug("layer %s, %d bytes at %#x: %s", self._layer.name, size, pa, error)
            return None
        return data if len(data) == size else None

    def _valid(self, pages: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """What the layer says of each of ``pages`` (sorted, distinct, held by it) without reading it."""
        valid = np.ones(len(pages), dtype=np.bool_)
        done = 0
        for first, count in _streaks(pages.tolist(), len(pages)):
            if not self._is_valid(first, count):
                valid[done : done + count] = [self._is_valid(first + page, 1) for page in range(count)]
            done += count
        return valid

    def _is_valid(self, first: int, count: int) -> bool:
        at = np.array([first << PAGE_SHIFT], np.uint64)
        whole = int(self._held.within(at, count << PAGE_SHIFT)[0]) == count << PAGE_SHIFT
        if not whole:  # held in part: the layer would only confirm that
            return count == 1 and first not in self._bad
        try:
            valid = bool(self._layer.is_valid(first << PAGE_SHIFT, count << PAGE_SHIFT))
        except Exception:
            return False
        return valid and self._bad.isdisjoint(range(first, first + count))


def _runs(layer: interfaces.layers.DataLayerInterface) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """``[start, end)`` of what a layer describes, and of what the layers below it can keep of that."""
    low, high = layer.minimum_address, min(layer.maximum_address + 1, PHYSICAL_LIMIT)
    if not isinstance(layer, interfaces.layers.TranslationLayerInterface):
        return [(low, high)], [(low, high)]
    described, held = [], []
    for start, size, mapped, mapped_size, below in layer.mapping(low, high - low, ignore_errors=True):
        end = min(start + size, high)
        described.append((start, end))
        base = layer.context.layers[below]
        if base.is_valid(mapped, max(mapped_size, 1)):
            held.append((start, end))
        elif isinstance(layer, LinearlyMappedLayer):
            held.append((start, min(end, start + max(base.maximum_address + 1 - mapped, 0))))
    return described, held


def _merge(runs: list[tuple[int, int]]) -> NDArray[np.uint64]:
    """Sorted, disjoint, non-adjacent ``(n, 2)`` ranges with the same addresses."""
    merged: list[list[int]] = []
    for start, end in sorted(run for run in runs if run[0] < run[1]):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return np.array(merged, dtype=np.uint64).reshape(-1, 2)


def _streaks(numbers: list[int], most: int) -> Iterator[tuple[int, int]]:
    """Sorted numbers as ``(first, count)`` streaks of consecutive ones, none longer than ``most``."""
    first = count = 0
    for number in numbers:
        if count and number == first + count and count < most:
            count += 1
            continue
        if count:
            yield first, count
        first, count = number, 1
    if count:
        yield first, count
