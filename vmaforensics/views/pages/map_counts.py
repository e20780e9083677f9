"""How often each part of a page is mapped, as page_mapcount and folio_precise_page_mapcount tell.

A small page counts its page-table entries in ``_mapcount``. A large folio counts, beside those of each of its
pages, the entries that map the whole of it, in a word that has had three names and two places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.kernel.space import paging
from vmaforensics.views.pages.page_types import PageReader, bit_set

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel

_PAGE = 4096
_BATCH = 1024  # huge pages whose parts are looked at together


class MapCounts:
    """Map counts of ``pages`` (dtype ``PAGES``), by row.

    ``ok`` is False where a count could not be read. Kernels with CONFIG_NO_PAGE_MAPCOUNT (6.15 and later, an
    option no distribution is known to set) keep no counts of parts and estimate them: their large folios that
    are mapped in parts come out as private here.
    """

    def __init__(self, kernel: Kernel, pages: NDArray[np.void]) -> None:
        self._kernel = kernel
        self._reader = PageReader(kernel)
        self._pages = pages
        self.ok = pages["ok"].copy()
        # Where entries of the whole are counted: folio._entire_mapcount since 6.3, in the first tail before.
        compound = np.flatnonzero(pages["compound"] & pages["ok"])
        heads, inverse = np.unique(pages["head"][compound], return_inverse=True)
        entire, doubled, fine = self._whole(heads)
        self._entire, self._doubled = np.zeros(len(pages), np.int64), np.zeros(len(pages), np.bool_)
        self._entire[compound], self._doubled[compound] = entire[inverse], doubled[inverse]
        self.ok[compound] &= fine[inverse]

    def _whole(self, heads: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
        """(entries that map the whole, PG_double_map, could be read) of each compound page."""
        kernel, size = self._kernel, np.uint64(self._reader.size)
        with np.errstate(over="ignore"):
            address = self._reader.base + heads * size
        if kernel.has("folio", "_entire_mapcount"):
            got, ok = kernel.gather("folio", address, ["_entire_mapcount.counter"])
            count = got["_entire_mapcount.counter"]
        elif kernel.has("page", "compound_mapcount"):
            got, ok = kernel.gather("page", address + size, ["compound_mapcount.counter"])
            count = got["compound_mapcount.counter"]
        else:
            return np.zeros(len(heads), np.int64), np.zeros(len(heads), np.bool_), np.zeros(len(heads), np.bool_)
        doubled = np.zeros(len(heads), np.bool_)
        bit = kernel.types.constant("PG_double_map")
        if bit is not None:
            tail, fine = kernel.gather("page", address + size, ["flags.f|flags"])
            doubled, ok = bit_set(tail["flags.f"], bit), ok & fine
        return np.maximum(count.astype(np.int64) + 1, 0), doubled, ok

    def _sum(self, rows: NDArray[np.int64], own: NDArray[np.int64]) -> NDArray[np.int64]:
        """Map count of a part whose own word says ``own``, of the compound page in row ``rows``."""
        page = self._pages[rows]
        own = np.maximum(own, 0)  # a page type lies there: not mapped in parts
        whole = self._entire[rows]
        if self._kernel.types.constant("PG_double_map") is not None:
            # __page_mapcount (mm/util.c) up to 6.1: of files, a part's own word counts everything.
            whole = whole - self._doubled[rows]
            whole = np.where(page["anon"] | page["hugetlb"], whole, 0)
        return own + whole

    def of_entries(self, ptes: NDArray[np.void]) -> NDArray[np.int64]:
        """Map count of the first page that each entry leads to."""
        return self._sum(ptes["page"], self._pages["mapcount"][ptes["page"]])

    def shares(
        self, ptes: NDArray[np.void], alone: NDArray[np.bool_], shift: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(bytes that nobody else maps, proportional share in ``1 / 2**shift`` bytes) of each entry.

        ``alone``: the only reference there is is this entry's (smaps_account takes that for granted).
        """
        size = paging.span(ptes["level"]).astype(np.int64)
        count = self.of_entries(ptes)
        private = np.where(alone | (count < 2), size, 0)
        pss = np.where(alone, size << shift, (size << shift) // np.maximum(count, 1))
        huge = np.flatnonzero((ptes["level"] == 2) & ~alone & ~self._pages["hugetlb"][ptes["page"]])
        rows, inverse = np.unique(ptes["page"][huge], return_inverse=True)
        parts, shared = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
        for low in range(0, len(rows), _BATCH):
            piece = slice(low, low + _BATCH)
            parts[piece], shared[piece] = self._parts(rows[piece], shift)
        private[huge], pss[huge] = parts[inverse], shared[inverse]
        return private, pss

    def _parts(self, rows: NDArray[np.int64], shift: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(private bytes, share) of each huge page, part by part."""
        frames = self._pages["pfn"][rows][:, None] + np.arange(512, dtype=np.uint64)
        own, ok = self._reader.read(frames.reshape(-1))
        self.ok[rows] &= ok.reshape(-1, 512).all(axis=1)
        words = own["type"].view(np.int32).astype(np.int64) + 1
        counts = self._sum(np.repeat(rows, 512), words).reshape(-1, 512)
        private = np.where(counts < 2, _PAGE, 0).sum(axis=1)
        share = ((_PAGE << shift) // np.maximum(counts, 1)).sum(axis=1)
        return private, share
