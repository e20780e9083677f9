"""Memory that lies in a source in segments: raw images, ELF cores, LiME, AVML.

A reader of such a format lists what its headers promise, a row of :class:`Segments` per record;
:func:`lay_out` turns the promises into what the file can keep, and says where the two differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.runs import begins_range, run_starts
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import U64
from vmaforensics.image.memory import PhysicalMemory
from vmaforensics.image.placed import PageState, Placed
from vmaforensics.image.source import Mapped, take
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from vmaforensics.image.source import Source


@table()
class Segments(Table):
    """What a header promises, a row per record, in the order of the file."""

    pa: U64  # physical address
    memory: U64  # bytes of RAM from there
    held: U64  # bytes of these that are in the file, the first ones
    offset: U64  # where, in the file
    # Tells aliases apart: two segments that cover the same addresses under different keys (an ELF core's kernel text
    # and direct map) are no contradiction.
    key: U64

    @classmethod
    def of_rows(cls, rows: Sequence[tuple[int, int, int, int, int]]) -> Segments:
        """Rows one by one, in the order of the columns."""
        columns = np.array(rows, np.uint64).reshape(-1, 5).T
        return cls(pa=columns[0], memory=columns[1], held=columns[2], offset=columns[3], key=columns[4])


NO_RANGES = np.zeros((0, 2), np.uint64)
PHYSICAL_LIMIT = 1 << 52  # no x86-64 or arm64 processor has more physical address bits
_STITCHED_AT_ONCE = 1 << 20  # bytes


class FlatMemory(PhysicalMemory):
    """Segments of a source: addresses ``starts``, ``lengths`` in bytes, ``offsets`` in the source; sorted.

    ``zeros`` are ``[start, end)`` ranges of which the container says that they hold nothing but zeros.
    """

    def __init__(
        self,
        source: Source,
        ranges: NDArray[np.uint64],
        starts: NDArray[np.uint64],
        lengths: NDArray[np.uint64],
        offsets: NDArray[np.uint64],
        zeros: NDArray[np.uint64] = NO_RANGES,
    ) -> None:
        super().__init__(ranges)
        self._source = source
        self.plain = self.steady = isinstance(source, Mapped)
        # An empty segment at 0 in front: every address then has a segment at or below it.
        zero = np.zeros(1, np.uint64)
        self._starts = np.concatenate([zero, starts])
        self._lengths = np.concatenate([zero, lengths])
        self._offsets = np.concatenate([zero, offsets])
        self._held = ByteCount(starts, lengths)
        self._ram = ByteCount(ranges[:, 0], ranges[:, 1] - ranges[:, 0])
        self._zeros = ByteCount(zeros[:, 0], zeros[:, 1] - zeros[:, 0])
        # Where two segments meet inside a page, an item may be held in two pieces.
        ends = starts + lengths
        seams = ends[:-1][(ends[:-1] == starts[1:]) & (ends[:-1] % np.uint64(self.page_size) != 0)]
        self._seams = seams

    def drop(self, start: int, end: int) -> None:
        """Read ``[start, end)``, the end of a range, as RAM that is not in the dump."""
        cut = (self._starts < np.uint64(end)) & (self._starts + self._lengths > np.uint64(start))
        rest = np.maximum(self._starts, np.uint64(start)) - self._starts
        self._lengths = np.where(cut, np.minimum(self._lengths, rest), self._lengths)
        self._held = ByteCount(self._starts[1:], self._lengths[1:])
        self._at_hand.forget()

    def lie_as(self, other: FlatMemory) -> None:
        """Lie from now on as ``other``, of the same source, does. What was traced before is forgotten."""
        super().__init__(other.ranges)
        self._starts, self._lengths, self._offsets = other._starts, other._lengths, other._offsets
        self._held, self._ram, self._zeros, self._seams = other._held, other._ram, other._zeros, other._seams

    def _locate(self, pas: NDArray[np.uint64], size: int) -> Placed:
        at = np.searchsorted(self._starts, pas, side="right") - 1
        into = pas - self._starts[at]
        length = self._lengths[at]
        held = (into < length) & (length - into >= np.uint64(size))
        offsets = (self._offsets[at] + into).astype(np.int64)
        states = np.zeros(len(pas), dtype=np.uint8)
        if held.all():
            buffer, places, ok = self._source.fetch(offsets, size)
            states[~ok] = PageState.ABSENT
            return Placed(buffer, places, states)
        here, missing = np.flatnonzero(held), np.flatnonzero(~held)
        buffer, there, ok = self._source.fetch(offsets[here], size)
        places = np.zeros(len(pas), dtype=np.int64)
        places[here] = there
        states[here[~ok]] = PageState.ABSENT
        states[missing] = np.where(self._ram.within(pas[missing], size) > 0, PageState.ABSENT, PageState.NOT_RAM)
        states[missing[self._zeros.within(pas[missing], size) == size]] = PageState.ZERO
        if len(self._seams):
            whole = missing[self._held.within(pas[missing], size) == size]
            if len(whole):
                return self._stitch(pas, size, Placed(buffer, places, states), whole)
        return Placed(buffer, places, states)

    def _stitch(
        self,
        pas: NDArray[np.uint64],
        size: int,
        others: Placed,
        whole: NDArray[np.intp],
    ) -> Placed:
        """Read items ``whole``, each held in pieces, byte by byte, and the others as they lie."""
        buffer, places, states = others
        copy = np.zeros((len(pas), size), dtype=np.uint8)
        simple = np.flatnonzero(states == PageState.PRESENT)
        copy[simple] = take(buffer, places[simple], size) if len(simple) else 0
        steps = np.arange(size, dtype=np.uint64)
        few = max(1, _STITCHED_AT_ONCE // size)
        for low in range(0, len(whole), few):
            rows = whole[low : low + few]
            bytewise = (pas[rows, None] + steps).reshape(-1)
            at = np.searchsorted(self._starts, bytewise, side="right") - 1
            offsets = (self._offsets[at] + bytewise - self._starts[at]).astype(np.int64)
            buffer, places, ok = self._source.fetch(offsets, 1)
            copy[rows] = buffer[places].reshape(-1, size)
            states[rows] = np.where(ok.reshape(-1, size).all(axis=1), PageState.PRESENT, PageState.ABSENT)
        return Placed(copy.reshape(-1), np.arange(len(pas), dtype=np.int64) * size, states)

    def chunks(self, size: int = 1 << 24) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        table = zip(self._starts.tolist(), self._lengths.tolist(), self._offsets.tolist(), strict=True)
        for pa, length, offset in table:
            for at, piece in self._source.pieces(offset, length, size):
                yield pa + at - offset, piece

    def problems(self) -> tuple[str, ...]:
        return self._source.problems()

    def frame_counts(self) -> NDArray[np.int64]:
        counts = np.zeros(len(PageState), np.int64)
        first = self.ranges[:, 0] >> np.uint64(self.page_shift)
        last = (self.ranges[:, 1] - np.uint64(1)) >> np.uint64(self.page_shift)
        frames = int((last - first + np.uint64(1)).sum())
        counts[PageState.PRESENT] = min(int(self._lengths.sum()) + self.page_size - 1 >> self.page_shift, frames)
        counts[PageState.ZERO] = min(self._zeros.total >> self.page_shift, frames - int(counts[PageState.PRESENT]))
        counts[PageState.ABSENT] = frames - counts.sum()
        return counts

    def page_states(self, pfns: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """Of a page that is RAM or held only in part: ``PRESENT`` if all of its RAM is held."""
        pfns = np.asarray(pfns, dtype=np.uint64)
        sane = pfns < np.uint64(PHYSICAL_LIMIT >> self.page_shift)
        pas = np.where(sane, pfns, 0).astype(np.uint64) << np.uint64(self.page_shift)
        ram = self._ram.within(pas, self.page_size)
        states = np.where(self._held.within(pas, self.page_size) == ram, PageState.PRESENT, PageState.ABSENT)
        states[self._zeros.within(pas, self.page_size) == self.page_size] = PageState.ZERO
        states[(ram == 0) | ~sane] = PageState.NOT_RAM
        if self._source.lossy:
            here = np.flatnonzero(states == PageState.PRESENT)
            states[here[self._lost(pas[here])]] = PageState.ABSENT
        return states.astype(np.uint8)

    def _lost(self, pages: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether the source has turned out not to have some of what is held of the pages at these addresses."""
        lost = np.zeros(len(pages), dtype=np.bool_)
        ends = pages + np.uint64(self.page_size)
        at = np.searchsorted(self._starts, pages, side="right") - 1
        rows = np.arange(len(pages))
        while len(rows):
            start = self._starts[at]
            low, high = np.maximum(pages[rows], start), np.minimum(ends[rows], start + self._lengths[at])
            some = high > low
            offsets = (self._offsets[at] + low - start)[some].astype(np.int64)
            lost[rows[some]] |= self._source.lost(offsets, (high - low)[some].astype(np.int64))
            at += 1
            more = np.flatnonzero(at < len(self._starts))
            more = more[self._starts[at[more]] < ends[rows[more]]]
            rows, at = rows[more], at[more]
        return lost


