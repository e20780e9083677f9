"""Objects of address spaces by the allocator's account: what is allocated, whether or not anything leads to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import values_at
from vmaforensics.columns.ragged import expand, expand_ranges
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I64, U8, U64, Bools
from vmaforensics.views.slab.caches import Caches, ObjectKind, read_caches
from vmaforensics.views.slab.free_objects import free_objects
from vmaforensics.views.slab.slab_pages import PartialSlabs, SlabLayout, Slabs, find_slabs

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.problems import ProblemLog


class State(IntEnum):
    """What the allocator says of an object."""

    ALLOCATED = 0
    FREE = 1
    UNKNOWN = 2  # a list that may hold it could not be read to its end
    ABSENT = 3  # no object of these caches

    @property
    def text(self) -> str:
        """The state in words."""
        return ("allocated", "free", "allocated or free", "no object of the cache")[self]


@table()
class SlabObjects(Table):
    """Objects of a cache, by address."""

    address: U64
    state: U8  # State


@dataclass(frozen=True, slots=True, kw_only=True)
class SlabView:
    """Every object of the caches; see :func:`gather_slab`.

    Objects have a row each, in ascending order of address; where they lie is computed from their slabs.
    """

    layout: SlabLayout
    state: U8  # State of each object
    partial: PartialSlabs = field(default_factory=lambda: PartialSlabs.zeros(0))  # of any cache

    @property
    def caches(self) -> Caches:
        """The cache of each kind of object."""
        return self.layout.caches

    @property
    def slabs(self) -> Slabs:
        """The slabs of all caches."""
        return self.layout.slabs

    def of(self, kind: ObjectKind) -> SlabObjects:
        """The objects of the cache of ``kind``; others too if the cache is merged."""
        slabs = np.flatnonzero(self._holds(kind)[self.slabs.cache])
        first = self.slabs.first[slabs]
        _, row = expand_ranges(first, first + self.slabs.objects[slabs])
        objects = SlabObjects(address=self.layout.addresses(slabs), state=self.state[row])
        return objects.sort_by(objects.address)  # slabs that overlap, which a hostile image may have, are not in order

    def has(self, addresses: U64) -> Bools:
        """Which addresses are an object of any of the caches."""
        known: Bools = self.layout.rows(addresses, self.layout.slab_of(addresses)) >= 0
        return known

    def states(self, addresses: U64, kind: ObjectKind) -> U8:
        """The :class:`State` of each address as an object of ``kind``."""
        return values_at(self.state, self._rows(addresses, kind), State.ABSENT)

    def slab_pages(self, addresses: U64, kind: ObjectKind) -> U64:
        """The struct page of the slab that each address lies in as an object of ``kind``; 0 if it is none."""
        slab = np.where(self._rows(addresses, kind) >= 0, self.layout.slab_of(addresses), -1)
        return values_at(self.slabs.page, slab)

    def _holds(self, kind: ObjectKind) -> Bools:
        """Which rows of ``caches`` are the cache of ``kind``, perhaps as that of another kind."""
        return np.isin(self.caches.cache, self.caches.cache[self.caches.kind == kind])

    def _rows(self, addresses: U64, kind: ObjectKind) -> I64:
        """Row of the object of ``kind`` at each address, -1 for none."""
        slab = self.layout.slab_of(addresses)
        holds = values_at(self._holds(kind)[self.slabs.cache], slab)
        return self.layout.rows(addresses, np.where(holds, slab, -1))


def gather_slab(kernel: Kernel, log: ProblemLog) -> SlabView | None:
    """Find every VMA, mm, maple node, anon_vma, AVC and task in its slab cache; None without any cache.

    Memory is a byte for each object and some for each slab. Problems carry the view ``SLAB`` and no mm.

    >>> slab = gather_slab(kernel, log)
    >>> mms = slab.of(ObjectKind.MM)
    >>> mms.address[mms.state == State.ALLOCATED]
    """
    caches = read_caches(kernel, log)
    if not len(caches):
        return None
    slabs, partial = find_slabs(kernel, caches, log)
    layout = SlabLayout(caches=caches, slabs=slabs)
    found = free_objects(kernel, layout, log)
    slab, _ = expand(layout.slabs.objects)
    state = np.where(found.doubtful[slab], np.uint8(State.UNKNOWN), np.uint8(State.ALLOCATED))
    state[found.free] = State.FREE
    return SlabView(layout=layout, state=state, partial=partial)
