"""A memory with slab caches made by hand: struct pages in vmemmap say which pages are slabs, and of which cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handmade import BASE, CONSTANTS, LINUX, PAGE, Machine

from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.slab.caches import Caches, ObjectKind, read_caches
from vmaforensics.views.slab.slab_pages import Slabs, find_slabs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmaforensics.kernel.kernel import Kernel

SLAB = 0xF5 << 24  # PGTY_slab
STRUCTS = LINUX | {
    "reciprocal": "x:u32",
    "kmem_cache": "size:u32 object_size:u32 offset:u32 oo:reciprocal random:u64 red_left_pad:u32 refcount:i32",
    "page": "flags:u64 compound_head:* lru:u64 mapping:* index:u64 private:u64 page_type:u32 _refcount:u32 "
    "memcg_data:u64",
    "slab": "flags:u64 slab_cache:* next:* freelist@32:* inuse@40:u16 objects@42:u16 frozen@44:u8",
}
SIZE = 512  # bytes of an object; a vm_area_struct fits into it
ORDER_0 = PAGE // SIZE


class Hand:
    """A memory of 64 pages, the last of which holds all struct pages; a cache of VMAs."""

    def __init__(self, structs: Mapping[str, str] = STRUCTS, **constants: int) -> None:
        self.machine = Machine(structs, CONSTANTS | {"PGTY_slab": 0xF5} | constants)
        self.vmemmap = BASE + 63 * PAGE
        for name, value in (("vmemmap_base", self.vmemmap), ("page_offset_base", BASE)):
            at = self.machine.symbols[name] = self.machine.room(8)
            self.machine.word(at, value)
        self.cache = self.new_cache(ObjectKind.VMA, size=SIZE, offset=8, oo=ORDER_0)

    def new_cache(self, kind: ObjectKind | None, **members: int) -> int:
        cache = self.machine.put(
            "kmem_cache", {"refcount": 1} | {"oo.x" if name == "oo" else name: value for name, value in members.items()}
        )
        if kind is not None:
            at = self.machine.symbols[kind.symbol] = self.machine.room(8)
            self.machine.word(at, cache)
        return cache

    def slab(
        self, pfn: int, *, cache: int | None = None, objects: int = ORDER_0, page_type: int = SLAB, head: int = 0
    ) -> int:
        """Make frame ``pfn`` a slab; returns its struct page."""
        page = self.vmemmap + 64 * pfn
        owner = self.cache if cache is None else cache
        for path, value in (("slab_cache", owner), ("freelist", head), ("objects", objects), ("frozen", 0)):
            self.machine.set("slab", page, path, value)
        self.machine.set("page", page, "page_type", page_type)
        return page

    def kernel(self) -> Kernel:
        return self.machine.kernel()

    def caches(self) -> tuple[Caches, list[tuple[Problem, int]]]:
        log = ProblemLog()
        rows = read_caches(self.kernel(), log)
        return rows, problems_of(log)

    def slabs(self) -> tuple[Slabs, list[tuple[Problem, int]]]:
        log = ProblemLog()
        kernel = self.kernel()
        rows = find_slabs(kernel, read_caches(kernel, ProblemLog()), log).slabs
        return rows, problems_of(log)


def problems_of(log: ProblemLog) -> list[tuple[Problem, int]]:
    rows = log.table()
    return list(zip(map(Problem, rows.problem.tolist()), rows.where.tolist(), strict=True))
