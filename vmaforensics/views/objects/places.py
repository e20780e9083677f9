"""Where each of some 64-bit values leads: one answer for each, from the strongest evidence to the weakest."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import covering_rows, values_at
from vmaforensics.columns.table import Table, column, table
from vmaforensics.columns.types import I64, U8, U64, Bools
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.views.objects.values import Sort, sorts_of
from vmaforensics.views.objects.vmalloc import find_areas
from vmaforensics.views.pages.page_types import PageReader
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.slab.any_cache import find_objects

if TYPE_CHECKING:
    from vmaforensics.views.objects.surroundings import Surroundings
    from vmaforensics.views.objects.vmalloc import VmallocAreas
    from vmaforensics.views.slab.any_cache import FoundObjects


class Place(IntEnum):
    """What a value leads to."""

    NUMBER = 0
    ERROR = 1
    POISON = 2
    TEXT = 3
    NON_CANONICAL = 4
    USER = 5
    OBJECT = 6
    SLAB = 7
    STACK = 8
    SYMBOL = 9
    MODULE = 10
    PER_CPU = 11
    PAGE = 12
    FRAME = 13
    AREA = 14
    MAPPED = 15
    UNMAPPED = 16

    @property
    def label(self) -> str:
        """The place in words; part of the JSON form."""
        return (
            "number",
            "error",
            "poison",
            "text",
            "non-canonical",
            "user address",
            "slab object",
            "slab, outside of its objects",
            "stack",
            "symbol",
            "module",
            "per-CPU memory",
            "struct page",
            "page",
            "vmalloc",
            "mapped",
            "not mapped",
        )[self]


_BY_SORT = (
    Place.NUMBER,
    Place.ERROR,
    Place.POISON,
    Place.TEXT,
    Place.NON_CANONICAL,
    Place.USER,
    Place.UNMAPPED,
)  # by Sort; what is in the kernel half is then looked up


@table()
class Places(Table):
    """A row for each value."""

    value: U64
    place: U8  # Place
    start: U64  # of what holds it: object, stack, symbol, area, struct page, frame; 0 where that says nothing
    end: U64  # behind it; 0 where not known
    row: I64 = column(fill=-1)  # of the table of its kind: stacks, modules, CPUs; frame number of a PAGE or FRAME


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPlaces:
    """What :func:`find_places` found."""

    places: Places
    objects: FoundObjects  # a row for each value
    areas: VmallocAreas  # a row for each value


def find_places(surroundings: Surroundings, values: U64) -> FoundPlaces:
    """Where each of ``values`` leads; they may be any words, and repeat."""
    kernel = surroundings.kernel
    places = Places.of(value=values)
    sorts = sorts_of(kernel.arch, values)
    places.place[:] = np.array(_BY_SORT, np.uint8)[sorts]
    in_kernel = sorts == Sort.KERNEL
    asked = np.where(in_kernel, values, np.uint64(0))
    objects = find_objects(kernel, asked, ProblemLog())
    areas = find_areas(kernel, asked)
    _, _, mapped = kernel.space.translate(asked)
    finder = _Finder(places, in_kernel)
    # The weakest first: what comes later is the better answer.
    finder.say(mapped, Place.MAPPED)
    finder.say(areas.end != 0, Place.AREA, areas.start, areas.end)
    _frames(surroundings, finder, values)
    _per_cpu(surroundings, finder, values)
    _symbols(surroundings, finder, values)
    stack = surroundings.stack_of(values)
    stacks = surroundings.stacks
    finder.say(stack >= 0, Place.STACK, values_at(stacks.start, stack), values_at(stacks.end, stack), stack)
    known = objects.places
    finder.say(known.slab != 0, Place.SLAB)
    size = values_at(objects.caches.size, known.cache)
    finder.say(known.start != 0, Place.OBJECT, known.start, known.start + size)
    return FoundPlaces(places=places, objects=objects, areas=areas)


class _Finder:
    """Answers as they are given; a later one takes the place of an earlier one."""

    def __init__(self, places: Places, among: Bools) -> None:
        self._places = places
        self._among = among

    def say(
        self, which: Bools, place: Place, start: U64 | None = None, end: U64 | None = None, row: I64 | None = None
    ) -> None:
        """The ``which`` are at a place, which begins and ends there; arrays have a row for each value."""
        which = which & self._among
        places = self._places
        places.place[which] = place
        places.start[which] = 0 if start is None else start[which]
        places.end[which] = 0 if end is None else end[which]
        places.row[which] = -1 if row is None else row[which]


def _frames(surroundings: Surroundings, finder: _Finder, values: U64) -> None:
    """Pages in the direct map, and struct pages in vmemmap."""
    kernel = surroundings.kernel
    direct_map = np.uint64(kernel.arch.direct_map(kernel.variable))
    pas, _, mapped = kernel.space.translate(values)
    with np.errstate(over="ignore"):
        direct = mapped & (values - direct_map == pas)
    bases = kernel.arch.page_bases(values)
    frames = kernel.arch.pages(pas).astype(np.int64)
    finder.say(direct, Place.FRAME, bases, bases + np.uint64(kernel.arch.page_size), frames)
    try:
        reader = PageReader(kernel)
    except KernelNotFoundError:
        return
    size = np.uint64(reader.size)
    with np.errstate(over="ignore"):
        frames = ((values - reader.base) // size).astype(np.int64)
        start = reader.base + frames.astype(np.uint64) * size
    room = int(kernel.memory.ranges.max(initial=0)) >> kernel.arch.page_shift
    within = (values >= reader.base) & (frames < room) & mapped
    finder.say(within, Place.PAGE, start, start + size, frames)


def _per_cpu(surroundings: Surroundings, finder: _Finder, values: U64) -> None:
    """Memory of one CPU."""
    ranges = surroundings.per_cpu
    row = covering_rows(ranges.start, ranges.end, values)
    finder.say(row >= 0, Place.PER_CPU, values_at(ranges.start, row), values_at(ranges.end, row), row)


def _symbols(surroundings: Surroundings, finder: _Finder, values: U64) -> None:
    """The image of the kernel, and modules."""
    first, last = surroundings.image
    nearest = surroundings.kernel.symbols.by_address().nearest(values)
    inside = (values >= np.uint64(first)) & (values < np.uint64(last)) & (nearest.row >= 0)
    finder.say(inside, Place.SYMBOL, nearest.start, np.minimum(nearest.end, np.uint64(last)), nearest.row)
    parts = surroundings.module_memory
    row = covering_rows(parts.start, parts.end, values)
    module = values_at(parts.module, row).astype(np.int64)
    finder.say(row >= 0, Place.MODULE, values_at(parts.start, row), values_at(parts.end, row), module)
