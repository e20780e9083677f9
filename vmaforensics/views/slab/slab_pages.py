"""The slabs of caches: pages that the allocator cut into objects (mm/slab.h, mm/slub.c).

Full slabs are on no list, so the pages are found by their ``struct page``: all of vmemmap is read once and the
heads of slabs whose ``slab_cache`` is among the caches are kept. Of any cache, slabs with free objects are picked out
on the way (:mod:`vmaforensics.views.slab.torn_slabs`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import last_rows_of, rows_of, sort_order, values_at
from vmaforensics.columns.ragged import expand
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I64, U16, U64, Bools
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.views.pages.frame_ranges import free_runs
from vmaforensics.views.pages.page_types import PageReader, bit_set, type_code
from vmaforensics.views.pages.vmemmap import vmemmap_pages
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.page_types import StructPages
    from vmaforensics.views.slab.caches import Caches

_MOST_PARTIAL = 1 << 13  # slabs with free objects, of a batch and of all: no more are compared


@table()
class Slabs(Table):
    """The slabs of all caches, by the address of their memory. They do not overlap in a sound kernel."""

    page: U64  # the struct page (struct slab) of its head
    base: U64  # address of the slab's memory
    cache: U16  # the first row of Caches with its kmem_cache
    first: I64  # row of its first object among the objects of all slabs
    objects: U16  # how many
    frozen: Bools  # lent to a CPU
    freelist: U64  # address of the first free object


@table()
class PartialSlabs(Table):
    """Slabs of any cache with a list of free objects, as their struct pages say; no more than a machine has need of."""

    page: U64  # the struct page (struct slab) of its head
    base: U64  # address of the slab's memory
    cache: U64  # kmem_cache, whatever that is
    freelist: U64  # address of the first free object
    objects: U16
    inuse: U16  # objects that are on no list of the slab's own: in use, or lent to a CPU


class FoundSlabs(NamedTuple):
    """What :func:`find_slabs` found."""

    slabs: Slabs
    partial: PartialSlabs


@table(struct="slab")
class _Heads(Table):
    """What the head of a slab says of it; since 5.17 (d122019bf061) it has a structure of its own."""

    cache: U64 = member("slab_cache")
    freelist: U64 = member("freelist")
    objects: U16 = member("objects")
    frozen: Bools = member("frozen?")
    inuse: U16 = member("inuse?")


@table(struct="page")
class _OldHeads(_Heads):
    """The same where it is part of ``struct page``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlabLayout:
    """Where the objects of all slabs lie: they have rows in ascending order of address."""

    caches: Caches
    slabs: Slabs

    @property
    def count(self) -> int:
        """Number of objects."""
        return int(self.slabs.objects.sum(dtype=np.int64))

    def slab_of(self, addresses: U64) -> I64:
        """Row of the slab each address may lie in, by the bases alone; -1 for none."""
        return last_rows_of(self.slabs.base, addresses)

    def rows(self, addresses: U64, slab: I64) -> I64:
        """Row of the object that each address is, if it is one of the given slab; else -1."""
        cache = values_at(self.slabs.cache, slab)
        with np.errstate(over="ignore"):
            offset = addresses - values_at(self.slabs.base, slab) - values_at(self.caches.pad, cache.astype(np.int64))
        if not len(self.slabs):
            return np.full(len(addresses), -1, np.int64)
        size = self.caches.size[cache]
        index = offset // size
        inside = (slab >= 0) & (offset % size == 0) & (index < values_at(self.slabs.objects, slab))
        return np.where(inside, values_at(self.slabs.first, slab) + index.astype(np.int64), -1)

    def addresses(self, slabs: I64) -> U64:
        """Address of every object of the slabs at the rows ``slabs``, slab by slab."""
        at, place = expand(self.slabs.objects[slabs])
        cache = self.slabs.cache[slabs]
        base, size = self.slabs.base[slabs] + self.caches.pad[cache], self.caches.size[cache]
        found: U64 = base[at] + place.astype(np.uint64) * size[at]
        return found


