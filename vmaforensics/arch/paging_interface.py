"""What may be asked of the CPU about page tables: pages, walks, entries, the user's and the kernel's half."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vmaforensics.arch.page_tables import (
        IsolatedEntries,
        KernelEntries,
        KernelHalves,
        LeafStates,
        Leaves,
        LowestEntries,
        LowestTables,
        Protection,
        Walk,
    )
    from vmaforensics.arch.reading import PhysicalReader
    from vmaforensics.columns.types import I8, U64, Bools


class PagingInterface(ABC):
    """A part of :class:`vmaforensics.arch.interface.Architecture`."""

    # Pages and addresses -----------------------------------------------------------------------------

    page_shift: int  # log2 of the bytes of a page
    huge_order: int  # log2 of the pages that a leaf entry of level 2 maps (HPAGE_PMD_ORDER)
    max_order: int  # log2 of the most pages the buddy allocator hands out (MAX_PAGE_ORDER)
    counted_levels: int  # tables of levels 1 to this count in mm->pgtables_bytes
    user_bits: int  # no user address has more bits
    levels: int  # of page tables
    isolation: bool | None  # has each process a second top-level table for user mode? None: not known

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return 1 << self.page_shift

    @property
    def user_top(self) -> int:
        """First address above all user addresses that this CPU can have."""
        return 1 << self.user_bits

    @property
    def user_page_bits(self) -> int:
        """Bits of the number of a user page: what a composite key of process and page has room for."""
        return self.user_bits - self.page_shift

    def pages(self, sizes: U64) -> U64:
        """Bytes or addresses as whole pages, rounded down."""
        found: U64 = sizes >> np.uint64(self.page_shift)
        return found

    def bytes_of(self, pages: U64) -> U64:
        """Numbers of pages or frames as bytes or addresses."""
        found: U64 = pages << np.uint64(self.page_shift)
        return found

    def page_bases(self, addresses: U64) -> U64:
        """First address of the page that each address lies in."""
        found: U64 = addresses & ~np.uint64(self.page_size - 1)
        return found

    @abstractmethod
    def kernel_pointer(self, values: U64) -> Bools:
        """Can each value be an address in the kernel's half of the address space?"""

    poison_base: int  # CONFIG_ILLEGAL_POINTER_VALUE: what list poison and the like count from

    @abstractmethod
    def canonical(self, values: U64) -> Bools:
        """Can the CPU take each value for an address at all, of either half?"""

    @abstractmethod
    def is_kernel_address(self, value: int) -> bool:
        """Is this address, which may be any word, outside the half that user addresses lie in?"""

    # Walking page tables -----------------------------------------------------------------------------

    @abstractmethod
    def walk_user(self, memory: PhysicalReader, roots: U64) -> Walk:
        """The user half under top-level tables at the physical ``roots``, but for the entries of the lowest tables.

        These may be more than fit into memory: ``lowest`` of the result lists the tables that hold them. What is not
        empty of the levels above is there. No more tables are read per level than the image has page frames, plus the
        roots.
        """

    @abstractmethod
    def read_lowest(self, memory: PhysicalReader, tables: LowestTables, *, digests: bool = False) -> LowestEntries:
        """The entries of tables of the lowest level that are not empty, with ``digests`` of the tables if wanted."""

    @abstractmethod
    def walk_kernel(self, memory: PhysicalReader, root: int) -> Walk:
        """The present entries of the kernel half under one top-level table, without what only repeats a few pages."""

    @abstractmethod
    def span(self, level: I8) -> U64:
        """Bytes that a leaf entry of each ``level`` maps."""

    @abstractmethod
    def table_span(self, level: I8) -> U64:
        """Bytes that a whole table of each ``level`` maps."""

    @abstractmethod
    def target(self, entry: U64, level: I8) -> U64:
        """Physical address that each present leaf entry maps."""

    # Entries -----------------------------------------------------------------------------------------

    @abstractmethod
    def decode(self, leaves: Leaves, swap_types: int) -> LeafStates:
        """What each leaf entry is. Swap entries of a type from ``swap_types`` on are no swap: migration, devices."""

    @abstractmethod
    def accessed(self, entry: U64) -> Bools:
        """pte_young of each present entry."""

    @abstractmethod
    def dirty(self, entry: U64) -> Bools:
        """pte_dirty of each present entry."""

    @abstractmethod
    def special(self, entry: U64) -> Bools:
        """pte_special, or pmd_devmap, of each present entry: the bits alone."""

    @abstractmethod
    def attributes(self, entry: U64) -> U64:
        """Each present entry without its address, accessed and dirty bits: what equal pages have in common."""

    @abstractmethod
    def swap_type(self, entry: U64) -> U64:
        """Number of the swap file that each swap entry names (__swp_type)."""

    @abstractmethod
    def swap_offset(self, entry: U64) -> U64:
        """Page of the swap file that each swap entry names (__swp_offset)."""

    @abstractmethod
    def swap_place(self, entry: U64) -> U64:
        """Each swap entry without soft-dirty bits and the like: equal where type and offset are."""

    @abstractmethod
    def protection(self, page_prot: U64) -> Protection:
        """What each ``vm_page_prot`` allows."""

    @abstractmethod
    def protection_words(self, page_prot: int) -> tuple[str, ...]:
        """The bits set in a ``vm_page_prot`` that matter for access, in words."""

    # The second copy of page tables ------------------------------------------------------------------

    @abstractmethod
    def differing_entries(self, memory: PhysicalReader, roots: U64) -> IsolatedEntries:
        """Entries of the user half that the two copies of each top-level table have differently.

        Nothing unless :attr:`isolation`. ``roots`` are physical addresses of the kernel's copies.
        """

    @abstractmethod
    def walk_user_only(self, memory: PhysicalReader, roots: U64, differing: IsolatedEntries) -> Walk:
        """What is in the user's copies alone, without the top-level tables; owners count ``roots``."""

    # The kernel half, which all processes share -----------------------------------------------------------

    @abstractmethod
    def kernel_entries(self, memory: PhysicalReader, roots: U64, reference: int, own_tables: Bools) -> KernelHalves:
        """The kernel half of each top-level table beside that of the kernel's own, at the physical ``reference``.

        ``own_tables``: which processes may have tables of their own there (:meth:`has_other_tables`).
        """

    @abstractmethod
    def walk_kernel_entries(self, memory: PhysicalReader, entries: KernelEntries) -> Walk:
        """What is mapped under such entries; owners are their rows."""

    @abstractmethod
    def kernel_leaves_for_user_mode(self, leaves: Leaves) -> Leaves:
        """Leaves of the kernel half that user mode can use and that no kernel makes."""

    @abstractmethod
    def walk_kernel_half(self, memory: PhysicalReader, root: int) -> Walk:
        """All present entries of the kernel half under one top-level table; repeated tables are entered once."""

    @abstractmethod
    def roots_of(self, table_register: U64) -> tuple[U64, ...]:
        """Physical addresses of the top-level table that each register value may mean, the likeliest first."""
