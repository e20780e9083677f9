"""How page-table entries of x86-64 say what they are, present or not.

Encodings: arch/x86/include/asm/pgtable_64.h and pgtable-invert.h, include/linux/swapops.h.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import U8, U64, Bools
from vmaforensics.kernel.space import paging

if TYPE_CHECKING:
    from vmaforensics.columns.types import I8
    from vmaforensics.kernel.kernel import Kernel

_PROTNONE = 1 << 8  # the global bit, of an entry that is not present
_SPECIAL = 1 << 9  # _PAGE_SPECIAL: raw page frames and the zero page, counted nowhere
_ACCESSED, _DIRTY = 1 << 5, 1 << 6  # Intel SDM vol. 3, 4.5
_SAVED_DIRTY = 1 << 58  # _PAGE_SAVED_DIRTY: where a read-only entry keeps its dirty bit (6.6)
SWAP_TYPE_SHIFT = 59
_TYPE_BITS = 5
_OFFSET = 14  # SWP_OFFSET_SHIFT: bits to drop below, when those of the type have been shifted out


class PteState(IntEnum):
    """What a leaf entry is."""

    PRESENT = 0
    PROTNONE = 1  # present for the kernel, not for the CPU: PROT_NONE and NUMA hinting
    SWAP = 2
    OTHER = 3  # migration, device-private, poisoned and marker entries


@table()
class EntryMeanings(Table):
    """What leaf entries mean, in their order."""

    state: U8  # PteState
    pfn: U64  # first frame mapped; 0 if the entry names none
    special: Bools  # maps a raw page frame or the zero page, which nobody counts (pte_special)


def decode(kernel: Kernel, entry: U64, level: I8, swap_types: int) -> EntryMeanings:
    """What leaf entries of each ``level`` mean. Types of swap entries from ``swap_types`` on are no swap."""
    present = (entry & np.uint64(paging.PRESENT)) != 0
    none = ~present & ((entry & np.uint64(_PROTNONE)) != 0)
    swapped = ~present & ~none & (swap_type(entry) < np.uint64(swap_types))
    states = [PteState.PRESENT, PteState.PROTNONE, PteState.SWAP]
    # L1TF: an entry that is not present holds its address inverted (protnone_mask).
    pfn = paging.target(np.where(none, ~entry, entry), level, kernel.pte_mask) >> np.uint64(12)
    return EntryMeanings(
        state=np.select([present, none, swapped], states, PteState.OTHER).astype(np.uint8),
        pfn=np.where(present | none, pfn, np.uint64(0)),
        special=(present | none) & special(entry),
    )


def special(entry: U64) -> Bools:
    """pte_special: the bit alone."""
    found: Bools = (entry & np.uint64(_SPECIAL)) != 0
    return found


def accessed(entry: U64) -> Bools:
    """pte_young."""
    found: Bools = (entry & np.uint64(_ACCESSED)) != 0
    return found


def dirty(kernel: Kernel, entry: U64) -> Bools:
    """pte_dirty."""
    # struct ptdesc and shadow stacks, for which dirty bits are moved, both came with 6.6.
    moved = _SAVED_DIRTY if kernel.types.struct("ptdesc") is not None else 0
    found: Bools = (entry & np.uint64(_DIRTY | moved)) != 0
    return found


def swap_type(entry: U64) -> U64:
    """Number of the swap file that each swap entry names (__swp_type)."""
    found: U64 = entry >> np.uint64(SWAP_TYPE_SHIFT)
    return found


def swap_offset(entry: U64) -> U64:
    """Page of the swap file that each swap entry names; kept inverted because of L1TF (__swp_offset)."""
    found: U64 = (~entry << np.uint64(_TYPE_BITS)) >> np.uint64(_OFFSET)
    return found


def swap_place(entry: U64) -> U64:
    """Each swap entry without soft-dirty bits and the like: equal where type and offset are."""
    place = (1 << 64) - (1 << (_OFFSET - _TYPE_BITS))
    found: U64 = entry & np.uint64(place)
    return found
