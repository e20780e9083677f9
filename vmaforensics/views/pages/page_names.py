"""What a page is and what its flags are called, for people.

Flags are enumerators of ``enum pageflags`` (include/linux/page-flags.h); their numbers come from the kernel's
own types. Of names for one bit, that of the flag itself is taken, not that of a special use of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.views.pages.page_tables import PteState

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views

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

OWNERS = (
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


def flags_told(names: dict[int, str], word: int, last: int) -> tuple[str, ...]:
    """The flags set in ``word``; bits from ``last`` on hold node, zone and the like (page-flags-layout.h)."""
    return tuple(names.get(bit, f"bit {bit}") for bit in range(last) if word >> bit & 1)


def zero_frame(kernel: Kernel) -> int | None:
    """Page frame of the page of zeros that reads of untouched memory get (empty_zero_page)."""
    at = kernel.symbols.get("empty_zero_page")
    if at is None or at & 0xFFF:
        return None
    pa, _, mapped = kernel.space.translate(np.array([at], np.uint64))
    return int(pa[0]) >> 12 if mapped[0] else None


def owners(kernel: Kernel, views: Views, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
    """What the page of each of ``rows`` of the page-table entries belongs to: index into :data:`OWNERS`."""
    view = views.page_tables
    assert view is not None
    ptes = view.ptes[rows]
    kind = np.zeros(len(rows), np.uint8)
    present = ptes["state"] <= PteState.PROTNONE
    if len(view.pages.rows):
        page = view.pages.rows[ptes["page"]]
        led = present & (ptes["page"] >= 0)
        kind[led] = np.select(
            [one[led] for one in (~page["ok"], page["slab"], page["hugetlb"], page["ksm"], page["anon"])]
            + [(page["swapbacked"] & (page["mapping"] != 0))[led], (page["mapping"] != 0)[led]],
            [1, 4, 5, 6, 7, 8, 9],
            10,
        )
    zero = zero_frame(kernel)
    # A huge page that is marked as counted nowhere, in memory that has struct pages, is the huge zero page.
    zeros = (ptes["pfn"] == np.uint64(zero)) if zero is not None else np.zeros(len(rows), np.bool_)
    huge = (ptes["level"] == 2) & ((ptes["entry"] & np.uint64(1 << 9)) == 0)
    kind[present & ptes["special"]] = 3
    kind[present & ptes["special"] & (zeros | huge)] = 2
    return kind
