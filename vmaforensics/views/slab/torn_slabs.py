"""Free objects that are not where other records have them: a slab and these records are of different moments.

The first free object of a slab stands in its struct page, beside how many of its objects are in use; the rest of the
list lies in the slab itself, in the free objects. Both words of the struct page change in one step, and what is put on
the list points on before that (__slab_free, mm/slub.c). So at any instruction the list ends after as many objects as
are not in use, in slabs that are lent to a CPU too; else on_freelist of mm/slub.c says "Wrong object count". Of a slab
that is being made nothing is in use yet, or all of it: it is not asked. The list that a CPU has taken of a slab ends
within it as well.

Where pages were read at different moments, lists lead to what is in use, or end too early or too late; and links of
what is in use lead to what is free: where a walk expects a pointer, there is the hidden one of a list of free objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct, first_rows, rows_of
from vmaforensics.columns.ragged import expand
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import U64
from vmaforensics.views.pages.page_types import PageReader
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.slab.any_cache import find_objects, read_caches_at
from vmaforensics.views.slab.encodings import find_encodings, reveal
from vmaforensics.views.slab.free_objects import cpu_slabs
from vmaforensics.views.slab.slab_pages import SlabLayout, Slabs, heads_table, is_slab

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64, U8, Bools
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.problems import Problems
    from vmaforensics.views.slab.any_cache import AnyCaches
    from vmaforensics.views.slab.slab_pages import PartialSlabs

_NO_POINTER = (Problem.NON_CANONICAL, Problem.MISALIGNED, Problem.BAD_TAG)
_MOST_OBJECTS = 512  # of a slab: as many of eight bytes as a page has room for


@table()
class TornSlabs(Table):
    """Slabs that were not read at the moment at which what leads to their free objects was; each once."""

    base: U64  # address of the slab's memory
    cache: U64  # its kmem_cache


def torn_slabs(kernel: Kernel, partial: PartialSlabs, problems: Problems) -> TornSlabs:
    """Of ``partial``, of what CPUs have taken of their caches, and of those in which walks had ``problems``."""
    found = TornSlabs.concatenate([_miscounted(kernel, partial), _free_in_use(kernel, problems)])
    return found.take(first_rows(found.base))


def _free_in_use(kernel: Kernel, problems: Problems) -> TornSlabs:
    """Slabs with free objects that walks came to: what they took for a link is the pointer to the next free object."""
    walked = problems.take(np.isin(problems.problem, _NO_POINTER))
    found = find_objects(kernel, walked.where, ProblemLog())  # what is wrong with the lists of slabs is told elsewhere
    row = np.flatnonzero((found.places.cache >= 0) & (found.places.start != 0))
    places, where = found.places.take(row), walked.where[row]
    caches = found.caches.take(places.cache)
    hidden = (caches.random != 0) & (where == places.start + caches.offset)
    slab = rows_of(found.slabs.page, places.slab)
    layout = SlabLayout(caches=found.caches, slabs=found.slabs)
    words, ok = kernel.words(where, 1)
    after = reveal(words[:, 0], where, caches.random, found.encoding[places.cache])
    free = np.flatnonzero(hidden & ok & ((after == 0) | (layout.rows(after, slab) >= 0)))
    slab = slab[free]
    return TornSlabs(base=found.slabs.base[slab], cache=caches.cache[free])


def _miscounted(kernel: Kernel, partial: PartialSlabs) -> TornSlabs:
    """Slabs of which a list of free objects breaks off, or has more or fewer than the struct page counts: of
    ``partial``, and of what CPUs have taken of the caches of these.

    A slab that holds no link between its own objects is none: it was overwritten, and is of no moment. Nor is one whose
    list leads to a page that is not in the image.
    """
    caches = read_caches_at(kernel, distinct(partial.cache))
    cache = rows_of(caches.cache, partial.cache)
    most = np.minimum(caches.most(kernel.arch), np.uint64(_MOST_OBJECTS))
    known = np.flatnonzero(cache >= 0)
    partial, cache = partial.take(known), cache[known]
    counted = Slabs(
        page=partial.page,
        base=partial.base,
        cache=cache.astype(np.uint16),
        first=np.zeros(len(partial), np.int64),
        objects=partial.objects,
        frozen=np.zeros(len(partial), np.bool_),
        freelist=partial.freelist,
    )
    slabs = Slabs.concatenate([counted, _taken(kernel, caches)])
    free = np.full(len(slabs), -1, np.int64)
    free[: len(partial)] = partial.objects.astype(np.int64) - partial.inuse
    sane = slabs.objects <= most[slabs.cache]
    slabs, free = slabs.take(sane), free[sane]
    layout = SlabLayout(caches=caches, slabs=slabs)
    encoding = find_encodings(kernel, layout, slabs.freelist, np.arange(len(slabs)))
    wrong = np.flatnonzero(_wrong(kernel, layout, encoding, free))
    wrong = wrong[_linked(kernel, layout, encoding, wrong)]
    return TornSlabs(base=slabs.base[wrong], cache=caches.cache[slabs.cache[wrong]])


def _taken(kernel: Kernel, caches: AnyCaches) -> Slabs:
    """The slabs that CPUs have taken objects of; ``freelist`` is the CPU's list. None that is no slab of the cache."""
    lists = cpu_slabs(kernel, caches)
    lists = lists.take(lists.ok & (lists.freelist != 0) & kernel.arch.kernel_pointer(lists.page))
    if not len(lists):
        return Slabs.zeros(0)
    reader = PageReader(kernel)
    frames, can_be = reader.frames_of(lists.page)
    rows, typed = reader.read(frames)
    heads, read = kernel.gather(heads_table(kernel), lists.page)
    of_cache = can_be & typed & read & is_slab(kernel, rows) & (heads.cache == caches.cache[lists.cache])
    keep = np.flatnonzero(of_cache)
    slabs = Slabs.zeros(len(keep))
    slabs.page[:], slabs.freelist[:] = lists.page[keep], lists.freelist[keep]
    slabs.cache[:], slabs.objects[:] = lists.cache[keep], heads.objects[keep]
    slabs.base[:] = np.uint64(kernel.arch.direct_map(kernel.variable)) + kernel.arch.bytes_of(frames[keep])
    return slabs


