"""Objects of any slab cache that some addresses lie in: their cache by its name, and whether they are allocated.

The slab is found by the ``struct page`` of the address (virt_to_slab), so nothing has to be known of the cache before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct, rows_of, sort_order, values_at
from vmaforensics.columns.table import Table, column, member, table
from vmaforensics.columns.types import I32, U8, U16, U64
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.views.pages.page_types import PageReader
from vmaforensics.views.slab.caches import Caches, ObjectKind
from vmaforensics.views.slab.free_objects import FreeObjects, free_objects
from vmaforensics.views.slab.objects import State
from vmaforensics.views.slab.slab_pages import SlabLayout, Slabs, believed_slabs, heads_table, is_slab

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.columns.types import I64, Bools
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.problems import ProblemLog

_MOST_CACHES = (1 << 16) - 1
_NAME_LIMIT = 64
_POINTER = np.uint64(8)


@table(struct="kmem_cache")
class AnyCaches(Caches):
    """Caches of any kind; ``kind`` means nothing here."""

    object_size: U64 = member("object_size")  # bytes that were asked for
    name: U64 = member("name")  # address of the text


@table()
class SlabPlaces(Table):
    """Where in a slab each of some addresses lies."""

    address: U64
    slab: U64  # struct page (struct slab) of the slab; 0: in none
    cache: I32 = column(fill=-1)  # row of the caches; -1: in no slab
    start: U64  # of the object; 0: the address lies in none, but beside them
    state: U8 = column(fill=State.ABSENT)  # State of the object
    place: U16  # on its list of free objects, from 1 on; 0: not on one that is followed


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundObjects:
    """What :func:`find_objects` found."""

    places: SlabPlaces  # a row for each address, in their order
    caches: AnyCaches
    names: Sequence[bytes]  # of the caches; as the image has them
    slabs: Slabs
    encoding: U8  # of each cache: Encoding of its free pointers


def find_objects(kernel: Kernel, addresses: U64, log: ProblemLog) -> FoundObjects:
    """The slab object that each of ``addresses`` lies in; they may be any words. Problems carry the view ``SLAB``.

    Cost is that of the slabs met, and of the lists of the caches these belong to.
    """
    places = SlabPlaces.zeros(len(addresses))
    places.address[:] = addresses
    nothing = FoundObjects(
        places=places, caches=AnyCaches.zeros(0), names=(), slabs=Slabs.zeros(0), encoding=np.zeros(0, np.uint8)
    )
    try:
        heads, caches, slabs = _slabs(kernel, addresses, log)
    except KernelNotFoundError as error:
        kernel.identity.problems.append(f"{error}: slab objects are not looked at")
        return nothing
    if not len(slabs):
        return nothing
    layout = SlabLayout(caches=caches, slabs=slabs)
    found = free_objects(kernel, layout, log)
    order = sort_order(slabs.page)
    at = rows_of(slabs.page[order], heads)
    slab = values_at(order, at, -1)
    places.slab[:] = values_at(slabs.page, slab)
    places.cache[:] = np.where(slab >= 0, values_at(slabs.cache, slab).astype(np.int32), -1)
    starts = _starts(layout, addresses, slab)
    row = layout.rows(starts, slab)
    inside = row >= 0
    places.start[inside] = starts[inside]
    places.state[:] = np.where(inside, _states(found, row, slab), State.ABSENT)
    places.place[:] = values_at(found.place, row)
    return FoundObjects(
        places=places, caches=caches, names=_names(kernel, caches), slabs=slabs, encoding=found.encoding
    )


def read_caches_at(kernel: Kernel, addresses: U64) -> AnyCaches:
    """Those of the kmem_caches at ``addresses`` (ascending) that can be believed."""
    caches, known = kernel.gather(AnyCaches, addresses)
    caches.cache[:] = addresses
    sane = known & (caches.size > 0) & (caches.offset + _POINTER <= caches.size) & (caches.most(kernel.arch) > 0)
    return caches.take(sane)


def _names(kernel: Kernel, caches: AnyCaches) -> list[bytes]:
    """The names of caches; where one is not in the image, the structure of its objects if a symbol leads to it."""
    by_symbol = {kernel.variable(kind.symbol, 8): kind.struct.encode() for kind in ObjectKind}
    return [
        name or by_symbol.get(cache, b"?")
        for name, cache in zip(kernel.strings(caches.name, _NAME_LIMIT), caches.cache.tolist(), strict=True)
    ]


def _slabs(kernel: Kernel, addresses: U64, log: ProblemLog) -> tuple[U64, AnyCaches, Slabs]:
    """(the struct page of the slab that each address lies in, 0 for none; their caches; the slabs).

    Only addresses of the direct map count: slabs are never mapped elsewhere.
    """
    reader = PageReader(kernel)
    heads_of_slabs = heads_table(kernel)
    direct_map = np.uint64(kernel.arch.direct_map(kernel.variable))
    pas, _, mapped = kernel.space.translate(addresses)
    with np.errstate(over="ignore"):
        mapped &= addresses - direct_map == pas
    pfns = kernel.arch.pages(pas)
    rows, ok = reader.read(np.where(mapped, pfns, np.uint64(0)))
    heads = reader.heads(pfns, rows)
    rows, head_ok = reader.read(np.where(mapped & ok, heads, np.uint64(0)))
    in_slab = mapped & ok & head_ok & is_slab(kernel, rows)
    pages = np.where(in_slab, reader.addresses(heads), np.uint64(0))
    found = distinct(pages[in_slab])
    head, read = kernel.gather(heads_of_slabs, found)
    at = distinct(head.cache[read & kernel.arch.kernel_pointer(head.cache)])[:_MOST_CACHES]
    caches = read_caches_at(kernel, at)
    cache = rows_of(caches.cache, head.cache)
    keep = read & (cache >= 0)
    frames, _ = reader.frames_of(found[keep])
    slabs = Slabs(
        page=found[keep],
        base=direct_map + kernel.arch.bytes_of(frames),
        cache=cache[keep].astype(np.uint16),
        first=np.zeros(int(keep.sum()), np.int64),
        objects=head.objects[keep],
        frozen=head.frozen[keep],
        freelist=head.freelist[keep],
    )
    return pages, caches, believed_slabs(kernel, caches, slabs, log)


def _starts(layout: SlabLayout, addresses: U64, slab: I64) -> U64:
    """First byte of the slot that each address lies in; anything where it lies in none."""
    cache = values_at(layout.slabs.cache, slab)
    base = values_at(layout.slabs.base, slab) + layout.caches.pad[cache]
    size = layout.caches.size[cache]
    with np.errstate(over="ignore"):
        offset = addresses - base
        starts: U64 = base + offset // size * size
    return starts


def _states(found: FreeObjects, row: I64, slab: I64) -> U8:
    """The state of each object: what is on no list is allocated, if all lists could be read."""
    doubtful: Bools = values_at(found.doubtful, slab)
    return np.where(values_at(found.free, row), State.FREE, np.where(doubtful, State.UNKNOWN, State.ALLOCATED)).astype(
        np.uint8
    )
