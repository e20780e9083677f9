"""How often each part of a page is mapped, as page_mapcount and folio_precise_page_mapcount tell.

A small page counts its page-table entries in ``_mapcount``. A large folio counts, beside those of each of its
pages, the entries that map the whole of it, in a word that has had three names and two places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.ragged import expand
from vmaforensics.views.pages.mapped_pages import map_counts
from vmaforensics.views.pages.page_types import PageReader, bit_set

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64, U64, Bools
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.mapped_pages import Pages
    from vmaforensics.views.pages.ptes import Ptes, Rows

_BATCH = 1024  # huge pages whose parts are looked at together


class Shares(NamedTuple):
    """What the pages of entries weigh."""

    private: I64  # bytes that nobody else maps
    pss: I64  # proportional share, in 1 / 2**shift bytes


class _Whole(NamedTuple):
    """What compound pages say of being mapped as a whole."""

    entries: I64
    doubled: Bools  # PG_double_map: its parts count an entry each for it
    ok: Bools


class MapCounts:
    """Map counts of ``pages``, by row.

    ``ok`` is False where a count could not be read. Kernels with CONFIG_NOpage_MAPCOUNT (6.15 and later, an
    option no distribution is known to set) keep no counts of parts and estimate them: their large folios that
    are mapped in parts come out as private here.
    """

    def __init__(self, kernel: Kernel, pages: Pages) -> None:
        self._kernel = kernel
        self._reader = PageReader(kernel)
        self._pages = pages
        self.ok = pages.ok.copy()
        compound = np.flatnonzero(pages.compound & pages.ok)
        heads, inverse = np.unique(pages.head[compound], return_inverse=True)
        whole = self._whole(heads)
        self._entire, self._doubled = np.zeros(len(pages), np.int64), np.zeros(len(pages), np.bool_)
        self._entire[compound], self._doubled[compound] = whole.entries[inverse], whole.doubled[inverse]
        self.ok[compound] &= whole.ok[inverse]

    def _whole(self, heads: U64) -> _Whole:
        """What the compound pages that begin at the frames ``heads`` say.

        Entries of the whole are counted in folio._entire_mapcount since 6.3, in the first tail before.
        """
        kernel = self._kernel
        none = np.zeros(len(heads), np.bool_)
        address, tail = self._reader.addresses(heads), self._reader.addresses(heads + np.uint64(1))
        if kernel.has("folio", "_entire_mapcount"):
            count, ok = kernel.gather_signed("folio", "_entire_mapcount.counter", address)
        elif kernel.has("page", "compound_mapcount"):
            count, ok = kernel.gather_signed("page", "compound_mapcount.counter", tail)
        else:
            return _Whole(np.zeros(len(heads), np.int64), none, none)
        doubled = none
        bit = kernel.types.constant("PG_double_map")
        if bit is not None:
            flags, readable = kernel.gather_member("page", "flags.f|flags", tail)
            doubled, ok = bit_set(flags, bit), ok & readable
        return _Whole(np.maximum(count + 1, 0), doubled, ok)

    def _sum(self, rows: Rows, own: I64) -> I64:
        """Map count of a part whose own word says ``own``, of the compound page in row ``rows``."""
        own = np.maximum(own, 0)  # a page type lies there: not mapped in parts
        whole = self._entire[rows]
        if self._kernel.types.constant("PG_double_map") is not None:
            # __page_mapcount (mm/util.c) up to 6.1: of files, a part's own word counts everything.
            whole = whole - self._doubled[rows]
            whole = np.where(self._pages.anon[rows] | self._pages.hugetlb[rows], whole, 0)
        counts: I64 = own + whole
        return counts

    def of_pages(self, rows: Rows) -> I64:
        """Map count of the pages in ``rows`` of the table."""
        return self._sum(rows, self._pages.mapcount[rows].astype(np.int64))

    def shares(self, ptes: Ptes, alone: Bools, shift: int) -> Shares:
        """What the page of each entry weighs; shares are in ``1 / 2**shift`` bytes.

        ``alone``: the only reference there is is this entry's (smaps_account takes that for granted).
        """
        size = ptes.sizes(self._kernel.arch).astype(np.int64)
        count = self.of_pages(ptes.page_row)
        private = np.where(alone | (count < 2), size, 0)
        pss = np.where(alone, size << shift, (size << shift) // np.maximum(count, 1))
        huge = np.flatnonzero((ptes.level == 2) & ~alone & ~self._pages.hugetlb[ptes.page_row])
        rows, inverse = np.unique(ptes.page_row[huge].astype(np.int64), return_inverse=True)
        parts = [self._parts(rows[low : low + _BATCH], shift) for low in range(0, len(rows), _BATCH)]
        if parts:
            private[huge] = np.concatenate([part.private for part in parts])[inverse]
            pss[huge] = np.concatenate([part.pss for part in parts])[inverse]
        return Shares(private, pss)

    def _parts(self, rows: I64, shift: int) -> Shares:
        """What each huge page weighs, part by part."""
        page, parts = self._kernel.arch.page_size, 1 << self._kernel.arch.huge_order
        row, part = expand(np.full(len(rows), parts))
        own, ok = self._reader.read(self._pages.pfn[rows][row] + part.astype(np.uint64))
        self.ok[rows] &= ok.reshape(-1, parts).all(axis=1)
        own_counts = map_counts(own.page_type).astype(np.int64)
        counts = self._sum(rows[row], own_counts).reshape(-1, parts)
        private = np.where(counts < 2, page, 0).sum(axis=1)
        pss = ((page << shift) // np.maximum(counts, 1)).sum(axis=1)
        return Shares(private, pss)
