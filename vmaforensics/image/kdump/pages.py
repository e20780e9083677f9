"""Memory that lies compressed in the file, page by page: kdump-compressed dumps.

A page frame's descriptor is found by counting the dumped pages before it. Pages are decompressed when they
are first read, into one buffer; when that is full the page that came first makes room.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import U32, U64
from vmaforensics.image.kdump.codecs import NAMES, decompress
from vmaforensics.image.limits import Limits
from vmaforensics.image.memory import PhysicalMemory
from vmaforensics.image.placed import PAGE_SHIFT, PageState, Placed
from vmaforensics.image.source import Mapped
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from vmaforensics.image.kdump.bitmap import PageBitmap
    from vmaforensics.image.source import FileSource

# page_desc_t (makedumpfile, diskdump_mod.h), as it lies in the file
DESCRIPTOR = np.dtype([("offset", "<u8"), ("size", "<u4"), ("flags", "<u4"), ("page_flags", "<u8")])
CACHE_BYTES = 256 << 20
_COUNTED_AT_ONCE = 1 << 21  # descriptors, 24 bytes each
# A member of an enum is not found as fast as a name.
_PRESENT, _ZERO, _ABSENT, _NOT_RAM = (np.uint8(state) for state in PageState)
_FLAGS = np.array(list(NAMES), np.uint32)
_LEAST = 256  # pages that are unpacked at a time, however little memory is allowed
_CACHED = 4  # a part of the memory allowed, at most, is for pages that are unpacked


@table()
class Descriptors(Table):
    """Where the data of dumped pages lies (page_desc_t), in the order of the page frames."""

    offset: U64  # in the file
    size: U32  # bytes there
    flags: U32  # how they are compressed; see codecs.NAMES

    @classmethod
    def of_records(cls, records: NDArray[np.void]) -> Descriptors:
        """The columns of records of dtype :data:`DESCRIPTOR`."""
        return cls.from_structured(records)

    def to_records(self) -> NDArray[np.void]:
        """Records of dtype :data:`DESCRIPTOR`, as they are written."""
        records = np.zeros(len(self), DESCRIPTOR)
        for name, values in self.columns().items():
            records[name] = values
        return records


# Why a dumped page is not to be read from its descriptor; 0 is a page that may be.
ZERO, LOST, OUTSIDE, OVERSIZE, CODEC, CORRUPT = -1, -2, -3, -4, -5, -6
_WHY = {
    LOST: "lost when the dump was written (descriptor offset 0): the disk was full",
    OUTSIDE: "outside the file, by their descriptor: the file is truncated or damaged",
    OVERSIZE: "larger than a page, by their descriptor: the descriptor is damaged",
    CODEC: "compressed in an unknown way, by the flags of their descriptor",
    CORRUPT: "impossible to decompress: their data is damaged",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A file of the dump. It has ``count`` descriptors from ``descriptors_at`` on, for the dumped pages among
    the page frames ``window`` (first, end); ``zero_offset`` is where the page lies that stands for every zero
    page (``None``: there is none)."""

    source: FileSource
    window: tuple[int, int]
    descriptors_at: int
    count: int
    zero_offset: int | None

    def records(self, numbers: NDArray[np.int64]) -> NDArray[np.void]:
        """The descriptors with these numbers within the part, of :data:`DESCRIPTOR`; zeros for what cannot be read."""
        return self.source.records(DESCRIPTOR, self.descriptors_at, numbers)


