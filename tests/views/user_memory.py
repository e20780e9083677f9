"""Processes with page tables and struct pages, in a memory made by hand.

    memory = UserMemory()
    mm = memory.add_mm()
    memory.page(5, mapping=anon_vma | ANON, mapcount=1)
    memory.map(mm, 0x1000, present(5))
    view = memory.gather()

Frames are the machine's own: frame 5 is the memory from ``BASE + 5 * PAGE`` on. Those that no test has described are
like pages of the kernel: mapped by nobody, of no file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from handmade import BASE, CONSTANTS, LINUX, PAGE, Machine

from vmaforensics.views.indices.entries import IndexEntries
from vmaforensics.views.pages.page_tables import PageTablesView, gather_page_tables
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.processes.mms import Mms
from vmaforensics.views.processes.tasks import Tasks
from vmaforensics.views.vmas.vmas import Vmas

if TYPE_CHECKING:
    from collections.abc import Mapping

STRUCTS = LINUX | {
    "page": "flags:u64 compound_head@8:u64 lru@8:list_head mapping@24:* index@32:u64 private@40:u64 page_type@48:u32 "
    "_refcount@52:atomic_t memcg_data@56:u64",
    "folio": "page:page _pad:u8[16] _entire_mapcount:atomic_t",
    "anon_vma": "root:* parent:* num_children:u64 num_active_vmas:u64 rb_root:rb_root_cached rwsem:rw_semaphore",
    "percpu_counter": "count:i64 counters:*",
}
NUMBERS = CONSTANTS | {
    "MM_FILEPAGES": 0,
    "MM_ANONPAGES": 1,
    "MM_SWAPENTS": 2,
    "MM_SHMEMPAGES": 3,
    "PG_locked": 0,
    "PG_referenced": 2,
    "PG_dirty": 4,
    "PG_head": 6,
    "PG_swapbacked": 17,
    "PGTY_buddy": 0xF0,
    "PGTY_table": 0xF2,
    "PGTY_hugetlb": 0xF4,
    "PGTY_slab": 0xF5,
}
ANON = 1  # PAGE_MAPPING_ANON
KSM = 3
PRESENT, WRITE, USER, ACCESSED, DIRTY, LARGE, GLOBAL, SPECIAL = (1 << bit for bit in (0, 1, 2, 5, 6, 7, 8, 9))
SWAPBACKED = 1 << NUMBERS["PG_swapbacked"]
_TABLE = PRESENT | WRITE | USER
_STRUCT_PAGE = 64


def present(pfn: int, flags: int = PRESENT | USER) -> int:
    """An entry that maps a frame."""
    return pfn << 12 | flags


def swapped(kind: int, offset: int) -> int:
    """An entry that names a page of a swap file (__swp_entry, arch/x86/include/asm/pgtable_64.h)."""
    return kind << 59 | (~offset << 14) % (1 << 64) >> 5


class UserMemory(Machine):
    """A machine with the array of struct pages, and page tables of four levels."""

    def __init__(
        self, structs: Mapping[str, str] = STRUCTS, constants: Mapping[str, int] = NUMBERS, *, pages: int = 128
    ) -> None:
        super().__init__(structs, constants, pages=pages)
        self.vmemmap = self.room(pages * _STRUCT_PAGE, PAGE)
        variable = self.room(8)
        self.word(variable, self.vmemmap)
        self.symbols["vmemmap_base"] = variable
        for pfn in range(pages):
            self.page(pfn, mapcount=0)
        self.mms: list[int] = []
        self.pgds: list[int] = []

    def page(self, pfn: int, *, mapcount: int = 0, refcount: int = 1, **members: int) -> int:
        """Describe a frame; returns the address of its struct page. ``mapcount`` is what page_mapcount gives."""
        address = self.vmemmap + pfn * _STRUCT_PAGE
        for name, value in ({"page_type": mapcount - 1, "_refcount.counter": refcount} | members).items():
            self.set("page", address, name, value)
        return address

    def frame(self) -> int:
        """A new frame."""
        return (self.room(PAGE, PAGE) - BASE) // PAGE

    def add_mm(self) -> int:
        """A new process; returns its row among the mms."""
        pgd = self.room(PAGE, PAGE)
        self.mms.append(self.put("mm_struct", {"pgd": pgd}))
        self.pgds.append(pgd)
        return len(self.mms) - 1

    def map(self, mm_row: int, va: int, entry: int, *, level: int = 1) -> int:
        """Put ``entry`` where page tables have it for ``va``; returns its address. Tables are made as needed."""
        table = self.pgds[mm_row]
        for above in range(4, level, -1):
            slot = table + 8 * (va >> 12 + 9 * (above - 1) & 511)
            below = self.read(slot)
            if not below:
                below = (self.frame() << 12) | _TABLE
                self.word(slot, below)
            table = BASE + (below & ~(PAGE - 1))
        slot = table + 8 * (va >> 12 + 9 * (level - 1) & 511)
        self.word(slot, entry)
        return slot

    def read(self, address: int) -> int:
        """The 64-bit word at an address."""
        at = address - BASE
        return int.from_bytes(self._data[at : at + 8], "little")

    def mm_table(self) -> Mms:
        """The processes as the views have them."""
        return Mms.of(mm=self.mms, pgd=self.pgds, ok=np.ones(len(self.mms), np.bool_))

    def gather(
        self, vmas: Vmas | None = None, entries: IndexEntries | None = None, log: ProblemLog | None = None
    ) -> PageTablesView:
        """What page tables say, with no VMA unless some are given."""
        return gather_page_tables(
            self.kernel(),
            Tasks.zeros(0),
            self.mm_table(),
            Vmas.zeros(0) if vmas is None else vmas,
            IndexEntries.zeros(0) if entries is None else entries,
            ProblemLog() if log is None else log,
            tasks_whole=True,
        )

    def ranges(self, *ranges: tuple[int, int, int]) -> tuple[Vmas, IndexEntries]:
        """VMAs and the entries that lead to them, of (row of the mm, start, end)."""
        mm = [self.mms[row] for row, _, _ in ranges]
        start, end = [low for _, low, _ in ranges], [high for _, _, high in ranges]
        vma = [0xFFFF_8880_1000_0000 + 0x100 * number for number in range(len(ranges))]
        vmas = Vmas.of(vma=vma, mm=mm, start=start, end=end, ok=np.ones(len(vma), np.bool_))
        return vmas, IndexEntries.of(mm=mm, vma=vma, start=start, end=end, vma_row=np.arange(len(vma)))
