"""Swap entries: 5 bits of type on top, then the offset, kept inverted because of L1TF.

``__swp_type``, ``__swp_offset`` and ``__swp_entry`` of arch/x86/include/asm/pgtable_64.h; below the offset are
soft-dirty, userfaultfd and exclusive bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64

_TYPE_BITS = 5  # SWP_TYPE_BITS
_TYPE_SHIFT = 64 - _TYPE_BITS
_OFFSET_SHIFT = 14  # SWP_OFFSET_SHIFT: bits to drop below, when those of the type have been shifted out
_PLACE = (1 << 64) - (1 << (_OFFSET_SHIFT - _TYPE_BITS))


def swap_type(entry: U64) -> U64:
    """Number of the swap file; more than there are swap files for migration, device and marker entries."""
    found: U64 = entry >> np.uint64(_TYPE_SHIFT)
    return found


def swap_offset(entry: U64) -> U64:
    """Page of the swap file."""
    found: U64 = (~entry << np.uint64(_TYPE_BITS)) >> np.uint64(_OFFSET_SHIFT)
    return found


def swap_place(entry: U64) -> U64:
    """Type and offset as they stand in the entry, without the bits below."""
    found: U64 = entry & np.uint64(_PLACE)
    return found
