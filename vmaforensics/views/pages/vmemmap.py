"""All of vmemmap, the array of every ``struct page``, as far as the kernel's page tables map it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.image.memory import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.page_types import PageReader

_BATCH = 1 << 12  # pages of vmemmap: 1 GiB of RAM


def vmemmap_pages(
    kernel: Kernel, reader: PageReader
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.uint8], NDArray[np.bool_]]]:
    """``(first frame, bytes, ok)`` of pieces of vmemmap that the page tables map, a batch at a time.

    A piece is a page where struct pages fill it evenly, else a single struct page.
    """
    ranges = kernel.memory.ranges
    if not len(ranges):
        return
    span = PAGE_SIZE if PAGE_SIZE % reader.size == 0 else reader.size
    low = int(reader.base)
    high = low + -(-int(ranges[:, 1].max()) // PAGE_SIZE) * reader.size
    runs = kernel.space.runs
    runs = runs[(runs["end"] >= np.uint64(low)) & (runs["start"] < np.uint64(high))]
    start = np.maximum(runs["start"], np.uint64(low)) - np.uint64(low)
    end = np.minimum(runs["end"], np.uint64(high - 1)) - np.uint64(low) + np.uint64(1)
    first = (start + np.uint64(span - 1)) // np.uint64(span)  # pieces that lie in one run altogether
    count = np.maximum(end // np.uint64(span), first) - first
    begin = np.cumsum(count) - count
    for at in range(0, int(count.sum()), _BATCH):
        index = np.arange(at, min(at + _BATCH, int(count.sum())), dtype=np.uint64)
        run = np.searchsorted(begin, index, "right") - 1
        addresses = np.uint64(low) + (first[run] + index - begin[run]) * np.uint64(span)
        data, ok = kernel.space.gather(addresses, span)
        yield (addresses - reader.base) // np.uint64(reader.size), data, ok
