"""Anonymous pages that no page table leads to: something else holds them.

A page leaves anonymous memory when its last entry is cleared; it is freed then, unless a reference is left: of a pipe,
of io_uring, of a device that it is pinned for. For a moment, pages on their way to and from the LRU lists are such too
(``struct folio_batch`` of each CPU, mm/swap.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import rows_of
from vmaforensics.columns.table import Table, column, table
from vmaforensics.columns.types import I32, I64, U64, Bools
from vmaforensics.views.pages.frame_kinds import FrameKind
from vmaforensics.views.pages.mapped_pages import read_pages
from vmaforensics.views.structures.per_cpu import on_each_cpu

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.descriptors.holders import HeldFrames
    from vmaforensics.views.pages.frame_kinds import FrameKinds
    from vmaforensics.views.pages.page_types import PageReader

_MOST = 1 << 16  # frames looked at
_BATCH = 1 << 10
# Per-CPU variables that are made of batches of pages on their way to or from an LRU list, and the structures they are.
_BATCHES = (
    ("cpu_fbatches", "cpu_fbatches"),
    ("lru_pvecs", "lru_pvecs"),
    ("lru_rotate", "lru_rotate"),
    ("mlock_fbatch", "folio_batch"),
    ("mlock_pvec", "pagevec"),
)


@table()
class UnmappedAnon(Table):
    """A small anonymous page that is in use, ascending, and in no page table."""

    pfn: U64
    refcount: I32
    mapping: U64  # the anon_vma it names, which may be gone
    held: I64 = column(fill=-1)  # the first row of HeldFrames with it; -1: it is in none
    passing: Bools  # on its way to or from an LRU list
    code: Bools  # it is machine code
    read: Bools  # its content is in the image


def find_unmapped(
    kernel: Kernel, reader: PageReader, kinds: FrameKinds, *, mapped: U64, held: HeldFrames
) -> tuple[UnmappedAnon, int]:
    """(the pages, how many more were not looked at); ``mapped`` are the frames that page tables lead to."""
    anonymous = kinds.kinds == FrameKind.ANONYMOUS
    at = kinds.rows(mapped)
    anonymous[at[at >= 0]] = False
    pfns = kinds.pfns(np.flatnonzero(anonymous).astype(np.int64))
    left_out = max(len(pfns) - _MOST, 0)
    pages = read_pages(kernel, pfns[:_MOST])
    pages = pages.take(pages.ok & ~pages.compound & (pages.mapcount == 0) & (pages.refcount > 0))
    rows = UnmappedAnon(
        pfn=pages.pfn,
        refcount=pages.refcount,
        mapping=pages.mapping,
        held=rows_of(held.pfn, pages.pfn),
        passing=np.isin(reader.addresses(pages.pfn), _passing(kernel)),
        code=np.zeros(len(pages), np.bool_),
        read=np.zeros(len(pages), np.bool_),
    )
    looked = np.flatnonzero(~rows.passing)
    for low in range(0, len(looked), _BATCH):
        part = looked[low : low + _BATCH]
        with kernel.memory.untraced():
            content, ok = kernel.memory.gather(kernel.arch.bytes_of(rows.pfn[part]), kernel.arch.page_size)
        rows.read[part] = ok
        rows.code[part] = kernel.arch.looks_like_code(content)
    return rows, left_out


def _passing(kernel: Kernel) -> U64:
    """Every word of the batches of all CPUs, addresses of struct pages among them; stale ones too."""
    found = [np.zeros(0, np.uint64)]
    for variable, struct in _BATCHES:
        layout = kernel.types.struct(struct)
        if layout is not None:
            words, ok = kernel.words(on_each_cpu(kernel, variable), layout.size // 8)
            found.append(words[ok].reshape(-1))
    return np.unique(np.concatenate(found))
