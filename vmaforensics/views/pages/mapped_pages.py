"""``struct page`` of the frames that processes map: who the page says it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I32, U64, Bools
from vmaforensics.views.pages.page_types import PageReader, StructPages, bit_set, type_code

if TYPE_CHECKING:
    from vmaforensics.columns.types import U32
    from vmaforensics.kernel.kernel import Kernel

_ANON, _KSM = 1, 3  # low bits of mapping: PAGE_MAPPING_ANON, PAGE_MAPPING_KSM
_MOST_COUNT = (1 << 31) - 1
_BATCH = (
    1 << 18
)  # frames read at once: what they take is kept in 55 bytes each, and is several times as much on the way


@table()
class Pages(Table):
    """What ``struct page`` (or the folio it is part of) says of page frames; a row is a frame.

    Not ``ok``: the frame has no struct page, or it is not in the image. Made by :func:`read_pages`.
    """

    pfn: U64
    head: U64  # frame of the compound page's head; the frame itself if it is in none
    ok: Bools
    flags: U64  # of the head
    mapping: U64  # of the head, without PAGE_MAPPING_FLAGS: address_space, anon_vma or KSM's stable node
    index: U64  # pages into the mapping, of this frame
    mapcount: I32  # of this frame's own struct page: page-table entries of level 1
    refcount: I32  # of the head
    anon: Bools
    ksm: Bools
    swapbacked: Bools
    hugetlb: Bools
    compound: Bools
    kernel_own: Bools  # slab or page table: never the user's

    def anon_vmas(self) -> U64:
        """The anon_vma that each anonymous page names, 0 for other pages; KSM's belong to several."""
        return np.where(self.anon & ~self.ksm & self.ok, self.mapping, np.uint64(0))


@table(struct="page")
class _Counts(Table):
    """What else is read of the head of each frame's page."""

    index: U64 = member("index|__folio_index")
    refcount: I32 = member("_refcount.counter")


def read_pages(kernel: Kernel, frames: U64) -> Pages:
    """The struct pages of ``frames``, in the order given.

    Raises :class:`KernelNotFoundError` if the kernel's types do not have ``struct page`` as we know it.
    """
    reader = PageReader(kernel)
    if len(frames) <= _BATCH:
        return _read(kernel, reader, frames)
    pages = Pages.zeros(len(frames))
    columns = pages.columns()
    for low in range(0, len(frames), _BATCH):
        part = slice(low, low + _BATCH)
        for name, values in _read(kernel, reader, frames[part]).columns().items():
            columns[name][part] = values
        kernel.memory.release()
    return pages


def _read(kernel: Kernel, reader: PageReader, frames: U64) -> Pages:
    own, ok = reader.read(frames)
    heads = np.where(ok, reader.heads(frames, own), frames)
    tails = heads != frames
    head, head_ok = own, ok
    if tails.any():
        others, others_ok = reader.read(heads[tails])
        rows = np.arange(len(frames))
        rows[tails] = len(frames) + np.arange(len(others))
        head, head_ok = StructPages.concatenate([own, others]).take(rows), np.concatenate([ok, others_ok])[rows]
    counts, counts_ok = kernel.gather(_Counts, reader.addresses(heads))
    mapping = head.mapping
    return Pages(
        pfn=frames,
        head=heads,
        ok=ok & head_ok & counts_ok,
        flags=head.flags,
        mapping=mapping & ~np.uint64(_KSM),
        index=counts.index + (frames - heads),
        mapcount=map_counts(own.page_type),
        refcount=counts.refcount,
        anon=(mapping & np.uint64(_ANON)) != 0,
        ksm=(mapping & np.uint64(_KSM)) == np.uint64(_KSM),
        swapbacked=_flag(kernel, "PG_swapbacked", head.flags),
        hugetlb=reader.hugetlb_heads(head, reader.tail_words(heads)),
        compound=tails | _flag(kernel, "PG_head", head.flags),
        kernel_own=_kernel_own(kernel, head),
    )


def map_counts(words: U32) -> I32:
    """Entries counted in each word ``_mapcount``, which begins at -1."""
    return np.minimum(words.view(np.int32).astype(np.int64) + 1, _MOST_COUNT).astype(np.int32)


def _flag(kernel: Kernel, name: str, flags: U64) -> Bools:
    bit = kernel.types.constant(name)
    return np.zeros(len(flags), np.bool_) if bit is None or bit >= 64 else bit_set(flags, bit)


def _kernel_own(kernel: Kernel, head: StructPages) -> Bools:
    """Which heads are of slabs or page tables; PG_slab was a flag before it was a page type (6.11)."""
    own = np.zeros(len(head), np.bool_)
    for name in ("slab", "table"):
        code = type_code(kernel, name)
        if code is not None:
            own |= code.matches(head.page_type)
        elif name == "slab":
            own |= _flag(kernel, "PG_slab", head.flags)
    return own