def _wrong(kernel: Kernel, layout: SlabLayout, encoding: U8, free: I64) -> Bools:
    """Of each slab: does its list not end within it, after ``free`` objects if that is not -1? All are followed at
    once, a step of each per read."""
    slab = np.arange(len(layout.slabs))
    at = layout.slabs.freelist
    most = np.where(free < 0, layout.slabs.objects, free)
    wrong = np.zeros(len(slab), np.bool_)
    passed = 0
    while len(slab):
        lost = (layout.rows(at, slab) < 0) | (most[slab] == passed)
        wrong[slab[lost]] = True
        slab, at = slab[~lost], at[~lost]
        passed += 1
        after, ok = _after(kernel, layout, encoding, at, slab)
        ended = slab[ok & (after == 0)]
        wrong[ended] = (free[ended] >= 0) & (free[ended] != passed)
        on = ok & (after != 0)
        slab, at = slab[on], after[on]
    return wrong


def _after(kernel: Kernel, layout: SlabLayout, encoding: U8, at: U64, slab: I64) -> tuple[U64, Bools]:
    """(What the objects at ``at``, of the slabs at these rows, point to if they are free; which could be read)."""
    cache = layout.slabs.cache[slab]
    where = at + layout.caches.offset[cache]
    words, ok = kernel.words(where, 1)
    return reveal(words[:, 0], where, layout.caches.random[cache], encoding[cache]), ok


def _linked(kernel: Kernel, layout: SlabLayout, encoding: U8, slabs: I64) -> Bools:
    """Which of the slabs at these rows have an object that points to one of the slab, as free ones do?"""
    place, _ = expand(layout.slabs.objects[slabs])
    after, ok = _after(kernel, layout, encoding, layout.addresses(slabs), slabs[place])
    ok &= layout.rows(after, slabs[place]) >= 0
    found: Bools = np.bincount(place[ok], minlength=len(slabs)) > 0
    return found
