"""What a walk of page tables gives, whatever the CPU: leaf entries, tables, and what each entry means."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I8, I32, I64, U8, U64, Bools, U64Wide

# What an entry allows, the tables above it included.
ALLOW_WRITE, ALLOW_USER, ALLOW_EXECUTE = 1, 2, 4


class PteState(IntEnum):
    """What a leaf entry is."""

    PRESENT = 0
    PROTNONE = 1  # present for the kernel, not for the CPU: PROT_NONE and NUMA hinting
    SWAP = 2
    OTHER = 3  # migration, device-private, poisoned and marker entries


@table()
class Leaves(Table):
    """A row per leaf entry that is not empty, a level after the other, from the top; within a level by table.

    ``level`` counts from 1, the entries that map a single page.
    """

    va: U64  # first address it maps
    entry: U64  # the entry as it stands in the table
    where: U64  # physical address of the entry
    owner: I32  # position of the top-level table in the roots of the walk
    level: I8
    allow: U8  # ALLOW_* over the entry and all tables above it


@table()
class TablePages(Table):
    """A row per page table that a walk entered, a level after the other, from the top."""

    pa: U64  # physical address of the table
    va: U64  # first address under it
    owner: I32  # position of the top-level table in the roots of the walk
    level: I8  # of its entries
    ok: Bools  # could it be read?


@table()
class LowestTables(Table):
    """A row per page table of the lowest level that a walk came to: what is needed to read its entries later."""

    pa: U64  # physical address of the table
    va: U64  # first address under it
    owner: I32  # position of the top-level table in the roots of the walk
    allow: U8  # ALLOW_* over all tables above it


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """What a walk met.

    ``lowest``: where the walk does not read the tables of the lowest level, these tables; ``leaves`` are then those
    above them, and in ``tables`` they count as read. ``repeated``: where a table came up again at the same level under
    the same root; it was not entered again, so that tables that lead to themselves cost no more than others.
    ``unusual``: of a walk of the user half, the entries that lead to tables, which were entered, and have bits that the
    kernel gives no such entry, or lack some that it gives all; what user mode may use is not among these.
    ``truncated``: the bound on tables cut the walk short.
    """

    leaves: Leaves
    tables: TablePages
    repeated: TablePages
    truncated: bool
    lowest: LowestTables = field(default_factory=lambda: LowestTables.zeros(0))
    unusual: Leaves = field(default_factory=lambda: Leaves.zeros(0))

    @property
    def unreadable(self) -> TablePages:
        """The tables that could not be read."""
        return self.tables.take(~self.tables.ok)


class LowestEntries(NamedTuple):
    """What tables of the lowest level hold."""

    leaves: Leaves  # those of each table side by side
    counts: I64  # of each table
    ok: Bools  # could each table be read?
    # Of each table two words, if they were asked for: equal where all entries are, but for what a CPU sets by itself in
    # present ones (accessed, dirty). They hold for this run alone.
    digests: U64Wide | None = None


@table()
class LeafStates(Table):
    """What each of a walk's leaf entries means, in their order."""

    state: U8  # PteState
    pfn: U64  # first frame mapped; 0 if the entry names none
    special: Bools  # maps a raw page frame or the zero page, which nobody counts (pte_special)


class Protection(NamedTuple):
    """What each ``vm_page_prot`` says: arrays of one length."""

    present: Bools
    write: Bools
    execute: Bools


@table()
class IsolatedEntries(Table):
    """Entries of top-level tables of which a second copy, for user mode, says otherwise; by owner and slot."""

    owner: I32  # position of the table in the roots that were compared
    slot: I32  # of the top-level table
    va: U64  # first address it maps
    entry: U64  # in the kernel's copy
    user: U64  # in the user's copy
    where: U64  # physical address of the latter


@table()
class KernelEntries(Table):
    """Entries of the kernel half of top-level tables that are not as in the kernel's own table, by owner and slot."""

    owner: I32  # position of the table in the roots that were compared
    slot: I32  # of the top-level table
    va: U64  # first address it maps
    entry: U64
    expected: U64  # in the kernel's table
    where: U64  # physical address of the entry
    user_copy: Bools  # in the table that user mode runs on (page-table isolation)
    own: Bools  # a slot in which processes may have entries of their own, and this one may


class KernelHalves(NamedTuple):
    """The kernel half of top-level tables beside the kernel's own."""

    entries: KernelEntries  # that differ
    alike: I64  # entries that each table has in common with the kernel's; 0 where it could not be read
    expected: int  # entries that the kernel's has; 0 where it could not be read