class ByteCount:
    """Counts the bytes of sorted, disjoint ranges that lie inside an interval."""

    def __init__(self, starts: NDArray[np.uint64], lengths: NDArray[np.uint64]) -> None:
        zero = np.zeros(1, np.uint64)
        self._starts = np.concatenate([zero, starts])
        self._lengths = np.concatenate([zero, lengths])
        self._before = np.concatenate([zero, np.cumsum(self._lengths)[:-1]])
        self.total = int(self._lengths.sum())

    def _below(self, addresses: NDArray[np.uint64]) -> NDArray[np.uint64]:
        at = np.searchsorted(self._starts, addresses, side="right") - 1
        into = np.minimum(addresses - self._starts[at], self._lengths[at])
        below: NDArray[np.uint64] = self._before[at] + into
        return below

    def within(self, addresses: NDArray[np.uint64], size: int) -> NDArray[np.uint64]:
        """How many bytes of the ranges lie in ``[address, address + size)``, for each of ``addresses``."""
        top = np.uint64(2**64 - 1 - size)
        low = np.minimum(addresses, top)
        return self._below(low + np.uint64(size)) - self._below(low)


def lay_out(
    source: Source,
    segments: Segments,
    noun: str = "segment",
    kind: type[FlatMemory] = FlatMemory,
    zeros: NDArray[np.uint64] = NO_RANGES,
) -> tuple[FlatMemory, list[str]]:
    """What ``source`` holds of the :class:`Segments` a header lists, in their order there.

    Where segments overlap, the bytes are those of the one that starts lowest; of two that start at the
    same address, of the one that holds more; of two alike, of the first listed. ``zeros`` are ``[start, end)`` ranges
    of RAM that the container leaves out because they hold nothing but zeros. Returns the memory, of class
    ``kind``, and a sentence for everything that was not as promised.
    """
    problems: list[str] = []
    number = np.arange(len(segments))
    pa, memory = segments.pa, segments.memory
    beyond = (pa >= PHYSICAL_LIMIT) | (memory > PHYSICAL_LIMIT) | (pa + memory > PHYSICAL_LIMIT)
    if beyond.any():
        worst = int(np.flatnonzero(beyond)[0])
        problems.append(
            f"{counted(int(beyond.sum()), noun)} left out: no physical address lies at or above 2**52 "
            f"(first: {noun} {worst} at {int(pa[worst]):#x}, {int(memory[worst]):#x} bytes long)"
        )
    keep = ~beyond & (memory > 0)
    segments, number = segments.take(keep), number[keep]
    pa, memory, held, offset = segments.pa, segments.memory, segments.held, segments.offset
    if (held > memory).any():
        worst = int(np.flatnonzero(held > memory)[0])
        problems.append(
            f"{counted(int((held > memory).sum()), noun)} with more bytes in the file than in memory; the "
            f"surplus is not read (first: {noun} {number[worst]}, {int(held[worst]):#x} against "
            f"{int(memory[worst]):#x})"
        )
        np.minimum(held, memory, out=held)
    room = np.uint64(len(source)) - np.minimum(offset, np.uint64(len(source)))
    short = held > room
    if short.any():
        worst = int(np.flatnonzero(short)[0])
        lost = int((held[short] - room[short]).sum())
        problems.append(
            f"the file is truncated: it ends at offset {len(source):#x}, and {counted(lost, 'byte')} of "
            f"{counted(int(short.sum()), noun)} are missing (first: {noun} {number[worst]}, physical "
            f"{int(pa[worst]):#x}, needs the file up to offset {int(offset[worst]) + int(held[worst]):#x})"
        )
        np.minimum(held, room, out=held)
    ranges = _union(np.concatenate([pa, zeros[:, 0]]), np.concatenate([memory, zeros[:, 1] - zeros[:, 0]]))
    order = np.lexsort((number, -held.astype(np.int64), pa))
    order = order[held[order] > 0]
    pieces, contradictions = _flatten(segments.take(order))
    if contradictions:
        problems.append(
            f"{counted(contradictions, noun)} overlap others; where they do, the {noun} that starts at the "
            "lowest physical address was read"
        )
    whole = _union(zeros[:, 0], zeros[:, 1] - zeros[:, 0])
    return kind(source, ranges, pieces.pa, pieces.held, pieces.offset, whole), problems


