"""Objects that a kernel with KASAN holds back: freed, but on no free list yet, so that a late use of them is caught.

mm/kasan/quarantine.c keeps them, up to a thirty-second of memory. What tells them from allocated objects is KASAN's
shadow, by which the kernel's code itself is kept from using them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64, Bools
    from vmaforensics.kernel.kernel import Kernel

# The first byte of an object that was freed, without and with a note of who did it: KASAN_SLAB_FREE and
# KASAN_SLAB_FREETRACK, later KASAN_SLAB_FREE_META (mm/kasan/kasan.h). KASAN_SLAB_REDZONE: of one of a new slab that
# nobody has been given yet (__kasan_poison_slab, __kasan_slab_alloc).
_FREED = (0xFB, 0xFA, 0xFC)


class Shadow(NamedTuple):
    """What KASAN says of objects: arrays of one length."""

    freed: Bools
    unread: Bools  # the shadow is not in the image


def has_shadow(kernel: Kernel) -> bool:
    """Is it a kernel with KASAN?"""
    return kernel.has("kmem_cache", "kasan_info")


def shadow_of_objects(kernel: Kernel, addresses: U64) -> Shadow:
    """What the shadow of a kernel that has one says of the objects at ``addresses``."""
    shadow, ok = kernel.space.gather(kernel.arch.shadow_of(addresses), 1)
    return Shadow(ok & np.isin(shadow[:, 0], np.array(_FREED, np.uint8)), ~ok)
