"""The kernel half of top-level page tables: one and the same in every process but for few slots.

``pgd_ctor`` (arch/x86/mm/pgtable.c) copies it from ``swapper_pg_dir``, with page-table isolation that of the user's
copy too (clone_pgd_range); ``sync_global_pgds`` (arch/x86/mm/init_64.c) keeps it the same. Slots behind the user half
are a hole (Documentation/arch/x86/x86_64/mm.rst), then, with isolation, the process's own local descriptor table
(map_ldt_struct, arch/x86/kernel/ldt.c).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.arch.page_tables import ALLOW_EXECUTE, ALLOW_USER, ALLOW_WRITE, KernelEntries, KernelHalves
from vmaforensics.arch.x86_64 import bits
from vmaforensics.arch.x86_64.entries import has
from vmaforensics.arch.x86_64.isolation import PAGE
from vmaforensics.arch.x86_64.paging import walk
from vmaforensics.arch.x86_64.special_pages import in_fixed_pages

if TYPE_CHECKING:
    from vmaforensics.arch.page_tables import Leaves, Walk
    from vmaforensics.arch.reading import PhysicalReader
    from vmaforensics.arch.x86_64.paging import Bounds
    from vmaforensics.columns.types import U64, Bools

LDT_SLOT = 272  # LDT_PGD_ENTRY: -240, with four levels and with five
_IGNORED = np.uint64(bits.ACCESSED | bits.DIRTY)  # set by the CPU, or meaning nothing, in entries that lead to tables


class Shape(NamedTuple):
    """What top-level tables of a kernel are like."""

    levels: int
    isolation: bool  # each is two tables


def kernel_entries(memory: PhysicalReader, roots: U64, reference: int, shape: Shape, own_tables: Bools) -> KernelHalves:
    """The kernel half of the tables at ``roots`` beside that at ``reference``, both physical addresses."""
    copies = 2 if shape.isolation else 1
    kernel, known = memory.gather(np.array([reference], np.uint64), copies * PAGE)
    if not known[0]:
        return KernelHalves(KernelEntries.zeros(0), np.zeros(len(roots), np.int64), 0)
    both, ok = memory.gather(roots, copies * PAGE)
    half = slice(bits.USER_SLOTS, bits.ENTRIES)
    theirs = both.view("<u8").reshape(-1, copies, bits.ENTRIES)[:, :, half]
    expected = kernel.view("<u8").reshape(copies, bits.ENTRIES)[:, half]
    differs = ((theirs ^ expected) & ~_IGNORED) != 0
    differs[~ok] = False
    row, copy, at = np.nonzero(differs)
    slot = at + bits.USER_SLOTS
    shift = bits.PAGE_SHIFT + bits.TABLE_SHIFT * (shape.levels - 1)
    upper = np.uint64((-1 << (shift + bits.TABLE_SHIFT)) % (1 << 64))
    entries = KernelEntries.of(
        len(row),
        owner=row,
        slot=slot,
        va=upper | slot.astype(np.uint64) << np.uint64(shift),
        entry=theirs[row, copy, at],
        expected=expected[copy, at],
        where=roots[row] + (copy * PAGE + 8 * slot).astype(np.uint64),
        user_copy=copy > 0,
        own=(slot == LDT_SLOT) & shape.isolation & own_tables[row],
    )
    alike = ((theirs[:, 0] != 0) & ~differs[:, 0] & ok[:, None]).sum(axis=1)
    return KernelHalves(entries, alike.astype(np.int64), int((expected[0] != 0).sum()))


def walk_entries(memory: PhysicalReader, entries: KernelEntries, bounds: Bounds) -> Walk:
    """What is under top-level ``entries``, whose rows are the owners; ``bounds`` are those of the kernel half.

    As in any walk, the no-execute bit of the top level is disregarded.
    """
    rows = np.flatnonzero(has(entries.entry, bits.PRESENT))
    below = replace(bounds, levels=bounds.levels - 1, first=0, last=bits.ENTRIES, below=True)
    found = walk(memory, entries.entry[rows] & np.uint64(bounds.mask), below)
    allow = np.full(len(entries), ALLOW_EXECUTE, np.uint8)
    allow[has(entries.entry, bits.WRITE)] |= ALLOW_WRITE
    allow[has(entries.entry, bits.USER)] |= ALLOW_USER
    for part in (found.leaves, found.tables, found.repeated):
        part.owner[:] = rows[part.owner]
        part.va[:] += entries.va[part.owner]
    found.leaves.allow[:] &= allow[found.leaves.owner]
    return found


def for_user_mode(leaves: Leaves) -> Leaves:
    """Those of ``leaves`` of the kernel half that user mode can use, but for a vsyscall page as the kernel maps it.

    set_vsyscall_pgtable_user_bits and map_vsyscall (arch/x86/entry/vsyscall): readable, for emulation.
    """
    used = has_user(leaves)
    harmless = in_fixed_pages(leaves.va) & ((leaves.allow & (ALLOW_WRITE | ALLOW_EXECUTE)) == 0)
    return leaves.take(used & ~harmless)


def has_user(leaves: Leaves) -> Bools:
    """Which present leaves user mode can use."""
    found: Bools = ((leaves.allow & ALLOW_USER) != 0) & has(leaves.entry, bits.PRESENT)
    return found
