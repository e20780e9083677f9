"""Virtual addresses: the two halves, and what the kernel maps at fixed places.

Documentation/arch/x86/x86_64/mm.rst has the map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.x86_64.bits import ENTRIES, PAGE_SHIFT, TABLE_SHIFT

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64, Bools

USER_BITS = 57  # no address has more, whichever half it is in
_KERNEL_START = 0xFF000000_00000000  # the upper half of 57 bits (Intel SDM vol. 1, 3.3.7.1)
_UPPER_HALF = 1 << 63

# The espfix area (arch/x86/kernel/espfix_64.c) maps the same few pages 65,536 times; nothing else is there.
_ESPFIX = (0xFFFFFF00_00000000, 0xFFFFFF7F_FFFFFFFF)

# A byte of shadow for eight of memory (CONFIG_KASAN_SHADOW_OFFSET of arch/x86/Kconfig, with four levels and with five).
_SHADOW = 0xDFFFFC00_00000000
_SHADOW_SCALE = 3


def kernel_pointer(values: U64) -> Bools:
    """Can each value be an address in the kernel half? 57 bits at most."""
    found: Bools = values >= np.uint64(_KERNEL_START)
    return found


def is_kernel_address(value: int) -> bool:
    """Has the address the sign bit set?"""
    return value >= _UPPER_HALF


def espfix_slots(levels: int) -> tuple[int, ...]:
    """Slots of a top-level table that hold nothing but the espfix area."""
    shift = PAGE_SHIFT + TABLE_SHIFT * (levels - 1)
    return (_ESPFIX[0] >> shift & ENTRIES - 1,) if levels == 4 else ()  # with five it shares a slot


def in_espfix(values: U64) -> Bools:
    """Does each address lie in the espfix area?"""
    found: Bools = (values >= np.uint64(_ESPFIX[0])) & (values <= np.uint64(_ESPFIX[1]))
    return found


def canonical(values: U64, levels: int) -> Bools:
    """Do the bits that are not translated all equal the highest that is (Intel SDM vol. 1, 3.3.7.1)?"""
    shift = np.uint64(PAGE_SHIFT + TABLE_SHIFT * levels - 1)
    above = values >> shift
    found: Bools = (above == 0) | (above == np.uint64((1 << 64) - 1) >> shift)
    return found


def shadow_of(places: U64) -> U64:
    """Address of the byte of KASAN's shadow for each address (kasan_mem_to_shadow, include/linux/kasan.h)."""
    with np.errstate(over="ignore"):
        found: U64 = (places >> np.uint64(_SHADOW_SCALE)) + np.uint64(_SHADOW)
    return found
