"""Words of the slab allocator that lead to a value: free lists of CPUs, and free pointers that decode to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U64
from vmaforensics.views.pages.page_types import PageReader
from vmaforensics.views.slab.any_cache import AnyCaches
from vmaforensics.views.slab.encodings import Encoding, reveal
from vmaforensics.views.structures.per_cpu import per_cpu_offsets

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel


@table(struct="kmem_cache_cpu")
class _CpuSlabs(Table):
    freelist: U64 = member("freelist")
    page: U64 = member("slab|page")


class FreePointers(NamedTuple):
    """Where a value stands in a cache."""

    lists: list[tuple[int, int]]  # (CPU, address of the word) of free lists of CPUs that begin with it
    objects: list[int]  # addresses of words in objects of these CPUs' slabs that decode to it


def free_pointers_to(kernel: Kernel, cache: int, value: int) -> FreePointers:
    """The words of the ``kmem_cache`` at ``cache`` that lead to ``value``, up to 6.19; later kernels keep arrays."""
    nothing = FreePointers([], [])
    if not kernel.has("kmem_cache", "cpu_slab") or kernel.types.struct("kmem_cache_cpu") is None:
        return nothing
    caches, ok = kernel.gather(AnyCaches, np.array([cache], np.uint64))
    if not ok[0] or not int(caches.size[0]) or not int(caches.most(kernel.arch)[0]):
        return nothing
    offsets = per_cpu_offsets(kernel)
    with np.errstate(over="ignore"):
        places = caches.cpu_slab[0] + offsets
    taken, read = kernel.gather(_CpuSlabs, places)
    word = kernel.offset("kmem_cache_cpu", "freelist")
    hit = read & (taken.freelist == np.uint64(value))
    lists = [(cpu, int(places[cpu]) + word) for cpu in np.flatnonzero(hit).tolist()]
    slabs = distinct(taken.page[read & kernel.arch.kernel_pointer(taken.page)])
    frames, is_page = PageReader(kernel).frames_of(slabs)
    direct_map = np.uint64(kernel.arch.direct_map(kernel.variable))
    bases = direct_map + kernel.arch.bytes_of(frames[is_page]) + caches.pad[0]
    numbers = np.arange(int(caches.most(kernel.arch)[0]), dtype=np.uint64)
    with np.errstate(over="ignore"):
        where = (bases[:, None] + numbers[None, :] * caches.size[0] + caches.offset[0]).reshape(-1)
    words, readable = kernel.words(where, 1)
    # Where pointers are hidden, a word that holds the value as it is may be anything else.
    encodings = [encoding for encoding in Encoding if (encoding is Encoding.PLAIN) == (caches.random[0] == 0)]
    random = np.full(len(where), caches.random[0])
    decoded = [reveal(words[:, 0], where, random, encoding) == np.uint64(value) for encoding in encodings]
    leads = readable & np.logical_or.reduce(decoded)
    return FreePointers(lists, where[leads].tolist())
