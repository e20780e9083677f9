"""Records made by hand for complaints to be followed through: a small memory, views, and slab objects by address."""

from __future__ import annotations

from typing import TYPE_CHECKING

from checks.handmade_views import views_of
from handmade import LINUX, Machine

from vmaforensics.crash.trail.objects import Objects, SlabObject
from vmaforensics.crash.trail.records import Records
from vmaforensics.views.objects.typed import follow_types
from vmaforensics.views.processes.tasks import Tasks
from vmaforensics.views.slab.objects import State

from ..texts import complaints_of, log_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmaforensics.columns.types import U64
    from vmaforensics.crash.complaints import Complaint
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views

STRUCTS = LINUX | {"page": "flags:u64 compound_head:* mapping:* index:u64 private:u64 page_type:u32 _refcount:atomic_t"}
UNTYPED = "kmalloc-16"  # a cache whose objects may be anything


class Objects_(Objects):  # noqa: N801
    """Slab objects that were put there: (start, bytes, structure)."""

    def __init__(self, kernel: Kernel, known: Iterable[tuple[int, int, str]], state: State) -> None:
        super().__init__(kernel, lambda: follow_types(kernel, Tasks.zeros(0)))
        self._all, self._state = list(known), state

    def at(self, address: int) -> SlabObject | None:
        for start, size, struct in self._all:
            if start <= address < start + size:
                return SlabObject(
                    cache=struct,
                    kmem_cache=0,
                    struct=None if struct == UNTYPED else struct,
                    start=start,
                    offset=address - start,
                    size=size,
                    page=0,
                    state=self._state,
                )
        return None

    def look_up(self, addresses: U64) -> None:
        pass


class Stage(Records):
    """Records whose objects are told by their address alone."""

    def __init__(
        self, machine: Machine, objects: Iterable[tuple[int, int, str]] = (), views: Views | None = None
    ) -> None:
        super().__init__(machine.kernel(), views_of() if views is None else views)
        self.objects = Objects_(self.kernel, objects, State.ALLOCATED)
        self.space_of: dict[int, int] = {}  # of each pid

    def mm_of(self, pid: int | None) -> int:
        return self.space_of.get(pid or 0, 0)

    def object_name(self, found: SlabObject) -> str:
        return f"{found.struct} {found.start:#x}"

    def leads_to(self, value: int) -> str:
        return hex(value)

    def word_name(self, address: int) -> str:
        found = self.objects.at(address)
        return hex(address) if found is None else f"{found.struct}+{found.offset:#x}"


def complaint(text: str) -> Complaint:
    """The one complaint of a log with this text, printed by one task."""
    (found,) = complaints_of(log_of((text, {"caller": 5}))).kept
    return found
