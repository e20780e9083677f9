"""The memory of one process as its program sees it: any range, over all regions that some record knows of."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.export.page_source import PageSources
from vmaforensics.export.region_pages import region_pages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.columns.types import U8
    from vmaforensics.compare.known_regions import KnownRegions
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views


class Range(NamedTuple):
    """Bytes of a range, zeros where they are not known, and its pages."""

    data: U8
    pages: PageSources

    @property
    def missing(self) -> int:
        """Pages whose contents are not known."""
        return int((~self.pages.known).sum())


class UserMemory:
    """Reads ranges of the address space that ``regions`` are of."""

    def __init__(self, kernel: Kernel, views: Views, regions: KnownRegions) -> None:
        self._kernel, self._views, self.regions = kernel, views, regions

    @property
    def top(self) -> int:
        """First address above all that a process can have."""
        return self._kernel.arch.user_top

    def pages(self, start: int, end: int) -> PageSources:
        """The pages of ``[start, end)``, multiples of a page; those that no region has are not mapped."""
        size = self._kernel.arch.page_size
        whole = PageSources.of(address=np.arange(start, end, size, dtype=np.uint64))
        rows = self.regions.rows
        # Of regions that overlap the first has the pages, as in a core file: later ones are written before it.
        for row in np.flatnonzero((rows.start < np.uint64(end)) & (rows.end > np.uint64(start)))[::-1].tolist():
            for piece in region_pages(self._kernel, self._views, self.regions, row, (start, end)):
                if piece.pages is None:
                    at = slice((piece.start - start) // size, (piece.end - start) // size)
                    whole.state[at] = piece.state
                    continue
                at = slice((piece.start - start) // size, (piece.start - start) // size + len(piece.pages))
                for name, values in whole.columns().items():
                    values[at] = getattr(piece.pages, name)
        return whole

    def read(self, start: int, length: int) -> Range:
        """``length`` bytes from any address on."""
        size = self._kernel.arch.page_size
        low, high = start // size * size, -(-(start + length) // size) * size
        pages = self.pages(low, high)
        data = page_bytes(self._kernel, pages).reshape(-1)
        return Range(data[start - low : start - low + length], pages)


def page_bytes(kernel: Kernel, pages: PageSources) -> U8:
    """The bytes of each page, a row each; zeros where there are none."""
    held, size = pages.has_bytes, kernel.arch.page_size
    data = np.zeros((len(pages), size), np.uint8)
    if held.any():
        data[held], _ = kernel.memory.gather(kernel.arch.bytes_of(pages.pfn[held]), size)
    return data


def pieces_of_bytes(kernel: Kernel, pages: PageSources, step: int = 1 << 10) -> Iterator[U8]:
    """The bytes of ``pages`` in order, ``step`` pages at a time."""
    for low in range(0, len(pages), step):
        yield page_bytes(kernel, pages.take(slice(low, low + step))).reshape(-1)
