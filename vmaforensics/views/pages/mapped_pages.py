"""``struct page`` of the frames that processes map: who the page says it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.views.pages.page_types import PageReader, bit_set, type_code

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel

_ANON, _KSM = 1, 3  # low bits of mapping: PAGE_MAPPING_ANON, PAGE_MAPPING_KSM

PAGES = np.dtype(
    [
        ("pfn", np.uint64),
        ("head", np.uint64),  # frame of the compound page's head; the frame itself if it is none
        ("ok", np.bool_),
        ("flags", np.uint64),  # of the head
        ("mapping", np.uint64),  # of the head, low bits taken off
        ("index", np.uint64),  # pages into the mapping, of this frame
        ("mapcount", np.int64),  # of this frame's own struct page; page-table entries of small pages
        ("refcount", np.int64),  # of the head
        ("anon", np.bool_),
        ("ksm", np.bool_),
        ("swapbacked", np.bool_),
        ("hugetlb", np.bool_),
        ("compound", np.bool_),
        ("slab", np.bool_),  # slab or page table: never the user's
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedPages:
    """One row per distinct frame, sorted by frame number; dtype ``PAGES``."""

    rows: NDArray[np.void]


def read_mapped_pages(kernel: Kernel, pfns: NDArray[np.uint64]) -> tuple[MappedPages, NDArray[np.int64]]:
    """(pages, row of each of ``pfns`` in them).

    Frames that have no struct page, or whose struct page is not in the image, have rows that are not ok.
    """
    frames, inverse = np.unique(pfns, return_inverse=True)
    return MappedPages(rows=read_pages(kernel, frames)), inverse.astype(np.int64)


def read_pages(kernel: Kernel, frames: NDArray[np.uint64]) -> NDArray[np.void]:
    """The struct pages of ``frames``; dtype ``PAGES``, in the order given."""
    reader = PageReader(kernel)
    rows = np.zeros(len(frames), PAGES)
    own, ok = reader.read(frames)
    heads = np.where(ok, reader.heads(frames, own), frames)
    tails = heads != frames
    head, fine = own.copy(), ok.copy()
    if tails.any():
        head[tails], fine[tails] = reader.read(heads[tails])
    with np.errstate(over="ignore"):
        addresses = reader.base + heads * np.uint64(reader.size)
    index_at, count_at = "index|__folio_index", "_refcount.counter"
    more, known = kernel.gather("page", addresses, [index_at, count_at])
    rows["pfn"], rows["head"] = frames, heads
    rows["ok"] = ok & fine & known
    rows["flags"] = head["flags"]
    mapping = head["mapping"]
    rows["mapping"] = mapping & ~np.uint64(3)
    rows["index"] = more["index"] + (frames - heads)
    rows["mapcount"] = own["type"].view(np.int32).astype(np.int64) + 1
    rows["refcount"] = more["_refcount.counter"].astype(np.int64)
    rows["anon"] = (mapping & np.uint64(_ANON)) != 0
    rows["ksm"] = (mapping & np.uint64(_KSM)) == np.uint64(_KSM)
    rows["swapbacked"] = _flag(kernel, "PG_swapbacked", head["flags"])
    rows["compound"] = tails | _flag(kernel, "PG_head", head["flags"])
    rows["hugetlb"] = reader.hugetlb_heads(head, reader.tail_words(heads))
    rows["slab"] = _kernel_own(kernel, head)
    return rows


def _flag(kernel: Kernel, name: str, flags: NDArray[np.uint64]) -> NDArray[np.bool_]:
    bit = kernel.types.constant(name)
    return np.zeros(len(flags), np.bool_) if bit is None or bit >= 64 else bit_set(flags, bit)


def _kernel_own(kernel: Kernel, head: NDArray[np.void]) -> NDArray[np.bool_]:

    own = np.zeros(len(head), np.bool_)
    for name in ("slab", "table"):
        code = type_code(kernel, name)
        if code is not None:
            own |= code.matches(head["type"])
        elif name == "slab":
            own |= _flag(kernel, "PG_slab", head["flags"])
    return own
