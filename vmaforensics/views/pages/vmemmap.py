"""All of vmemmap, the array of every ``struct page``, as far as the kernel's page tables map it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import last_rows_of
from vmaforensics.columns.runs import ranges_without
from vmaforensics.kernel.space.kernel_space import Runs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.columns.types import U8, U64, Bools
    from vmaforensics.kernel.kernel import Kernel

_BATCH = 1 << 12  # pieces read at once


class VmemmapPieces(NamedTuple):
    """Some pieces of vmemmap: a page each where struct pages fill it evenly, else a single struct page."""

    first: U64  # frame of the first struct page in each
    data: U8  # shape (pieces, bytes)
    ok: Bools  # is it in the image?


def vmemmap_runs(kernel: Kernel, base: int, size: int) -> Runs:
    """Where the page tables map vmemmap, which begins at ``base`` and has ``size`` bytes a frame; up to the end of RAM,
    and of the page that it ends in."""
    ranges, runs = kernel.memory.ranges, kernel.space.runs
    page = kernel.arch.page_size
    span = page if page % size == 0 else size
    used = -(-int(ranges[:, 1].max(initial=0)) // page) * size
    high = base + -(-used // span) * span  # where RAM ends within a piece, the whole of it counts
    runs = runs.take((runs.end >= np.uint64(base)) & (runs.start < np.uint64(high)))
    start: U64 = np.maximum(runs.start, np.uint64(base))
    end = np.minimum(runs.end, np.uint64(max(high - 1, 0)))
    return Runs(start=start, end=end, pa=runs.pa + (start - runs.start))


def vmemmap_pages(kernel: Kernel, base: int, size: int, without: U64 | None = None) -> Iterator[VmemmapPieces]:
    """The pieces of vmemmap, which begins at ``base`` and has ``size`` bytes a frame, that the page tables map, a batch
    at a time; those that lie altogether in ``without``, ``(n, 2)`` ranges ``[first, end)`` of frames, are left out."""
    page = kernel.arch.page_size
    span = page if page % size == 0 else size
    runs = vmemmap_runs(kernel, base, size)
    start, end = runs.start - np.uint64(base), runs.end - np.uint64(base) + np.uint64(1)
    first = (start + np.uint64(span - 1)) // np.uint64(span)  # pieces that lie in one run altogether
    last = np.maximum(end // np.uint64(span), first)
    if without is not None:
        frames = np.uint64(span // size)
        cuts = np.stack([(without[:, 0] + frames - np.uint64(1)) // frames, without[:, 1] // frames], axis=1)
        first, last = ranges_without(np.stack([first, last], axis=1), cuts[cuts[:, 0] < cuts[:, 1]]).T
    count = last - first
    begin = np.cumsum(count) - count
    total = int(count.sum())
    for at in range(0, total, _BATCH):
        index = np.arange(at, min(at + _BATCH, total), dtype=np.uint64)
        run = last_rows_of(begin, index)
        addresses = np.uint64(base) + (first[run] + index - begin[run]) * np.uint64(span)
        data, ok = kernel.space.gather(addresses, span)
        yield VmemmapPieces((addresses - np.uint64(base)) // np.uint64(size), data, ok)
