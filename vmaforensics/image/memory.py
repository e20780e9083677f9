"""Physical memory as the image holds it: sorted runs, four states of a byte, vectorised reads.

Readers of formats implement three things: the RAM ranges, :meth:`PhysicalMemory._locate` (where in a
flat buffer do these addresses lie?) and :meth:`PhysicalMemory.chunks` (everything held, in order).
Everything else (page crossings, bounds, tracing of what was read) is here, once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from threading import RLock
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.errors import MemoryReadError
from vmaforensics.image.at_hand import FEW, SHORT, PagesAtHand
from vmaforensics.image.limits import Limits
from vmaforensics.image.placed import PAGE_SHIFT, PAGE_SIZE, PageState, describe
from vmaforensics.image.source import take
from vmaforensics.image.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from vmaforensics.image.placed import Placed

_COUNTED_AT_ONCE = 1 << 22  # page frames
_READ_AT_ONCE = 1 << 12  # pages
_AROUND = 1 << 16  # bytes of a file that the system maps where one page of it is read (fault_around_bytes)
_KEPT = 1 << 28  # bytes of what was read that are left mapped


class PhysicalMemory(ABC):
    """Reads physical addresses out of an image, one address or many at once.

    ``ranges`` is an ``(n, 2)`` uint64 array of ``[start, end)`` RAM ranges: sorted, disjoint, not empty.
    """

    ranges: NDArray[np.uint64]
    # The unit that a container's contents are known by; it divides the pages of every CPU that Linux runs on.
    page_shift = PAGE_SHIFT
    page_size = PAGE_SIZE
    as_in_file = True  # it was not edited
    plain = False  # it lies in a mapped file as it is: to read all of it is cheap
    steady = False  # what _locate says of a page stays true until ``_at_hand.forget`` is called
    # Told how many bytes of how many a long run through memory has done; see :meth:`scan`.
    watch: Callable[[int, int], None] | None = None

    def __init__(self, ranges: NDArray[np.uint64]) -> None:
        self.ranges = ranges
        self._reading = RLock()  # what holds pages unpacked has one buffer for all readers
        self._trace: Trace | None = None
        self._at_hand = PagesAtHand(self._locate)

    # What a format has to provide -------------------------------------------------------------

    @abstractmethod
    def _locate(self, pas: NDArray[np.uint64], size: int) -> Placed:
        """Where the ``size`` bytes at each of ``pas`` lie; no item crosses a page boundary.

        An item that is only partly held is ``ABSENT``. At most :attr:`batch` items are asked for at once.
        """

    @abstractmethod
    def chunks(self, size: int = 1 << 24) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Every held run of bytes in ascending order, as ``(physical address, uint8 array)`` pieces of at
        most ``size`` bytes. Pages known to be zero may be left out. Not traced."""

    @abstractmethod
    def page_states(self, pfns: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """The :class:`PageState` of each page frame number, without reading its contents."""

    def frame_counts(self) -> NDArray[np.int64]:
        """Page frames of RAM in each :class:`PageState`, without a look at every frame where that is known
        otherwise: a header may claim any amount of RAM."""
        counts = np.zeros(len(PageState), np.int64)
        for start, end in self.ranges.tolist():
            first, last = start >> PAGE_SHIFT, -(-end >> PAGE_SHIFT)
            for low in range(first, last, _COUNTED_AT_ONCE):
                pfns = np.arange(low, min(low + _COUNTED_AT_ONCE, last), dtype=np.uint64)
                counts += np.bincount(self.page_states(pfns), minlength=len(PageState))[: len(PageState)]
        counts[PageState.NOT_RAM] = 0
        return counts

    def most_held(self) -> int:
        """How many page frames the image holds, present or zero, or a few more where counting them takes long."""
        return int(self.frame_counts()[[PageState.PRESENT, PageState.ZERO]].sum())

    batch = 1 << 16  # most items one _locate call is given

    # How large batches of what is read are, and how many are worked on at a time.
    limits = Limits()

    # Takes the pages of mapped files out of this process, where the image has some; see ``Image.release``.
    let_go: Callable[[], None] | None = None

    def limit(self, limits: Limits) -> None:
        """Go by these limits from now on."""
        self.limits = limits

    _passed = 0  # bytes that were mapped at most, by reads of whole pages, since they were let go of

    def release(self) -> None:
        """Let go of what was read so far: it counts as ours as long as it is mapped."""
        self._passed = 0
        if self.let_go is not None:
            self.let_go()

    def problems(self) -> tuple[str, ...]:
        """What the reads made so far have met and opening could not know: pages that would not decompress,
        say. One sentence per kind, with counts. Ask when the analysis is done; ``Image.problems`` holds
        what was known at opening, and neither repeats the other."""
        return ()

    def scan(self, size: int = 1 << 24) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """:meth:`chunks`, for searches: :attr:`watch` hears how far they have come, and what they have passed is let go
        of."""
        total = int((self.ranges[:, 1] - self.ranges[:, 0]).sum())
        before = 0  # bytes of the ranges up to the one that the search is in
        kept = 0  # bytes of pieces since the last that was let go of
        ranges = iter(self.ranges.tolist())
        start, end = next(ranges, (0, 0))
        for pa, piece in self.chunks(size):
            while pa >= end and (following := next(ranges, None)) is not None:
                before += end - start
                start, end = following
            if self.watch is not None:
                self.watch(min(before + max(pa - start, 0), total), total)
            yield pa, piece
            self.release()  # what a search has passed
            kept += len(piece)
            if kept >= _KEPT:
                self.release()
                kept = 0

    # Reading ----------------------------------------------------------------------------------

    def gather(self, pas: NDArray[np.uint64], size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Read ``size`` bytes at each of ``pas``.

        Returns ``(data, ok)``: data of shape ``(len(pas), size)`` uint8, zero where not ``ok``; ok is
        True where every byte of the row is held by the image (present, or known to be zero).
        """
        pas = np.ascontiguousarray(pas, dtype=np.uint64)
        count = len(pas)
        few = self._few(pas.tolist(), size) if count <= FEW else None
        if few is not None:
            return np.frombuffer(few, np.uint8).reshape(count, size), np.ones(count, np.bool_)
        data = np.zeros((count, size), dtype=np.uint8)
        ok = np.ones(count, dtype=np.bool_)
        if count == 0 or size == 0:
            return data, ok
        if size > 1:
            ok &= pas <= np.uint64(2**64 - size)  # a row that wraps past 2**64 is nowhere
        room = PAGE_SIZE - (pas & np.uint64(PAGE_SIZE - 1)).astype(np.int64)
        whole = room >= size
        if whole.all():
            self._fill(pas, data, ok, None)
            return data, ok
        index = np.flatnonzero(whole)
        if len(index):
            self._fill(pas, data, ok, index)
        # Rows that cross page boundaries: group them by the room left in their first page, so that each
        # group is cut at the same columns. Kernel objects are aligned, so there are few groups.
        crossing = np.flatnonzero(~whole)
        for first in distinct(room[crossing]).tolist():
            rows = crossing[room[crossing] == first]
            start = 0
            while start < size:
                stop = min(size, first) if start == 0 else min(size, start + PAGE_SIZE)
                piece = np.zeros((len(rows), stop - start), dtype=np.uint8)
                held = np.ones(len(rows), dtype=np.bool_)
                with np.errstate(over="ignore"):
                    self._fill(pas[rows] + np.uint64(start), piece, held, None)
                data[rows, start:stop] = piece
                ok[rows] &= held
                start = stop
        data[~ok] = 0
        return data, ok

    def word(self, pa: int) -> int | None:
        """The 64-bit word at a physical address, little-endian; None if it is not held."""
        few = self._few([pa], 8)
        if few is None:
            data, ok = self.gather(np.array([pa], np.uint64), 8)
            return int.from_bytes(data.tobytes(), "little") if ok[0] else None
        return int.from_bytes(few, "little")

    def _few(self, pas: list[int], size: int) -> bytearray | None:
        """A few short items one behind the other; None where that takes more than looking up their pages."""
        if not self.steady or self._trace is not None or not 0 < size <= SHORT or not 0 < len(pas) <= self.batch:
            return None
        with self._reading:
            return self._at_hand.cut(pas, size)

    def locate(self, pas: NDArray[np.uint64], size: int) -> Placed:
        """Where the ``size`` bytes at each of ``pas`` lie until the next read: at most :attr:`batch` items, none
        of which crosses a page."""
        if self._trace is not None:
            self._trace.add(pas)
        return self._locate(pas, size)

    def _fill(
        self,
        pas: NDArray[np.uint64],
        data: NDArray[np.uint8],
        ok: NDArray[np.bool_],
        index: NDArray[np.intp] | None,
    ) -> None:
        """Read rows ``index`` (all, if None) of ``pas`` into ``data`` and ``ok``; none crosses a page."""
        total = len(pas) if index is None else len(index)
        for low in range(0, total, self.batch):
            rows = slice(low, low + self.batch) if index is None else index[low : low + self.batch]
            with self._reading:
                self._fill_batch(pas, data, ok, rows)
        if data.shape[1] >= PAGE_SIZE // 2:  # many small ones lie in one page
            self._passed += total * max(data.shape[1], _AROUND)
        if self._passed >= (_KEPT if self.limits.memory is None else min(_KEPT, self.limits.memory // 8)):
            self.release()

    def _fill_batch(
        self,
        pas: NDArray[np.uint64],
        data: NDArray[np.uint8],
        ok: NDArray[np.bool_],
        rows: slice | NDArray[np.intp],
    ) -> None:
        size, part = data.shape[1], pas[rows]
        buffer, offsets, states = self.locate(part, size)
        held = states <= PageState.ZERO
        ok[rows] = held
        if len(buffer) < size:
            return
        present = states == PageState.PRESENT
        if present.all():
            data[rows] = take(buffer, offsets, size)
        elif present.any():
            got = np.zeros((len(part), size), dtype=np.uint8)
            got[present] = take(buffer, offsets[present], size)
            data[rows] = got

    def read(self, pa: int, size: int) -> bytes:
        """The bytes ``[pa, pa + size)``. Raises :class:`MemoryReadError` if any of them is not held."""
        pieces = []
        end = pa + size
        if pa < 0 or end > 2**64:
            raise MemoryReadError(pa, size, "physical", "addresses have 64 bits")
        while pa < end:
            step = min(end - pa, PAGE_SIZE - pa % PAGE_SIZE)
            count = max(1, min((end - pa) // PAGE_SIZE, _READ_AT_ONCE)) if step == PAGE_SIZE else 1
            pas = np.arange(count, dtype=np.uint64) * np.uint64(PAGE_SIZE) + np.uint64(pa)
            data, ok = self.gather(pas, step)
            if not ok.all():
                bad = int(pas[~ok][0])
                state = PageState(int(self.page_states(np.array([bad >> PAGE_SHIFT], np.uint64))[0]))
                why = "held only in part" if state <= PageState.ZERO else describe(state)
                raise MemoryReadError(bad, step, "physical", f"the page is {why}")
            pieces.append(data.tobytes())
            pa += step * count
        return b"".join(pieces)

    # Which pages an analysis has touched (for excerpts) ------------------------------------------

    @property
    def tracing(self) -> bool:
        """Whether what is read is recorded."""
        return self._trace is not None

    def start_trace(self) -> None:
        """Record from now on every page frame that a read asks for; see :meth:`traced`."""
        self._trace = Trace(int(self.ranges[-1, 1]) if len(self.ranges) else 0, PAGE_SHIFT)

    @contextmanager
    def untraced(self) -> Iterator[None]:
        """Searches look at many pages; only what they find is needed again. See :meth:`touch`."""
        trace, self._trace = self._trace, None
        try:
            yield
        finally:
            self._trace = trace

    def touch(self, pa: int, size: int) -> None:
        """Trace the pages of ``[pa, pa + size)`` as if they had been read."""
        if self._trace is not None:
            self._trace.add(np.arange(pa & ~(PAGE_SIZE - 1), pa + size, PAGE_SIZE, dtype=np.uint64))

    def traced(self) -> NDArray[np.uint64]:
        """Page frame numbers asked for since :meth:`start_trace`, sorted; held by the image or not.
        Those above the highest RAM address are left out."""
        return np.zeros(0, np.uint64) if self._trace is None else self._trace.pfns()
