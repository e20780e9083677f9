"""How many frames are marked reserved, and how many should be.

What the allocator of pages never got is reserved, holes with a struct page included (``init_unavailable_range``,
``memmap_init_reserved_pages``, mm/mm_init.c and mm/memblock.c); ``zone.managed_pages`` counts what it got. On kernels
from 5.10 to 7.3 both agree to the page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U64
from vmaforensics.views.pages.frame_ranges import batches, described_in
from vmaforensics.views.pages.free_lists import zones

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.page_types import PageReader

_MOST_ZONES = 1 << 12
_FLAG_BITS = 64  # of page.flags


@table(struct="zone")
class _Zones(Table):
    first: U64 = member("zone_start_pfn")
    spanned: U64 = member("spanned_pages")
    managed: U64 = member("managed_pages.counter")


class Reserved(NamedTuple):
    """Frames marked reserved, in all zones together."""

    counted: int  # that are
    expected: int  # with a struct page, that the allocator never got
    whole: bool  # all of these struct pages could be read


def count_reserved(kernel: Kernel, reader: PageReader) -> Reserved:
    """Count PG_reserved in every zone. Not whole where this kernel's zones are not known."""
    bit = kernel.types.constant("PG_reserved")
    rows, ok = kernel.gather(_Zones, zones(kernel)[:_MOST_ZONES])
    rows = rows.take(ok & (rows.spanned != 0))
    if bit is None or not 0 <= bit < _FLAG_BITS or not len(rows):
        return Reserved(0, 0, False)
    rows = rows.sort_by(rows.first)
    ends = np.minimum(rows.first + rows.spanned, np.uint64(1 << 52))
    apart = bool((rows.first[1:] >= ends[:-1]).all())  # zones of several nodes may interleave
    spans = described_in(reader, list(zip(rows.first.tolist(), ends.tolist(), strict=True)))
    counted, whole = 0, apart and bool(ok.all())
    for first, end in batches(kernel, spans):
        pages, read = reader.read_run(first, end - first)
        whole &= bool(read.all())
        counted += int(np.count_nonzero(pages.flags[read] & np.uint64(1 << bit)))
    there = int((spans[:, 1] - spans[:, 0]).sum())
    return Reserved(counted, there - int(rows.managed.sum()), whole)