def _union(pa: NDArray[np.uint64], size: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The union of ranges as sorted, disjoint, non-adjacent ``(n, 2)`` ``[start, end)``."""
    if len(pa) == 0:
        return np.zeros((0, 2), np.uint64)
    order = np.argsort(pa, kind="stable")
    start, end = pa[order], np.maximum.accumulate(pa[order] + size[order])
    first = np.concatenate([[True], start[1:] > end[:-1]])
    last = np.concatenate([first[1:], [True]])
    return np.stack([start[first], end[last]], axis=1)


def _flatten(segments: Segments) -> tuple[Segments, int]:
    """Cut sorted segments where an earlier one already covers them, and join what continues both in memory
    and in the file. Returns the pieces and how many segments overlapped another of the same key."""
    if len(segments) == 0:
        return segments, 0
    end = segments.pa + segments.held
    reach = np.maximum.accumulate(end)
    covered = np.concatenate([segments.pa[:1], reach[:-1]])  # up to where the earlier ones reach
    holder = np.maximum.accumulate(np.where(end == reach, np.arange(len(end)), 0))
    before = np.concatenate([[0], holder[:-1]])
    overlap = covered > segments.pa
    contradictions = int((overlap & (segments.key == segments.key[before])).sum())
    cut = np.where(overlap, np.minimum(covered, end) - segments.pa, 0).astype(np.uint64)
    pieces = segments.replace(pa=segments.pa + cut, offset=segments.offset + cut, held=segments.held - cut)
    pieces = pieces.take(pieces.held > 0)
    pa, held, offset = pieces.pa, pieces.held, pieces.offset
    first = run_starts(begins_range(pa, pa + held) | begins_range(offset, offset + held))
    joined = pieces.take(first)
    return joined.replace(held=np.add.reduceat(held, first)), contradictions
