"""Bits of page-table entries that say whether a page is encrypted, and are no part of its address.

AMD SME and SEV set the C-bit, 47 or 51 (CPUID 0x8000001F), in every entry that leads to private memory
(``sme_me_mask``). ``physical_mask`` has neither that bit nor the shared bit of an Intel TDX guest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.x86_64 import bits

if TYPE_CHECKING:
    from vmaforensics.arch.interface import BootFacts
    from vmaforensics.arch.reading import PhysicalReader

_C_BITS = (1 << 47, 1 << 51)
_LEAST = (1 << 40) - 1  # every CPU has these bits of an address; a mask without them is none
_ENOUGH = 2  # entries that have to agree: image and direct map are apart in any kernel


def address_mask(facts: BootFacts) -> int:
    """What takes the address out of an entry: by VMCOREINFO, else by the kernel's own variables."""
    mask = bits.ADDRESS_MASK & ~(facts.number("sme_mask") or 0)
    encrypted = facts.word("sme_me_mask", 8)
    if encrypted in _C_BITS:
        mask &= ~encrypted
    physical = facts.word("physical_mask", 8)
    if physical is not None and physical & _LEAST == _LEAST:
        mask &= physical
    return mask


def mask_of_tables(memory: PhysicalReader, root: int, mask: int) -> int:
    """``mask`` without the C-bit, if all entries of the kernel half of the top-level table at ``root`` have it.

    No machine has so much memory that it would be part of an address.
    """
    data, ok = memory.gather(np.array([root], np.uint64), 8 * bits.ENTRIES)
    entries = data.view("<u8")[0, bits.USER_SLOTS :]
    entries = entries[(entries & np.uint64(bits.PRESENT)) != 0]
    if not ok[0] or len(entries) < _ENOUGH:
        return mask
    common = int(np.bitwise_and.reduce(entries))
    found = [bit for bit in _C_BITS if common & mask & bit]
    return mask & ~found[0] if len(found) == 1 else mask
