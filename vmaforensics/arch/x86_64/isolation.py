"""The second copy of each top-level page table that page-table isolation keeps (arch/x86/mm/pti.c).

A pgd is two pages: the kernel's copy, and behind it the one a CPU uses in user mode. ``__pti_set_user_pgtbl`` writes
each entry of the user half into both, and sets NX in the kernel's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import IsolatedEntries, Walk
from vmaforensics.arch.x86_64 import bits
from vmaforensics.arch.x86_64.entries import has
from vmaforensics.arch.x86_64.paging import walk
from vmaforensics.columns.lookup import distinct

if TYPE_CHECKING:
    from vmaforensics.arch.page_tables import Leaves, LowestTables, TablePages
    from vmaforensics.arch.reading import PhysicalReader
    from vmaforensics.arch.x86_64.paging import Bounds
    from vmaforensics.columns.types import U64, Bools

PAGE = 1 << bits.PAGE_SHIFT  # PTI_USER_PGTABLE_MASK: the user's copy lies a page above the kernel's (pgtable.h)
# The accessed bit is set by the CPU in the copy it walks.
_IGNORED = np.uint64(bits.NO_EXECUTE | bits.ACCESSED)


def is_isolated(memory: PhysicalReader, root: int) -> bool | None:
    """Does the page behind the kernel's top-level table map something of the kernel? None if it is not in the dump."""
    data, ok = memory.gather(np.array([root + PAGE], np.uint64), PAGE)
    return bool(has(data.view("<u8")[0, bits.USER_SLOTS :], bits.PRESENT).any()) if ok[0] else None


def differing_entries(memory: PhysicalReader, roots: U64, levels: int) -> IsolatedEntries:
    """Entries of the user half that the two copies have differently, NX aside."""
    both, ok = memory.gather(roots, 2 * PAGE)
    rows = np.flatnonzero(ok)
    words = both[ok].view("<u8").reshape(-1, 2, bits.ENTRIES)[:, :, : bits.USER_SLOTS]
    row, slot = np.nonzero(((words[:, 0] ^ words[:, 1]) & ~_IGNORED) != 0)
    return IsolatedEntries(
        owner=rows[row].astype(np.int32),
        slot=slot.astype(np.int32),
        va=slot.astype(np.uint64) << np.uint64(_shift(levels)),
        entry=words[row, 0, slot],
        user=words[row, 1, slot],
        where=roots[rows[row]] + np.uint64(PAGE) + np.uint64(8) * slot.astype(np.uint64),
    )


def walk_user_only(memory: PhysicalReader, roots: U64, differing: IsolatedEntries, bounds: Bounds) -> Walk:
    """What is in the user's copies alone, without the top-level tables; owners count ``roots``.

    ``bounds`` are those of a walk of the user half.
    """
    alone = has(differing.user, bits.PRESENT) & ~has(differing.entry, bits.PRESENT)
    keys = differing.owner[alone].astype(np.int64) * bits.USER_SLOTS + differing.slot[alone]
    rows = distinct(differing.owner[alone])
    found = walk(memory, roots[rows] + np.uint64(PAGE), bounds)
    shift = np.uint64(_shift(bounds.levels))

    def beneath(table: Leaves | TablePages | LowestTables) -> Bools:
        slot = (table.va >> shift).astype(np.int64)
        return np.isin(rows[table.owner].astype(np.int64) * bits.USER_SLOTS + slot, keys)

    leaves, unusual, tables, repeated, lowest = (
        found.leaves.take(beneath(found.leaves) & (found.leaves.level < bounds.levels)),
        found.unusual.take(beneath(found.unusual)),
        found.tables.take(beneath(found.tables) & (found.tables.level < bounds.levels)),
        found.repeated.take(beneath(found.repeated) & (found.repeated.level < bounds.levels)),
        found.lowest.take(beneath(found.lowest)),
    )
    return Walk(
        leaves=leaves.replace(owner=rows[leaves.owner]),
        tables=tables.replace(owner=rows[tables.owner]),
        repeated=repeated.replace(owner=rows[repeated.owner]),
        truncated=found.truncated,
        lowest=lowest.replace(owner=rows[lowest.owner]),
        unusual=unusual.replace(owner=rows[unusual.owner]),
    )


def _shift(levels: int) -> int:
    return bits.PAGE_SHIFT + bits.TABLE_SHIFT * (levels - 1)
