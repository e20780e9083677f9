"""Which objects of a slab are free: chains of free pointers, and arrays of free objects (sheaves).

A free object is on the list of its slab, on that of the CPU which has the slab (``kmem_cache_cpu``, up to 6.19),
in a sheaf (:mod:`vmaforensics.views.slab.sheaves`), or held back by KASAN (:mod:`vmaforensics.views.slab.quarantine`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import rows_of
from vmaforensics.columns.ragged import expand
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I64, U8, U16, U64, Bools
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.views.pages.page_types import PageReader
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.slab.encodings import find_encodings, reveal
from vmaforensics.views.slab.quarantine import has_shadow, shadow_of_objects
from vmaforensics.views.slab.sheaves import sheaf_objects
from vmaforensics.views.slab.slab_pages import unread_frames
from vmaforensics.views.structures.per_cpu import per_cpu_offsets
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.slab.caches import Caches
    from vmaforensics.views.slab.slab_pages import SlabLayout

_LAST_PLACE = (1 << 16) - 1


@table(struct="kmem_cache_cpu")
class CpuSlabs(Table):
    """What each CPU has taken of each of some caches, cache by cache."""

    at: U64  # address of the kmem_cache_cpu
    cache: I64  # row of the cache
    freelist: U64 = member("freelist")
    page: U64 = member("slab|page")  # head of the slab
    ok: Bools


def cpu_slabs(kernel: Kernel, caches: Caches) -> CpuSlabs:
    """What CPUs have of ``caches``; nothing from 7.0 on, which has sheaves instead."""
    if not kernel.has("kmem_cache", "cpu_slab"):
        return CpuSlabs.zeros(0)
    offsets = per_cpu_offsets(kernel)
    with np.errstate(over="ignore"):
        places = (caches.cpu_slab[:, None] + offsets[None, :]).reshape(-1)
    found, ok = kernel.gather(CpuSlabs, places)
    found.at[:], found.ok[:] = places, ok
    found.cache[:], _ = expand(np.full(len(caches), len(offsets)))
    return found


class FreeObjects:
    """The objects found free so far, and the slabs that may have more.

    >>> found = free_objects(kernel, layout, log)
    >>> layout.count - found.free.sum()
    """

    def __init__(self, layout: SlabLayout) -> None:
        self.layout = layout
        self.free: Bools = np.zeros(layout.count, np.bool_)  # by object
        self.place: U16 = np.zeros(layout.count, np.uint16)  # by object: on its list, from 1 on; 0: on none
        self.doubtful: Bools = np.zeros(len(layout.slabs), np.bool_)  # by slab: a list was not read to its end
        self.encoding: U8 = np.zeros(len(layout.caches), np.uint8)  # by cache: Encoding of its free pointers

    def doubt(self, caches: U64) -> Bools:
        """Which slabs are of one of the kmem_caches at ``caches``."""
        known: Bools = np.isin(self.layout.caches.cache, caches)[self.layout.slabs.cache]
        return known


def free_objects(kernel: Kernel, layout: SlabLayout, log: ProblemLog) -> FreeObjects:
    """Read every list and sheaf of free objects. What cannot be followed is a problem of the view ``SLAB``."""
    found = FreeObjects(layout)
    caches = layout.caches.distinct()
    lists = [(layout.slabs.freelist, np.arange(len(layout.slabs))), _cpu_lists(kernel, caches, found, log)]
    heads, slab = (np.concatenate(parts) for parts in zip(*lists, strict=True))
    found.encoding = find_encodings(kernel, layout, heads[heads != 0], slab[heads != 0])
    for at, of in lists:
        _follow(kernel, found, at, of, log)
    if kernel.has("kmem_cache", "cpu_sheaves"):
        held = sheaf_objects(kernel, caches, log)
        row = layout.rows(held.objects, layout.slab_of(held.objects))
        wrong = np.flatnonzero(row < 0)
        pas, _, mapped = kernel.space.translate(held.objects[wrong])
        wrong = wrong[~(mapped & unread_frames(kernel, kernel.arch.pages(pas)))]
        log.add(View.SLAB, Problem.MISALIGNED, 0, held.slots[wrong], held.objects[wrong])
        found.free[row[row >= 0]] = True
        found.doubtful |= found.doubt(held.doubtful)
    if has_shadow(kernel):
        _held_back(kernel, found)
    return found


def _held_back(kernel: Kernel, found: FreeObjects) -> None:
    """Mark objects on no list that KASAN says were freed; where its shadow is not in the image, there is doubt."""
    slab, _ = expand(found.layout.slabs.objects)
    rest = np.flatnonzero(~found.free)
    shadow = shadow_of_objects(kernel, found.layout.addresses(np.arange(len(found.layout.slabs)))[rest])
    found.free[rest[shadow.freed]] = True
    found.doubtful[slab[rest[shadow.unread]]] = True


def _follow(kernel: Kernel, found: FreeObjects, at: U64, slab: I64, log: ProblemLog) -> None:
    """Follow chains of free pointers, one step of each at a time, and mark what they lead to in ``found``.

    ``at`` has the first object of each, 0 for none; ``slab`` the row of the slab that it must stay in.
    """
    layout = found.layout
    where = np.zeros(len(at), np.uint64)  # address of the pointer to it; 0 for the head
    for place in range(1, int(layout.slabs.objects.max(initial=0)) + 2):
        on = at != 0
        at, slab, where = at[on], slab[on], where[on]
        if not len(at):
            return
        row = layout.rows(at, slab)
        again = row >= 0
        again[again] = found.free[row[again]]
        for problem, wrong in ((Problem.MISALIGNED, row < 0), (Problem.CYCLE, again)):
            word = np.where(where[wrong] == 0, layout.slabs.page[slab[wrong]], where[wrong])
            log.add(View.SLAB, problem, 0, word, at[wrong])
            found.doubtful[slab[wrong]] = True
        on = (row >= 0) & ~again
        at, slab = at[on], slab[on]
        found.free[row[on]], found.place[row[on]] = True, min(place, _LAST_PLACE)
        cache = layout.slabs.cache[slab]
        where = at + layout.caches.offset[cache]
        words, ok = kernel.words(where, 1)
        log.add(View.SLAB, Problem.UNREADABLE, 0, where[~ok])
        found.doubtful[slab[~ok]] = True
        after = reveal(words[:, 0], where, layout.caches.random[cache], found.encoding[cache])
        at, slab, where = after[ok], slab[ok], where[ok]


def _cpu_lists(kernel: Kernel, caches: Caches, found: FreeObjects, log: ProblemLog) -> tuple[U64, I64]:
    """``(first free object, row of its slab)`` of the list that each CPU has taken from a slab.

    Where a CPU's cannot be read, every slab of the cache that is lent to a CPU becomes doubtful.
    """
    slabs = found.layout.slabs
    taken = cpu_slabs(kernel, caches)
    log.add(View.SLAB, Problem.UNREADABLE, 0, taken.at[~taken.ok])
    found.doubtful |= found.doubt(caches.cache[taken.cache[~taken.ok]]) & slabs.frozen
    taken = taken.take(taken.ok & (taken.freelist != 0))
    row = rows_of(slabs.page, taken.page)
    wrong = np.flatnonzero(row < 0)
    wrong = wrong[~_unread_pages(kernel, taken.page[wrong])]
    log.add(View.SLAB, Problem.MISALIGNED, 0, taken.at[wrong], taken.page[wrong])
    return taken.freelist[row >= 0], row[row >= 0]


def _unread_pages(kernel: Kernel, pages: U64) -> Bools:
    """Which of these are addresses of struct pages that are not in the image?"""
    try:
        frames, can_be = PageReader(kernel).frames_of(pages)
    except KernelNotFoundError:
        return np.zeros(len(pages), np.bool_)
    return can_be & unread_frames(kernel, frames)
