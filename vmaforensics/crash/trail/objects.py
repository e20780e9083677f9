"""Which slab object an address lies in, of any cache."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.views.objects.typed import ObjectOf, struct_of
from vmaforensics.views.pages.page_types import PageReader
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.slab.any_cache import find_objects
from vmaforensics.views.slab.objects import State
from vmaforensics.words.printable import decoded

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmaforensics.columns.types import U64
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.objects.typed import TypedPointers


@dataclass(frozen=True, slots=True, kw_only=True)
class SlabObject:
    """An object of a slab that an address lies in."""

    cache: str  # its name; not fit to be shown
    kmem_cache: int
    struct: str | None  # what it is, where the name of its cache or a pointer to it tells
    start: int
    offset: int  # of the address within it
    size: int
    page: int  # struct page of the slab
    state: State


class Objects:
    """Slab objects by address; each is looked up once."""

    def __init__(self, kernel: Kernel, pointers: Callable[[], TypedPointers]) -> None:
        self._kernel, self._pointers = kernel, pointers
        self._known: dict[int, SlabObject | None] = {}

    def at(self, address: int) -> SlabObject | None:
        """The object that ``address`` lies in; None where it lies in none, or that cannot be read."""
        if address not in self._known:
            self.look_up(np.array([address % (1 << 64)], np.uint64))
        return self._known.get(address)

    def look_up(self, addresses: U64) -> None:
        """Look up many addresses at once, to be asked for by :meth:`at`."""
        wanted = np.array([at for at in distinct(addresses).tolist() if at not in self._known], np.uint64)
        usable = wanted[self._kernel.arch.kernel_pointer(wanted)]
        self._known |= dict.fromkeys(wanted.tolist())
        if not len(usable):
            return
        found = find_objects(self._kernel, usable, ProblemLog())
        places = found.places
        for row in np.flatnonzero(places.start != 0).tolist():
            cache = int(places.cache[row])
            name, size = decoded(found.names[cache]), int(found.caches.object_size[cache])
            start, kinds = int(places.start[row]), int(found.caches.users[cache])
            self._known[int(usable[row])] = SlabObject(
                cache=name,
                kmem_cache=int(found.caches.cache[cache]),
                struct=struct_of(self._kernel, self._pointers, ObjectOf(start, name, size, kinds))[0],
                start=start,
                offset=int(usable[row]) - start,
                size=size,
                page=int(places.slab[row]),
                state=State(int(places.state[row])),
            )

    @cached_property
    def pages(self) -> PageReader | None:
        """The struct pages; None where this kernel has none that are known."""
        try:
            return PageReader(self._kernel)
        except KernelNotFoundError:
            return None