def find_slabs(kernel: Kernel, caches: Caches, log: ProblemLog) -> FoundSlabs:
    """Every slab of ``caches``, and those with free objects of any cache.

    There are never more objects than the RAM has room for, whatever the struct pages claim. Problems carry the
    view ``SLAB``: struct pages that are not in the image, and slabs that cannot be believed. Raises
    :class:`KernelNotFoundError` if types do not say what a slab is.
    """
    reader = PageReader(kernel)
    heads = heads_table(kernel)
    at, chain = (kernel.offset(heads.struct, name) for name in ("slab_cache", "freelist"))
    kernel.offset(heads.struct, "objects")
    direct_map = np.uint64(kernel.arch.direct_map(kernel.variable))
    order = sort_order(caches.cache)
    known = caches.cache[order]
    found: list[Slabs] = []
    partial = _Sample()
    unread = 0
    free = kernel.shared(free_runs)
    for first, data, ok in vmemmap_pages(kernel, int(reader.base), reader.size, free):
        unread += int((~ok).sum())
        count = data.shape[1] // reader.size
        words = data[:, : count * reader.size].reshape(-1, reader.size)
        owner, head_of_list = (
            np.ascontiguousarray(words[:, place : place + 8]).view("<u8").reshape(-1) for place in (at, chain)
        )
        wanted = np.isin(owner, known)
        listed = np.flatnonzero((head_of_list >= direct_map) & kernel.arch.kernel_pointer(owner) & ~wanted)
        wanted[listed[:: 1 + len(listed) // _MOST_PARTIAL]] = True
        may_be = np.flatnonzero(wanted)
        pfns = first[may_be // count] + (may_be % count).astype(np.uint64)
        with np.errstate(over="ignore"):
            pages = reader.base + pfns * np.uint64(reader.size)
        head, read = kernel.gather(heads, pages)
        rows, typed = reader.read(pfns)
        slab = np.flatnonzero(read & typed & is_slab(kernel, rows))
        pages, head = pages[slab], head.take(slab)
        base = direct_map + kernel.arch.bytes_of(pfns[slab])
        partial.add(pages, base, head)
        cache = rows_of(known, head.cache)
        keep = np.flatnonzero(cache >= 0)
        found.append(
            Slabs(
                page=pages[keep],
                base=base[keep],
                cache=order[cache[keep]].astype(np.uint16),
                first=np.zeros(len(keep), np.int64),
                objects=head.objects[keep],
                frozen=head.frozen[keep],
                freelist=head.freelist[keep],
            )
        )
    if unread:
        log.add(View.SLAB, Problem.UNREADABLE, 0, int(reader.base), unread)
    return FoundSlabs(believed_slabs(kernel, caches, Slabs.concatenate(found), log), partial.table())


class _Sample:
    """Slabs with free objects, all or every so many."""

    def __init__(self) -> None:
        self._parts: list[PartialSlabs] = []
        self._every = 1

    def add(self, pages: U64, base: U64, head: _Heads) -> None:
        """Add those of the slabs that have free objects on a list of their own, and others in use."""
        row = np.flatnonzero((head.freelist != 0) & (head.inuse > 0) & (head.inuse < head.objects))[:: self._every]
        head = head.take(row)
        self._parts.append(
            PartialSlabs(
                page=pages[row],
                base=base[row],
                cache=head.cache,
                freelist=head.freelist,
                objects=head.objects,
                inuse=head.inuse,
            )
        )
        if sum(map(len, self._parts)) > _MOST_PARTIAL:
            self._parts, self._every = [self.table().take(slice(None, None, 2))], 2 * self._every

    def table(self) -> PartialSlabs:
        return PartialSlabs.concatenate(self._parts)


def believed_slabs(kernel: Kernel, caches: Caches, slabs: Slabs, log: ProblemLog) -> Slabs:
    """The slabs that can be believed, by base and with ``first`` filled in."""
    slabs = slabs.sort_by(slabs.base)
    believed = slabs.objects <= caches.most(kernel.arch)[slabs.cache]
    log.add(View.SLAB, Problem.BAD_TAG, 0, slabs.page[~believed], slabs.objects[~believed].astype(np.uint64))
    slabs = slabs.take(believed)
    taken = np.cumsum(slabs.objects * caches.size[slabs.cache].astype(np.float64))
    ranges = kernel.memory.ranges
    fits = taken <= float((ranges[:, 1] - ranges[:, 0]).sum()) if len(ranges) else np.zeros(len(slabs), np.bool_)
    if not fits.all():
        log.add(View.SLAB, Problem.CUT_SHORT, 0, slabs.page[~fits][:1], int((~fits).sum()))
        slabs = slabs.take(fits)
    slabs.first[:] = np.cumsum(slabs.objects, dtype=np.int64) - slabs.objects
    return slabs


def outside_cache(kernel: Kernel, addresses: U64, cache: int) -> Bools:
    """Which addresses lie in a page that is none of the ``kmem_cache`` at ``cache``; False where that is not known.

    An object anywhere in such a page is not outside: KFENCE places single objects at odd offsets.
    """
    try:
        reader = PageReader(kernel)
        struct = heads_table(kernel).struct
        kernel.member(struct, "slab_cache")
    except KernelNotFoundError:
        return np.zeros(len(addresses), np.bool_)
    pas, _, mapped = kernel.space.translate(addresses)
    pfns = kernel.arch.pages(pas)
    rows, read = reader.read(pfns)
    heads = reader.heads(pfns, rows)
    rows, head_read = reader.read(heads)
    with np.errstate(over="ignore"):
        owner, owner_read = kernel.gather_member(struct, "slab_cache", reader.base + heads * np.uint64(reader.size))
    inside = is_slab(kernel, rows) & (owner == np.uint64(cache))
    answer: Bools = mapped & read & head_read & owner_read & ~inside
    return answer


def unread_frames(kernel: Kernel, frames: U64) -> Bools:
    """Of which page frames the struct page, or that of the compound page they belong to, is not in the image: whether
    such a frame is a slab cannot be told."""
    try:
        reader = PageReader(kernel)
    except KernelNotFoundError:
        return np.zeros(len(frames), np.bool_)
    rows, read = reader.read(frames)
    heads = reader.heads(frames, rows)
    _, head_read = reader.read(heads)
    unread: Bools = (reader.mapped(frames) & ~read) | (read & reader.mapped(heads) & ~head_read)
    return unread


def heads_table(kernel: Kernel) -> type[_Heads]:
    """The table of slab heads that this kernel has; its ``struct`` names the structure."""
    return _Heads if kernel.has("slab", "slab_cache") else _OldHeads


def is_slab(kernel: Kernel, rows: StructPages) -> Bools:
    """PG_slab was a page flag and became a page type; only the head of a slab has it."""
    code = type_code(kernel, "slab")
    if code is not None:
        return code.matches(rows.page_type)
    bit = kernel.types.constant("PG_slab")
    return bit_set(rows.flags, bit) if bit is not None and bit < 64 else np.zeros(len(rows), np.bool_)
