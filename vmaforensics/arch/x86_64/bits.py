"""Bits of page-table entries (Intel SDM vol. 3, 4.5; arch/x86/include/asm/pgtable_types.h)."""

from __future__ import annotations

PAGE_SHIFT = 12
TABLE_SHIFT = 9  # address bits that a table of each level takes
ENTRIES = 1 << TABLE_SHIFT  # of a table
USER_SLOTS = ENTRIES // 2  # of a top-level table; the upper half is the kernel's

PRESENT = 1 << 0
WRITE = 1 << 1
USER = 1 << 2
ACCESSED = 1 << 5
DIRTY = 1 << 6
LARGE = 1 << 7  # PS; bit 7 of a PTE is PAT
PROTNONE = 1 << 8  # _PAGE_PROTNONE: the global bit, of an entry that is not present
SPECIAL = 1 << 9  # _PAGE_SPECIAL: raw page frames and the zero page, counted nowhere
SAVED_DIRTY = 1 << 58  # _PAGE_SAVED_DIRTY: where a read-only entry keeps its dirty bit (6.6)
# _PAGE_DEVMAP: persistent memory (DAX) that nobody counts, up to 6.16. SAVED_DIRTY took its place in 6.6, and it moved.
DEVMAP, DEVMAP_MOVED = 1 << 58, 1 << 57
NO_EXECUTE = 1 << 63
ADDRESS_MASK = 0x000F_FFFF_FFFF_F000
