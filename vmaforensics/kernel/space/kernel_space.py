"""The kernel's own address space as sorted runs: walked once, then every translation is a binary search."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import MemoryReadError
from vmaforensics.image.memory import PAGE_SIZE
from vmaforensics.kernel.space import paging

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vmaforensics.image.memory import PhysicalMemory

RUNS = np.dtype([("start", np.uint64), ("end", np.uint64), ("pa", np.uint64)])  # end is inclusive

# The espfix area (arch/x86/kernel/espfix_64.c) maps the same few pages 65,536 times; nothing else is there.
_ESPFIX = (0xFFFFFF00_00000000, 0xFFFFFF7F_FFFFFFFF)


class KernelSpace:
    """Kernel virtual addresses → physical addresses → bytes.

    ``runs`` has dtype ``RUNS``, is sorted by start, and no two runs overlap or could be merged.
    """

    def __init__(self, memory: PhysicalMemory, runs: NDArray[np.void]) -> None:
        self.memory = memory
        self.runs = _merge(runs)

    @classmethod
    def linear(cls, memory: PhysicalMemory, pieces: Sequence[tuple[int, int, int]]) -> KernelSpace:
        """A space of known linear mappings, each (first address, last address, physical address)."""
        runs = np.array(pieces, dtype=RUNS)
        return cls(memory, runs[runs["start"] <= runs["end"]])

    @classmethod
    def from_page_tables(
        cls, memory: PhysicalMemory, root: int, *, levels: int, mask: int = paging.ADDRESS_MASK
    ) -> tuple[KernelSpace, paging.Walk]:
        """Walk the kernel half under the top-level table at physical address ``root``.

        The walk is returned too: what of the tables could not be read, and whether it was cut short.
        """
        shift = 12 + 9 * (levels - 1)
        skip = (_ESPFIX[0] >> shift & 511,) if levels == 4 else ()
        found = paging.walk(memory, np.array([root], np.uint64), levels=levels, first=256, skip=skip, mask=mask)
        leaves = found.leaves
        inside = (leaves["va"] >= np.uint64(_ESPFIX[0])) & (leaves["va"] <= np.uint64(_ESPFIX[1]))
        leaves = leaves[~inside]
        runs = np.zeros(len(leaves), RUNS)
        runs["start"], runs["pa"] = leaves["va"], paging.target(leaves["entry"], leaves["level"], mask)
        runs["end"] = leaves["va"] + (paging.span(leaves["level"]) - np.uint64(1))
        return cls(memory, runs), found

    def translate(self, vas: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.bool_]]:
        """(physical address, bytes up to the end of the contiguous run, is it mapped) of each address.

        Where not mapped, the first two are meaningless.
        """
        vas = np.ascontiguousarray(vas, dtype=np.uint64)
        if not len(self.runs):
            return vas, vas, np.zeros(len(vas), np.bool_)
        index = np.searchsorted(self._starts, vas, "right") - 1
        run = np.maximum(index, 0)
        end = self._ends[run]
        mapped = (index >= 0) & (vas <= end)
        with np.errstate(over="ignore"):
            return vas - self._starts[run] + self._pas[run], end - vas + np.uint64(1), mapped

    @property
    def runs(self) -> NDArray[np.void]:
        """The sorted runs, dtype ``RUNS``."""
        return self._runs

    @runs.setter
    def runs(self, runs: NDArray[np.void]) -> None:
        self._runs = runs
        self._starts = np.ascontiguousarray(runs["start"])
        self._ends = np.ascontiguousarray(runs["end"])
        self._pas = np.ascontiguousarray(runs["pa"])

    def gather(self, vas: NDArray[np.uint64], size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Read ``size`` bytes at each kernel address: ``(data, ok)`` as of ``PhysicalMemory.gather``."""
        vas = np.ascontiguousarray(vas, dtype=np.uint64)
        pas, left, ok = self.translate(vas)
        straight = ok & (left >= np.uint64(size))
        if straight.all():
            return self.memory.gather(pas, size)
        data = np.zeros((len(vas), size), np.uint8)
        fine = np.zeros(len(vas), np.bool_)
        if straight.any():
            data[straight], fine[straight] = self.memory.gather(pas[straight], size)
        # What runs over the end of a run is put together page by page.
        rest = np.flatnonzero(ok & ~straight)
        for room in np.unique(left[rest]).tolist():
            rows = rest[left[rest] == room]
            fine[rows] = True
            at = 0
            while at < size:
                step = min(size - at, room if at == 0 else PAGE_SIZE)
                with np.errstate(over="ignore"):
                    spot, more, mapped = self.translate(vas[rows] + np.uint64(at))
                mapped &= more >= np.uint64(step)
                piece, held = self.memory.gather(np.where(mapped, spot, np.uint64(0)), step)
                data[rows, at : at + step] = piece
                fine[rows] &= mapped & held
                at += step
        data[~fine] = 0
        return data, fine

    def read(self, va: int, size: int) -> bytes:
        """The bytes ``[va, va + size)``. Raises :class:`MemoryReadError` naming the first bad page."""
        if size <= 0:
            return b""
        first = va & ~(PAGE_SIZE - 1)
        count = -(-(va + size - first) // PAGE_SIZE)
        pages = np.arange(count, dtype=np.uint64) * np.uint64(PAGE_SIZE) + np.uint64(first)
        low, high = va - first, va + size - first
        if len(pages) == 1:
            data, ok = self.gather(np.array([va], np.uint64), size)
        else:
            data, ok = self.gather(pages, PAGE_SIZE)
        if not ok.all():
            bad = int(pages[int(np.argmin(ok))])
            _, _, mapped = self.translate(np.array([max(bad, va)], np.uint64))
            why = "its page is not in the dump" if mapped[0] else "no page table maps it"
            raise MemoryReadError(max(bad, va), min(size, PAGE_SIZE), "kernel", why)
        return data.tobytes() if len(pages) == 1 else data.tobytes()[low:high]


def _merge(runs: NDArray[np.void]) -> NDArray[np.void]:
    """Sort ``runs``, drop what overlaps an earlier run, and join what continues in both spaces."""
    runs = runs[np.argsort(runs["start"], kind="stable")]
    if len(runs) < 2:
        return runs
    reach = np.maximum.accumulate(runs["end"])
    runs = runs[np.concatenate([[True], runs["start"][1:] > reach[:-1]])]
    with np.errstate(over="ignore"):
        joined = (runs["start"][1:] == runs["end"][:-1] + np.uint64(1)) & (
            runs["pa"][1:] - runs["pa"][:-1] == runs["start"][1:] - runs["start"][:-1]
        )
    heads = np.flatnonzero(np.concatenate([[True], ~joined]))
    tails = np.append(heads[1:] - 1, len(runs) - 1)
    merged = runs[heads]
    merged["end"] = runs["end"][tails]
    return merged
