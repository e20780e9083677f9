"""What leaf entries mean: present, without access, swapped, or another kind of entry.

Encodings: arch/x86/include/asm/pgtable.h, pgtable_64.h and pgtable-invert.h, include/linux/swapops.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import LeafStates, Protection, PteState
from vmaforensics.arch.x86_64 import bits
from vmaforensics.arch.x86_64.paging import target
from vmaforensics.arch.x86_64.swap_entries import swap_type

if TYPE_CHECKING:
    from vmaforensics.arch.page_tables import Leaves
    from vmaforensics.columns.types import U64, Bools

_PROTECTIONS = (
    (bits.PRESENT, "present"),
    (bits.WRITE, "writable"),
    (bits.USER, "user"),
    (bits.NO_EXECUTE, "no execute"),
)
_NO_ATTRIBUTES = bits.ACCESSED | bits.DIRTY | bits.SAVED_DIRTY


def decode(leaves: Leaves, swap_types: int, mask: int, uncounted: int) -> LeafStates:
    """pte_present, pte_protnone, is_swap_pte, pte_pfn, and pte_special or pmd_devmap, of every leaf entry.

    ``mask`` takes the physical address out of an entry; ``uncounted`` are the bits of those that nobody counts.
    """
    entry = leaves.entry
    pfn = target(entry, leaves.level, mask) >> np.uint64(bits.PAGE_SHIFT)
    states = LeafStates(state=np.full(len(leaves), PteState.PRESENT, np.uint8), pfn=pfn, special=has(entry, uncounted))
    # Nearly all are present.
    rest = np.flatnonzero(~has(entry, bits.PRESENT))
    if len(rest):
        entry, level = entry[rest], leaves.level[rest]
        none = has(entry, bits.PROTNONE)
        swapped = ~none & (swap_type(entry) < np.uint64(swap_types))
        states.state[rest] = np.select([none, swapped], [PteState.PROTNONE, PteState.SWAP], PteState.OTHER)
        # L1TF: an entry that is not present holds its address inverted (protnone_mask).
        upright = target(~entry, level, mask) >> np.uint64(bits.PAGE_SHIFT)
        pfn[rest] = np.where(none, upright, np.uint64(0))
        states.special[rest] &= none
    return states


def has(entry: U64, wanted: int) -> Bools:
    """Has each entry any of the bits ``wanted``?"""
    found: Bools = (entry & np.uint64(wanted)) != 0
    return found


def attributes(entry: U64, mask: int) -> U64:
    """Entries without address, accessed and dirty bits: those are not what makes pages differ."""
    found: U64 = entry & ~np.uint64(_NO_ATTRIBUTES | mask)
    return found


def protection(page_prot: U64) -> Protection:
    """What a ``vm_page_prot`` (pgprot_t) allows. Without access it is not present, and has no NX bit."""
    return Protection(
        present=has(page_prot, bits.PRESENT),
        write=has(page_prot, bits.WRITE),
        execute=~has(page_prot, bits.NO_EXECUTE),
    )


def protection_words(page_prot: int) -> tuple[str, ...]:
    """The bits of a ``vm_page_prot`` that matter for access, in words."""
    return tuple(word for bit, word in _PROTECTIONS if page_prot & bit)
