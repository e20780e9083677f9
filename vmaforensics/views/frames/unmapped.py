"""Anonymous pages that no page table leads to: something else holds them.

A page leaves anonymous memory when its last entry is cleared; it is freed then, unless a reference is left: of a pipe,
of io_uring, of a device that it is pinned for. For a moment, pages on their way to and from the LRU lists are such too
(``struct folio_batch`` of each CPU, mm/swap.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct, rows_of
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
# Per-CPU variables that are batches of pages on their way to or from an LRU list, or structures of that name made of
# such.
BATCHES = ("cpu_fbatches", "lru_pvecs", "lru_rotate", "mlock_fbatch", "mlock_pvec")
_BATCH_STRUCTS = ("folio_batch", "pagevec")


@table()
class UnmappedAnon(Table):
    """A small anonymous page that is in use, ascending, and in no page table."""

    pfn: U64
    refcount: I32
    mapping: U64  # the anon_vma it names, which may be gone
    held: I64 = column(fill=-1)  # the first row of HeldFrames with it; -1: it is in none
    passing: Bools  # on its way to or from an LRU list
    passed: Bools  # it was, and may be that again: left in a batch behind its count
    code: Bools  # it is machine code
    read: Bools  # its content is in the image


def find_unmapped(
    kernel: Kernel, reader: PageReader, kinds: FrameKinds, *, mapped: U64, held: HeldFrames
) -> tuple[UnmappedAnon, int]:
    """(the pages, how many more were not looked at); ``mapped`` are the frames that page tables lead to."""
    anonymous = kinds.are(FrameKind.ANONYMOUS)
    at = kinds.rows(mapped)
    anonymous[at[at >= 0]] = False
    pfns = kinds.pfns(np.flatnonzero(anonymous).astype(np.int64))
    left_out = max(len(pfns) - _MOST, 0)
    pages = read_pages(kernel, pfns[:_MOST])
    pages = pages.take(pages.ok & ~pages.compound & (pages.mapcount == 0) & (pages.refcount > 0))
    now, before = _passing(kernel)
    structs = reader.addresses(pages.pfn)
    rows = UnmappedAnon(
        pfn=pages.pfn,
        refcount=pages.refcount,
        mapping=pages.mapping,
        held=rows_of(held.pfn, pages.pfn),
        passing=np.isin(structs, now),
        passed=np.isin(structs, before),
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


def _passing(kernel: Kernel) -> tuple[U64, U64]:
    """(addresses of struct pages in the batches of all CPUs, those behind the count of a batch: of earlier uses)."""
    now, before = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for variable in BATCHES:
        at = on_each_cpu(kernel, variable)
        for offset, struct in _batches(kernel, variable):
            array = kernel.member(struct, "folios|pages")
            counts, counted = kernel.gather_member(struct, "nr", at + np.uint64(offset))
            words, ok = kernel.words(at + np.uint64(offset + array.offset), array.count or 1)
            places = np.arange(words.shape[1], dtype=np.uint64)[None, :]
            used = (places < counts[:, None]) & (ok & counted)[:, None]
            now.append(words[used])
            before.append(words[~used])
    return distinct(np.concatenate(now)), distinct(np.concatenate(before))


def _batches(kernel: Kernel, variable: str) -> list[tuple[int, str]]:
    """(offset, structure) of each batch of a variable of this name."""
    layout = kernel.types.struct(variable)
    if layout is not None:
        return [(each.offset, each.struct) for each in layout.fields.values() if each.struct in _BATCH_STRUCTS]
    return [(0, struct) for struct in _BATCH_STRUCTS if kernel.types.struct(struct) is not None][:1]
