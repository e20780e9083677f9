"""Frames whose own count of mappings is not the number of page-table entries that lead to them.

Every frame of RAM is asked, not just those that page tables lead to: an entry that was erased leaves its
page behind, with a map count that nothing accounts for. Only small pages are counted: the parts of a large
folio share their counts in ways that differ by release.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.views.pages.frame_ranges import batches, described
from vmaforensics.views.pages.mapped_pages import Pages, map_counts, read_pages
from vmaforensics.views.pages.page_types import PageReader, bit_set, type_code

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64, Bools
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.mapped_frames import EntryCounts
    from vmaforensics.views.pages.page_types import StructPages

# Low bits of mapping, and what they are of pages that their driver can move (zsmalloc, balloon): it keeps what it likes
# where the map count would be (PAGE_MAPPING_MOVABLE, up to 6.16; no page of a process had it before or has it since).
_MAPPING_FLAGS, _MOVABLE = 3, 2
_TYPED = 1 << 31  # set in every page type, clear in every map count


@dataclass(frozen=True, slots=True, kw_only=True)
class MiscountedFrames:
    """Frames that disagree: what their struct pages say, and the entries that lead to each."""

    pages: Pages  # ascending
    entries: I64


def find_miscounted(kernel: Kernel, counts: EntryCounts) -> MiscountedFrames:
    """Compare the map count of every small page with the entries that lead to it."""
    reader = PageReader(kernel)
    found, entries = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for first, end in batches(kernel, described(reader)):
        rows, ok = reader.read_run(first, end - first)
        there = counts.of_run(first, end)
        differ = np.flatnonzero(ok & _small(kernel, rows) & (map_counts(rows.page_type) != there))
        found.append(np.uint64(first) + differ.astype(np.uint64))
        entries.append(there[differ])
    return MiscountedFrames(pages=read_pages(kernel, np.concatenate(found)), entries=np.concatenate(entries))


def _small(kernel: Kernel, rows: StructPages) -> Bools:
    """Which pages are mapped ones, or could be, and are in no compound page."""
    small: Bools = ((rows.head & np.uint64(1)) == 0) & (rows.mapping != 0)
    small &= (rows.mapping & np.uint64(_MAPPING_FLAGS)) != _MOVABLE
    head_bit = kernel.types.constant("PG_head")
    if head_bit is not None:
        small &= ~bit_set(rows.flags, head_bit)
    slab_bit = kernel.types.constant("PG_slab") if type_code(kernel, "slab") is None else None
    if slab_bit is not None:  # slab_cache lies where mapping would
        small &= ~bit_set(rows.flags, slab_bit)
    word = rows.page_type
    small &= ((word & np.uint32(_TYPED)) == 0) | (word == np.uint32(0xFFFFFFFF))
    return small