class KdumpMemory(PhysicalMemory):
    """Pages of a kdump file, or of the parts of a split one, sorted by their windows, which are disjoint.

    ``ram`` and ``dumped`` are the bitmaps. Blocks are ``1 << block_shift`` bytes, a page or more.
    """

    steady = True

    def __init__(
        self,
        ranges: NDArray[np.uint64],
        *,
        block_shift: int,
        ram: PageBitmap,
        dumped: PageBitmap,
        parts: Sequence[Part],
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        super().__init__(ranges)
        self._shift = block_shift
        self._ram, self._dumped = ram, dumped
        self._parts = tuple(parts)
        self._windows = np.array([part.window for part in parts], dtype=np.uint64).reshape(-1, 2)
        # A descriptor's number counts the dumped pages from the first window on, given here or not.
        before = [dumped.before(part.window[0]) for part in parts]
        self._first = before[0]
        self._starts = np.array(before, dtype=np.int64) - self._first
        self._ends = self._starts + np.array([part.count for part in parts], dtype=np.int64)
        count = int(self._ends.max())
        capacity = max(1, min(cache_bytes >> block_shift, count))
        self._cache = np.empty(capacity << block_shift, dtype=np.uint8)
        # Per descriptor: 0 not looked at, -n one of the reasons above, +n in slot n - 1 of the cache. Both
        # arrays take memory only where they are touched.
        self._slots = np.zeros(count, dtype=np.int32)
        self._owners = np.full(capacity, -1, dtype=np.int64)  # the descriptor whose page is in a slot
        self._room = capacity  # slots that are filled
        self._next = 0  # the slot to be filled next: the oldest page goes first
        self._met: dict[int, tuple[int, int]] = {}  # reason: pages, page frame of the first
        self._fit_batch()

    def _fit_batch(self) -> None:
        """What is looked at together has to fit into the cache, if not all that there is does."""
        if self._room < len(self._slots):
            self.batch = min(self.batch, self._room)

    def limit(self, limits: Limits) -> None:
        super().limit(limits)
        if limits.memory is not None:
            self._room = min(self._room, max(limits.memory // _CACHED >> self._shift, _LEAST))
            self._fit_batch()

    def _locate(self, pas: NDArray[np.uint64], size: int) -> Placed:
        blocks = pas >> np.uint64(self._shift)
        states, here, index = self._lookup(blocks)
        slots = self._slots[index]
        while len(new := np.flatnonzero(slots == 0)):
            wanted, at = (index[new], [0]) if len(new) == 1 else np.unique(index[new], return_index=True)
            self._load(wanted, blocks[here[new[at]]])
            slots = self._slots[index]
        offsets = np.zeros(len(pas), dtype=np.int64)
        held = slots > 0
        into = (pas[here] & np.uint64((1 << self._shift) - 1)).astype(np.int64)
        offsets[here] = np.where(held, (slots.astype(np.int64) - 1 << self._shift) + into, 0)
        states[here[held]] = _PRESENT
        states[here[slots == ZERO]] = _ZERO
        return Placed(self._cache, offsets, states)

    def _lookup(self, blocks: NDArray[np.uint64]) -> tuple[NDArray[np.uint8], NDArray[np.intp], NDArray[np.int64]]:
        """``(states, here, index)``: the states as far as the bitmaps tell them (what is dumped counts as
        absent for now), which of ``blocks`` have a descriptor, and the number of each one's descriptor."""
        inside = blocks < np.uint64(self._dumped.bits)
        safe = np.where(inside, blocks, np.uint64(0))
        dumped = self._dumped.test(safe) & inside
        known = dumped | (self._ram.test(safe) & inside)
        states = np.where(known, _ABSENT, _NOT_RAM)
        part = np.searchsorted(self._windows[:, 0], safe, side="right") - 1
        here = np.flatnonzero(dumped & (part >= 0) & (safe < self._windows[part, 1]))
        index = self._dumped.rank(safe[here]) - self._first
        fits = index < self._ends[part[here]]
        return (states, here, index) if fits.all() else (states, here[fits], index[fits])

    def _by_part(self, index: NDArray[np.int64]) -> Iterator[tuple[Part, NDArray[np.intp], NDArray[np.int64]]]:
        """``(part, rows, numbers)``: which of the descriptors ``index`` are in a part, and their numbers there."""
        if len(self._parts) == 1:
            yield self._parts[0], np.arange(len(index)), index
            return
        number = np.searchsorted(self._starts, index, side="right") - 1
        for at in distinct(number).tolist():
            rows = np.flatnonzero(number == at)
            yield self._parts[at], rows, index[rows] - self._starts[at]

    def _kinds(self, index: NDArray[np.int64]) -> NDArray[np.int32]:
        """For each descriptor 0, or the reason its page will not be read."""
        return self._judged(index)[1]

    def _judged(self, index: NDArray[np.int64]) -> tuple[NDArray[np.void], NDArray[np.int32]]:
        """``(records, kinds)``: the descriptors, and for each 0 or the reason its page will not be read."""
        records = np.zeros(len(index), DESCRIPTOR)
        fresh = np.zeros(len(index), dtype=np.int32)
        for part, where, numbers in self._by_part(index):
            records[where] = part.records(numbers)
            fresh[where] = self._judge(part, records[where])
        known = self._slots[index]
        return records, np.where(known < 0, known, fresh)

    def _judge(self, part: Part, records: NDArray[np.void]) -> NDArray[np.int32]:
        """For each descriptor of a part 0, or the reason its page will not be read, by what it says itself."""
        zero = np.uint64(0 if part.zero_offset is None else part.zero_offset)
        kinds = np.full(len(records), LOST if part.zero_offset is None else ZERO, np.int32)
        other = np.flatnonzero(records["offset"] != zero)
        offset, size, flags = (records[name][other] for name in ("offset", "size", "flags"))
        end = np.uint64(len(part.source))
        outside = (offset >= end) | (size > end - np.minimum(offset, end))
        oversize = size > np.uint32(1 << self._shift)
        coded = (flags[:, None] == _FLAGS).any(axis=1)
        kinds[other] = 0
        if outside.any() or oversize.any() or not (coded.all() and offset.all()):
            kinds[other] = np.select([offset == 0, outside, oversize, ~coded], [LOST, OUTSIDE, OVERSIZE, CODEC], 0)
        return kinds

    def _load(self, index: NDArray[np.int64], blocks: NDArray[np.uint64]) -> None:
        """Decompress the pages of these descriptors (of page frames ``blocks``) into the cache."""
        records, kinds = self._judged(index)
        if kinds.any():
            self._refuse(index, blocks, kinds)
            good = kinds == 0
            index, blocks, records = index[good], blocks[good], records[good]
        slots = (self._next + np.arange(len(index))) % self._room
        self._next = (self._next + len(index)) % self._room
        evicted = self._owners[slots]
        evicted = evicted[evicted >= 0]
        if len(evicted):
            self._at_hand.forget()
        self._slots[evicted] = np.minimum(self._slots[evicted], 0)  # what is damaged stays so
        self._owners[slots] = index
        self._slots[index] = slots + 1
        unpacked = self._unpack(index, records, self._cache.data, slots << self._shift, self.limits.jobs)
        if not unpacked.all():
            self._refuse(index, blocks, np.where(unpacked, 0, CORRUPT))

    def _unpack(
        self, index: NDArray[np.int64], records: NDArray[np.void], out: memoryview, at: NDArray[np.int64], jobs: int
    ) -> NDArray[np.bool_]:
        """Decompress the pages of these descriptors, ``records``, to the byte positions ``at`` of ``out``, by ``jobs``
        threads; returns which could be."""
        unpacked = np.zeros(len(index), dtype=np.bool_)
        for part, where, _ in self._by_part(index):
            pages = records[where]
            offsets, sizes = pages["offset"].astype(np.int64), pages["size"].astype(np.int64)
            for rows, file, places in part.source.spans(offsets, sizes):
                sized, flags, size = pages["size"][rows], pages["flags"][rows], 1 << self._shift
                unpacked[where[rows]] = decompress(file, places, sized, flags, out, at[where[rows]], size, jobs)
        return unpacked

    def _refuse(self, index: NDArray[np.int64], blocks: NDArray[np.uint64], kinds: NDArray[np.int32]) -> None:
        """Remember the pages that will not be read, and count those not counted before."""
        if not kinds.any():
            return
        bad = (kinds < 0) & (self._slots[index] >= 0)
        for kind in distinct(kinds[bad]).tolist():
            pages = blocks[bad & (kinds == kind)]
            count, first = self._met.get(kind, (0, int(pages[0])))
            self._met[kind] = (count + len(pages), min(first, int(pages.min())))
        self._slots[index[bad]] = kinds[bad]

    def problems(self) -> tuple[str, ...]:
        return tuple(
            f"of the dump's pages read so far, {counted(count, 'page')} absent: {_WHY[kind]} (first: page "
            f"frame {first:#x})"
            for kind, (count, first) in sorted(self._met.items(), reverse=True)
            if kind in _WHY
        )

    def page_states(self, pfns: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """A page that has never been read counts as present if its descriptor can be believed."""
        blocks = np.asarray(pfns, dtype=np.uint64) >> np.uint64(self._shift - PAGE_SHIFT)
        states, here, index = self._lookup(blocks)
        kinds = self._kinds(index)
        states[here[kinds == 0]] = PageState.PRESENT
        states[here[kinds == ZERO]] = PageState.ZERO
        return states

    def frame_counts(self) -> NDArray[np.int64]:
        """By the descriptors, in their order: there is one for each page that was dumped."""
        counts = np.zeros(len(PageState), np.int64)
        for part, start in zip(self._parts, self._starts.tolist(), strict=True):
            for low in range(0, part.count, _COUNTED_AT_ONCE):
                count = min(_COUNTED_AT_ONCE, part.count - low)
                records = part.source.array(DESCRIPTOR, part.descriptors_at + low * DESCRIPTOR.itemsize, count)
                kinds = self._judge(part, records)
                if self._met:
                    slots = self._slots[start + low : start + low + count]
                    kinds = np.where(slots < 0, slots, kinds)
                counts[PageState.PRESENT] += np.count_nonzero(kinds == 0)
                counts[PageState.ZERO] += np.count_nonzero(kinds == ZERO)
                self.release()
        counts[PageState.ABSENT] = self._ram.count - counts.sum()
        return counts << (self._shift - PAGE_SHIFT)

    def most_held(self) -> int:
        return self._dumped.count << (self._shift - PAGE_SHIFT)

    def chunks(self, size: int = 1 << 24) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        # What is unpacked ahead of whoever takes the pieces has to lie where other threads may look.
        ahead = all(isinstance(part.source, Mapped) for part in self._parts)
        limits = self.limits if ahead else Limits()
        for step, data, unpacked in limits.each(self._unpacked, self._steps(max(1, size >> self._shift))):
            blocks = step.blocks
            self._refuse(step.numbers, blocks, np.where(unpacked, 0, CORRUPT))
            rows = np.flatnonzero(unpacked)
            starts = np.flatnonzero((np.diff(blocks[rows]) != 1) | (np.diff(rows) != 1)) + 1
            for piece in np.split(rows, starts) if len(rows) else []:
                pa = int(blocks[piece[0]]) << self._shift
                whole = data[piece[0] : piece[-1] + 1].reshape(-1)
                for low in range(0, len(whole), size):  # a block may be larger than that
                    yield pa + low, whole[low : low + size]

    def _steps(self, most: int) -> Iterator[_Step]:
        """The pages that may be read, ``most`` at a time."""
        for part, start, end in zip(self._parts, self._starts.tolist(), self._ends.tolist(), strict=True):
            number = start
            for pages in self._dumped.pages(*part.window):
                for low in range(0, len(pages), most):
                    blocks = pages[low : low + most]
                    index = np.arange(number, min(number + len(blocks), end))
                    number += len(blocks)
                    blocks = blocks[: len(index)]
                    records, kinds = self._judged(index)
                    self._refuse(index, blocks, kinds)
                    good = kinds == 0
                    yield _Step(index[good], blocks[good], records[good])

    def _unpacked(self, step: _Step) -> tuple[_Step, NDArray[np.uint8], NDArray[np.bool_]]:
        """A step with its pages, past the cache, and which of them could be decompressed."""
        data = np.empty((len(step.numbers), 1 << self._shift), dtype=np.uint8)
        at = np.arange(len(step.numbers), dtype=np.int64) << self._shift
        return step, data, self._unpack(step.numbers, step.records, data.reshape(-1).data, at, 1)


class _Step(NamedTuple):
    """Pages that are read one after the other."""

    numbers: NDArray[np.int64]  # of their descriptors
    blocks: NDArray[np.uint64]  # their page frames
    records: NDArray[np.void]  # the descriptors
