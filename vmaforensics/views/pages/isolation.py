"""The second copy of each top-level page table that page-table isolation keeps (arch/x86/mm/pti.c).

A pgd is two pages: the kernel's copy, and behind it the one a CPU uses in user mode. ``__pti_set_user_pgtbl`` writes
each entry of the user half into both, and sets NX in the kernel's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.kernel.space import paging

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel

ISOLATED = np.dtype(
    [
        ("mm_row", np.int32),
        ("slot", np.int32),  # of the top-level table
        ("va", np.uint64),  # first address it maps
        ("entry", np.uint64),  # in the kernel's copy
        ("user", np.uint64),  # in the user's copy
        ("where", np.uint64),  # physical address of the latter
    ]
)

_PAGE = np.uint64(4096)
_USER_SLOTS = 256
# The accessed bit is set by the CPU in the copy it walks.
_IGNORED = np.uint64(paging.NO_EXECUTE | 1 << 5)


def differing_entries(kernel: Kernel, roots: NDArray[np.uint64], usable: NDArray[np.bool_]) -> NDArray[np.void]:
    """Entries of the user half that the two copies have differently, NX aside; dtype ``ISOLATED``.

    ``roots`` are physical addresses of the kernel's copies by row of the mms; nothing without page-table isolation.
    """
    if not kernel.identity.pti:
        return np.zeros(0, ISOLATED)
    rows = np.flatnonzero(usable)
    both, ok = kernel.memory.gather(roots[rows], 8192)
    rows, words = rows[ok], both[ok].view("<u8").reshape(-1, 2, 512)[:, :, :_USER_SLOTS]
    row, slot = np.nonzero(((words[:, 0] ^ words[:, 1]) & ~_IGNORED) != 0)
    found = np.zeros(len(row), ISOLATED)
    found["mm_row"], found["slot"] = rows[row], slot
    found["va"] = slot.astype(np.uint64) << np.uint64(_shift(kernel))
    found["entry"], found["user"] = words[row, 0, slot], words[row, 1, slot]
    found["where"] = roots[rows[row]] + _PAGE + np.uint64(8) * slot.astype(np.uint64)
    return found


def span(kernel: Kernel) -> int:
    """Bytes that an entry of a top-level table maps."""
    return 1 << _shift(kernel)


def walk_user_only(kernel: Kernel, roots: NDArray[np.uint64], differing: NDArray[np.void]) -> paging.Walk:
    """What hangs in the user's copy alone, as ``paging.walk`` gives it; ``owner`` is the row of the mm."""
    alone = differing[
        ((differing["user"] & np.uint64(paging.PRESENT)) != 0) & ((differing["entry"] & np.uint64(paging.PRESENT)) == 0)
    ]
    rows = np.unique(alone["mm_row"])
    found = paging.walk(
        kernel.memory,
        roots[rows] + _PAGE,
        levels=kernel.identity.levels,
        last=_USER_SLOTS,
        mask=kernel.pte_mask,
        everything=True,
    )
    keys = alone["mm_row"].astype(np.int64) * _USER_SLOTS + alone["slot"]
    kept = []
    for table in (found.leaves, found.tables, found.repeated):
        table["owner"] = rows[table["owner"]]
        slot = (table["va"] >> np.uint64(_shift(kernel))).astype(np.int64)
        mine = np.isin(table["owner"].astype(np.int64) * _USER_SLOTS + slot, keys)
        kept.append(table[mine & (table["level"] < kernel.identity.levels)])
    return paging.Walk(leaves=kept[0], tables=kept[1], repeated=kept[2], truncated=found.truncated)


def _shift(kernel: Kernel) -> int:
    return 12 + 9 * (kernel.identity.levels - 1)
