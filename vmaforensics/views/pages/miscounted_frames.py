"""Frames whose own count of mappings is not the number of page-table entries that lead to them.

Every frame of RAM is asked, not just those that page tables lead to: an entry that was erased leaves its
page behind, with a map count that nothing accounts for. Only small pages are counted: the parts of a large
folio share their counts in ways that differ by release.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.views.pages.frame_kinds import described, frame_batches
from vmaforensics.views.pages.mapped_pages import PAGES, read_pages
from vmaforensics.views.pages.page_types import PageReader, bit_set, type_code

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel

_TYPED = 1 << 31  # set in every page type, clear in every map count


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Frames that disagree: ``rows`` of dtype ``PAGES``, and the entries that lead to each."""

    rows: NDArray[np.void]
    entries: NDArray[np.int64]


def read_claims(kernel: Kernel, ptes: NDArray[np.void]) -> Claims:
    """Compare the map count of every small page with the entries among ``ptes`` that lead to it."""
    reader = PageReader(kernel)
    pointing = ptes[(ptes["page"] >= 0) & (ptes["level"] == 1)]
    pfns, counts = np.unique(pointing["pfn"], return_counts=True)
    head_bit = kernel.types.constant("PG_head")
    slab_bit = kernel.types.constant("PG_slab") if type_code(kernel, "slab") is None else None
    found, entries = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for batch in frame_batches(described(reader)):
        rows, ok = reader.read(batch)
        small = ok & ((rows["head"] & np.uint64(1)) == 0) & (rows["mapping"] != 0)
        if head_bit is not None:
            small &= ~bit_set(rows["flags"], head_bit)
        if slab_bit is not None:  # slab_cache lies where mapping would
            small &= ~bit_set(rows["flags"], slab_bit)
        small &= (rows["type"] & np.uint32(_TYPED) == 0) | (rows["type"] == np.uint32(0xFFFFFFFF))
        claimed = rows["type"].view(np.int32).astype(np.int64) + 1
        led = np.zeros(len(batch), np.int64)
        low, high = np.searchsorted(pfns, [batch[0], batch[-1] + np.uint64(1)])
        led[(pfns[low:high] - batch[0]).astype(np.int64)] = counts[low:high]
        differ = small & (claimed != led)
        found.append(batch[differ])
        entries.append(led[differ])
    frames = np.concatenate(found)
    pages = read_pages(kernel, frames) if len(frames) else np.zeros(0, PAGES)
    return Claims(rows=pages, entries=np.concatenate(entries))
