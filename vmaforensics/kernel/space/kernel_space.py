"""The kernel's own address space as sorted runs: walked once, then every translation is a binary search."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import distinct, last_rows_of
from vmaforensics.columns.runs import begins_range, begins_run, run_lasts, run_starts
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import U8, U64, Bools
from vmaforensics.errors import MemoryReadError
from vmaforensics.image.at_hand import FEW

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.arch.interface import Architecture
    from vmaforensics.arch.page_tables import Walk
    from vmaforensics.image.memory import PhysicalMemory

WORD = 1 << 64  # addresses count modulo this


@table()
class Runs(Table):
    """Virtual addresses whose physical addresses follow each other: sorted, disjoint, none that could be joined."""

    start: U64  # first virtual address
    end: U64  # last virtual address
    pa: U64  # physical address of the first


class Translated(NamedTuple):
    """Where virtual addresses lie: arrays of one length. Where not ``mapped``, the others mean nothing."""

    pa: U64  # physical address
    left: U64  # bytes up to the end of the run, this one included
    mapped: Bools


class LinearPiece(NamedTuple):
    """A linear mapping of kernel addresses."""

    first: int  # address
    last: int  # address of the last byte
    pa: int  # physical address of the first byte


class KernelSpace:
    """Kernel virtual addresses → physical addresses → bytes."""

    def __init__(self, memory: PhysicalMemory, runs: Runs) -> None:
        self.memory = memory
        self.runs = _merge(runs)  # replaced when better page tables are found

    @property
    def runs(self) -> Runs:
        """What is mapped."""
        return self._runs

    @runs.setter
    def runs(self, runs: Runs) -> None:
        self._runs = runs
        # The columns once more, for who asks for one row: a number of a memoryview is had in a tenth of the time.
        self._columns = tuple(np.ascontiguousarray(column).data for column in (runs.start, runs.end, runs.pa))

    @classmethod
    def linear(cls, memory: PhysicalMemory, pieces: Sequence[LinearPiece]) -> KernelSpace:
        """A space of known linear mappings."""
        start, end, pa = np.array(pieces, dtype=np.uint64).reshape(-1, 3).T
        runs = Runs(start=start, end=end, pa=pa)
        return cls(memory, runs.take(start <= end))

    @classmethod
    def from_page_tables(cls, memory: PhysicalMemory, root: int, arch: Architecture) -> tuple[KernelSpace, Walk]:
        """Walk the kernel half under the top-level table at physical address ``root``.

        The walk is returned too: what of the tables could not be read, and whether it was cut short.
        """
        found = arch.walk_kernel(memory, root)
        leaves = found.leaves
        runs = Runs(
            start=leaves.va,
            end=leaves.va + (arch.span(leaves.level) - np.uint64(1)),
            pa=arch.target(leaves.entry, leaves.level),
        )
        return cls(memory, runs), found

    def holes(self, piece: LinearPiece, least: int) -> list[LinearPiece]:
        """Parts of ``piece`` of at least ``least`` bytes that are not mapped as it says, in order."""
        with np.errstate(over="ignore"):
            there = self.runs.pa - self.runs.start == np.uint64((piece.pa - piece.first) % WORD)
        runs = self.runs.take(
            there & (self.runs.end >= np.uint64(piece.first)) & (self.runs.start <= np.uint64(piece.last))
        )
        found = []
        at = piece.first
        for start, end in [*zip(runs.start.tolist(), runs.end.tolist(), strict=True), (piece.last + 1, piece.last)]:
            if start - at >= least:
                found.append(LinearPiece(at, start - 1, piece.pa + at - piece.first))
            at = end + 1
        return found

    def put(self, piece: LinearPiece) -> None:
        """Map ``piece`` as it says, whatever its addresses were mapped to."""
        first, last = np.uint64(piece.first), np.uint64(piece.last)
        runs = self.runs
        before, behind = runs.take(runs.start < first), runs.take(runs.end > last)
        before.end[:] = np.minimum(before.end, first - np.uint64(1))
        cut = behind.start <= last
        with np.errstate(over="ignore"):
            behind.pa[cut] += last + np.uint64(1) - behind.start[cut]
        behind.start[cut] = last + np.uint64(1)
        mine = Runs(start=np.array([first]), end=np.array([last]), pa=np.array([piece.pa], np.uint64))
        self.runs = _merge(Runs.concatenate([before, mine, behind]))

    def translate(self, vas: U64) -> Translated:
        """Where each address lies."""
        vas = np.ascontiguousarray(vas, dtype=np.uint64)
        if not len(self.runs):
            return Translated(vas, vas, np.zeros(len(vas), np.bool_))
        index = last_rows_of(self.runs.start, vas)
        run = np.maximum(index, 0)
        end = self.runs.end[run]
        mapped = (index >= 0) & (vas <= end)
        with np.errstate(over="ignore"):
            return Translated(vas - self.runs.start[run] + self.runs.pa[run], end - vas + np.uint64(1), mapped)

    def gather(self, vas: U64, size: int) -> tuple[U8, Bools]:
        """Read ``size`` bytes at each kernel address: ``(data, ok)`` as of ``PhysicalMemory.gather``."""
        vas = np.ascontiguousarray(vas, dtype=np.uint64)
        few = self._few(vas.tolist(), size) if len(vas) <= FEW else None
        if few is not None:
            return self.memory.gather(np.array(few, np.uint64), size)
        pas, left, ok = self.translate(vas)
        straight = ok & (left >= np.uint64(size))
        if straight.all():
            return self.memory.gather(pas, size)
        data = np.zeros((len(vas), size), np.uint8)
        readable = np.zeros(len(vas), np.bool_)
        if straight.any():
            data[straight], readable[straight] = self.memory.gather(pas[straight], size)
        # What runs over the end of a run is put together page by page.
        rest = np.flatnonzero(ok & ~straight)
        for room in distinct(left[rest]).tolist():
            rows = rest[left[rest] == room]
            readable[rows] = True
            at = 0
            while at < size:
                step = min(size - at, room if at == 0 else self.memory.page_size)
                with np.errstate(over="ignore"):
                    spot, more, mapped = self.translate(vas[rows] + np.uint64(at))
                mapped &= more >= np.uint64(step)
                piece, held = self.memory.gather(np.where(mapped, spot, np.uint64(0)), step)
                data[rows, at : at + step] = piece
                readable[rows] &= mapped & held
                at += step
        data[~readable] = 0
        return data, readable

    def word(self, va: int) -> int | None:
        """The 64-bit word at a kernel address; None if it cannot be read."""
        few = self._few([va % WORD], 8)
        if few is not None:
            return self.memory.word(few[0])
        data, ok = self.gather(np.array([va % WORD], np.uint64), 8)
        return int.from_bytes(data.tobytes(), "little") if ok[0] else None

    def _few(self, vas: list[int], size: int) -> list[int] | None:
        """Physical addresses of a few items; None if one of them is not mapped, or runs over the end of a run."""
        starts, ends, pas = self._columns
        found = []
        for va in vas:
            row = bisect_right(starts, va) - 1
            if row < 0 or va + size - 1 > ends[row]:
                return None
            found.append((va - starts[row] + pas[row]) % WORD)
        return found

    def read(self, va: int, size: int) -> bytes:
        """The bytes ``[va, va + size)``. Raises :class:`MemoryReadError` naming the first bad page."""
        if size <= 0:
            return b""
        va %= WORD
        first = va & ~(self.memory.page_size - 1)
        count = -(-(va + size - first) // self.memory.page_size)
        pages = np.arange(count, dtype=np.uint64) * np.uint64(self.memory.page_size) + np.uint64(first)
        low, high = va - first, va + size - first
        if len(pages) == 1:
            data, ok = self.gather(np.array([va], np.uint64), size)
        else:
            data, ok = self.gather(pages, self.memory.page_size)
        if not ok.all():
            bad = int(pages[int(np.argmin(ok))])
            _, _, mapped = self.translate(np.array([max(bad, va)], np.uint64))
            why = "its page is not in the dump" if mapped[0] else "no page table maps it"
            raise MemoryReadError(max(bad, va), min(size, self.memory.page_size), "kernel", why)
        return data.tobytes() if len(pages) == 1 else data.tobytes()[low:high]


def _merge(runs: Runs) -> Runs:
    """Sort ``runs``, drop what overlaps an earlier run, and join what continues in both spaces."""
    runs = runs.sort_by(runs.start)
    if len(runs) < 2:
        return runs
    reach = np.maximum.accumulate(runs.end)
    runs = runs.take(np.concatenate([[True], runs.start[1:] > reach[:-1]]))
    with np.errstate(over="ignore"):
        begins = begins_range(runs.start, runs.end + np.uint64(1)) | begins_run(runs.pa - runs.start)
    first = run_starts(begins)
    return Runs(start=runs.start[first], end=runs.end[run_lasts(first, len(runs))], pa=runs.pa[first])
