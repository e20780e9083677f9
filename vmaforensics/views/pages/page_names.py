"""What a page is and what its flags are called, for people.

Flags are enumerators of ``enum pageflags`` (include/linux/page-flags.h); their numbers come from the kernel's
own types. Of names for one bit, that of the flag itself is taken, not that of a special use of it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vmaforensics.columns.types import U8
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.mapped_pages import Pages
    from vmaforensics.views.pages.ptes import Ptes

_FLAGS = (
    "locked",
    "error",
    "writeback",
    "referenced",
    "uptodate",
    "dirty",
    "lru",
    "head",
    "active",
    "waiters",
    "workingset",
    "slab",
    "owner_priv_1",
    "owner_2",
    "arch_1",
    "reserved",
    "private",
    "private_2",
    "mappedtodisk",
    "reclaim",
    "swapbacked",
    "unevictable",
    "mlocked",
    "uncached",
    "hwpoison",
    "young",
    "idle",
    "arch_2",
    "arch_3",
    "dropbehind",
    "swapcache",
)


class Owner(IntEnum):
    """What the page that an entry leads to belongs to."""

    NONE = 0
    UNKNOWN = 1
    ZERO_PAGE = 2
    RAW_FRAME = 3
    SLAB_OR_TABLE = 4
    HUGETLB = 5
    KSM = 6
    ANONYMOUS = 7
    SHMEM = 8
    FILE = 9
    KERNEL = 10

    @property
    def label(self) -> str:
        """The owner in words."""
        return _OWNERS[self]


_OWNERS = (
    "-",
    "unknown",
    "zero page",
    "raw frame",
    "slab or table",
    "hugetlb",
    "KSM",
    "anonymous",
    "shmem",
    "file",
    "kernel",
)


def page_flag_names(kernel: Kernel) -> dict[int, str]:
    """Name of each bit of ``page.flags`` that this kernel has, without ``PG_``."""
    names: dict[int, str] = {}
    last = kernel.types.constant("__NR_PAGEFLAGS") or 64
    for name in _FLAGS:
        bit = kernel.types.constant(f"PG_{name}")
        if bit is not None and bit < last:
            names.setdefault(bit, name)
    return names


def set_flags(names: dict[int, str], word: int, last: int) -> tuple[str, ...]:
    """The flags set in ``word``; bits from ``last`` on hold node, zone and the like (page-flags-layout.h)."""
    return tuple(names.get(bit, f"bit {bit}") for bit in range(last) if word >> bit & 1)


def zero_frame(kernel: Kernel) -> int | None:
    """Page frame of the page of zeros that reads of untouched memory get (empty_zero_page)."""
    at = kernel.symbols.get("empty_zero_page")
    if at is None or at % kernel.arch.page_size:
        return None
    pa, _, mapped = kernel.space.translate(np.array([at], np.uint64))
    return int(pa[0]) >> kernel.arch.page_shift if mapped[0] else None


def huge_zero_frame(kernel: Kernel) -> int | None:
    """Frame of the huge page of zeros, which is mapped without being counted."""
    return kernel.variable("huge_zero_pfn", 8)


def owners(kernel: Kernel, ptes: Ptes, pages: Pages) -> U8:
    """:class:`Owner` of the page that each of ``ptes``, some entries of a view with these ``pages``, leads to."""
    mapped = ptes.maps_frames()
    counted = mapped & (ptes.page_row >= 0)
    rows = ptes.page_row[counted]
    named = pages.mapping[rows] != 0
    owner = np.zeros(len(ptes), np.uint8)
    owner[counted] = np.select(
        [
            ~pages.ok[rows],
            pages.kernel_own[rows],
            pages.hugetlb[rows],
            pages.ksm[rows],
            pages.anon[rows],
            pages.swapbacked[rows] & named,
            named,
        ],
        [
            Owner.UNKNOWN,
            Owner.SLAB_OR_TABLE,
            Owner.HUGETLB,
            Owner.KSM,
            Owner.ANONYMOUS,
            Owner.SHMEM,
            Owner.FILE,
        ],
        Owner.KERNEL,
    )
    uncounted = mapped & ptes.special
    owner[uncounted] = Owner.RAW_FRAME
    zero = zero_frame(kernel)
    if zero is not None:
        owner[uncounted & (ptes.pfn == np.uint64(zero))] = Owner.ZERO_PAGE
    huge_zero = huge_zero_frame(kernel)
    # Without its variable: what is counted nowhere though its entry does not say so (up to 6.16).
    huge = ~kernel.arch.special(ptes.entry) if huge_zero is None else ptes.pfn == np.uint64(huge_zero)
    owner[uncounted & (ptes.level == 2) & huge] = Owner.ZERO_PAGE
    return owner
