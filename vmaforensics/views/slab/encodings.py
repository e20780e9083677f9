"""How free pointers are hidden (CONFIG_SLAB_FREELIST_HARDENED, mm/slub.c), told by where they lead.

``ptr ^ s->random ^ swab(ptr_addr)`` since 5.7 and in kernels it was backported to, without the swab from 4.14 on, and
plain without the option. No member says which, but each free pointer leads to another object of its slab, or ends the
list.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.types import U8, U64

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.slab.slab_pages import SlabLayout


class Encoding(IntEnum):
    """What a free pointer stands as."""

    SWAPPED = 0  # ptr ^ random ^ swab(ptr_addr): freelist_ptr of 5.7, freelist_ptr_encode
    PLACE = 1  # ptr ^ random ^ ptr_addr: freelist_ptr of 4.14 to 5.6
    RANDOM = 2  # ptr ^ random
    PLAIN = 3


def reveal(words: U64, where: U64, random: U64, encoding: Encoding | U8 = Encoding.SWAPPED) -> U64:
    """The free pointers that stand as ``words`` at the addresses ``where``; ``random`` is the cache's, 0 if plain."""
    hidden = (random != 0) & (encoding != np.uint8(Encoding.PLAIN))
    place = np.where(encoding == np.uint8(Encoding.SWAPPED), where.byteswap(), where)
    place = np.where(encoding == np.uint8(Encoding.RANDOM), np.uint64(0), place)
    return np.where(hidden, words ^ random ^ place, words)


def find_encodings(kernel: Kernel, layout: SlabLayout, heads: U64, slab: I64) -> U8:
    """The :class:`Encoding` of each cache of ``layout``, by the free pointers of ``heads``, each of the slab at a row.

    It is the one by which most of them lead to an object of their slab; a cache of which none can be read has that
    of most others.
    """
    cache = layout.slabs.cache[slab].astype(np.int64)
    where = heads + layout.caches.offset[cache]
    words, ok = kernel.words(where, 1)
    right = ok & (layout.rows(heads, slab) >= 0)
    votes = np.zeros((len(layout.caches), len(Encoding)), np.int64)
    for encoding in Encoding:
        after = reveal(words[:, 0], where, layout.caches.random[cache], encoding)
        leads = right & (after != heads) & ((after == 0) | (layout.rows(after, slab) >= 0))
        votes[:, encoding] = np.bincount(cache[leads], minlength=len(layout.caches))
    usual = votes[layout.caches.random != 0].sum(axis=0).argmax()
    found: U8 = np.where(votes.any(axis=1), votes.argmax(axis=1), usual).astype(np.uint8)
    return found
