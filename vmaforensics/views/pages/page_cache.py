"""Places in files, looked up in the page cache (filemap_get_entry, mm/filemap.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.types import U8, U64
from vmaforensics.views.pages.mapped_pages import read_pages
from vmaforensics.views.pages.page_types import PageReader
from vmaforensics.views.pages.text_match import Match
from vmaforensics.views.structures.xarray import entries_at, is_pointer

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

LARGEST_FOLIO = 1 << 18  # pages: 1 GiB


class CachedFrames(NamedTuple):
    """What the page cache has at places in files; match EQUAL stands for a frame that was found."""

    frames: U64
    match: U8


def cached_frames(kernel: Kernel, mapping: U64, index: U64) -> CachedFrames:
    """The frame that holds page ``index`` of each file, whose ``address_space`` is at ``mapping``."""
    match = np.full(len(mapping), Match.NOT_INDEXED, np.uint8)
    frames = np.zeros(len(mapping), np.uint64)
    heads, ok = kernel.gather_member("address_space", "i_pages.xa_head", mapping)
    entry, read = entries_at(kernel, heads, index)
    known = ok & read
    match[known] = Match.NOT_CACHED  # nothing there, or the mark of a page that was evicted or swapped out
    at = np.flatnonzero(known & is_pointer(entry) & kernel.arch.kernel_pointer(entry))
    frame, plausible = PageReader(kernel).frames_of(entry[at])
    at, frame = at[plausible], frame[plausible]
    # The index leads to the head of a large folio from each of its places.
    head = read_pages(kernel, frame)
    with np.errstate(over="ignore"):
        inside = index[at] - head.index
    right = head.ok & (inside < np.uint64(LARGEST_FOLIO))
    frames[at] = np.where(right, frame + inside, np.uint64(0))
    match[at] = np.where(right, Match.EQUAL, Match.NOT_INDEXED)
    return CachedFrames(frames, match)
