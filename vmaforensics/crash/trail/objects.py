"""Which slab object an address lies in, of any cache."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U32, U64
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.views.pages.page_types import PageReader
from vmaforensics.views.slab.objects import State
from vmaforensics.views.slab.slab_pages import heads_table, is_slab
from vmaforensics.words.printable import decoded

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.slab.objects import SlabView


@table(struct="kmem_cache")
class _Cache(Table):
    """How a cache lays its objects out (struct kmem_cache)."""

    name: U64 = member("name")
    size: U32 = member("size")
    object_size: U32 = member("object_size")
    pad: U32 = member("red_left_pad?")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlabObject:
    """An object of a slab that an address lies in."""

    cache: str  # its name
    kmem_cache: int
    start: int
    offset: int  # of the address within it
    size: int
    page: int  # struct page of the slab
    state: State  # UNKNOWN where the free lists of the cache were not read


class Objects:
    """Slab objects by address; each is looked up once."""

    def __init__(self, kernel: Kernel, slab: SlabView | None) -> None:
        self._kernel = kernel
        self._slab = slab
        self._known: dict[int, SlabObject | None] = {}

    def at(self, address: int) -> SlabObject | None:
        """The object that ``address`` lies in; None where it lies in none, or that cannot be read."""
        if address not in self._known:
            self._known[address] = self._find(address)
        return self._known[address]

    @cached_property
    def pages(self) -> PageReader | None:
        """The struct pages; None where this kernel has none that are known."""
        try:
            return PageReader(self._kernel)
        except KernelNotFoundError:
            return None

    def _find(self, address: int) -> SlabObject | None:
        kernel, reader = self._kernel, self.pages
        at = np.array([address % (1 << 64)], np.uint64)
        if reader is None or not kernel.arch.kernel_pointer(at)[0]:
            return None
        pas, _, mapped = kernel.space.translate(at)
        if not mapped[0]:
            return None
        direct_map = kernel.arch.direct_map(kernel.variable)
        if int(pas[0]) + direct_map != address:
            return None  # mapped elsewhere too: objects are handed out by their place in the direct map
        pfns = kernel.arch.pages(pas)
        rows, ok = reader.read(pfns)
        heads = reader.heads(pfns, rows)
        rows, head_ok = reader.read(heads)
        if not (ok[0] and head_ok[0] and is_slab(kernel, rows)[0]):
            return None
        page = int(reader.addresses(heads)[0])
        struct = heads_table(kernel)
        head, read = kernel.gather(struct, np.array([page], np.uint64))
        cache, cache_ok = kernel.gather(_Cache, head.cache)
        size = int(cache.size[0])
        if not (read[0] and cache_ok[0]) or size == 0:
            return None
        offset = address - direct_map - (int(heads[0]) << kernel.arch.page_shift) - int(cache.pad[0])
        if not 0 <= offset < size * int(head.objects[0]):
            return None
        start = address - offset % size
        name = kernel.strings(cache.name, 64)[0]
        return SlabObject(
            cache=decoded(name or b""),
            kmem_cache=int(head.cache[0]),
            start=start,
            offset=offset % size,
            size=size,
            page=page,
            state=self._state(start),
        )

    def _state(self, start: int) -> State:
        """What the free lists say of the object at ``start``, where they were read."""
        if self._slab is None:
            return State.UNKNOWN
        at = np.array([start], np.uint64)
        row = int(self._slab.layout.rows(at, self._slab.layout.slab_of(at))[0])
        return State(int(self._slab.state[row])) if row >= 0 else State.UNKNOWN
