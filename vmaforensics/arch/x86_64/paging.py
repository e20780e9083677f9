"""Page tables, walked a level at a time for any number of roots at once (Intel SDM vol. 3, 4.5).

A level is one gather: the tables' addresses in, 512 entries each out.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import (
    ALLOW_EXECUTE,
    ALLOW_USER,
    ALLOW_WRITE,
    Leaves,
    LowestEntries,
    LowestTables,
    TablePages,
    Walk,
)
from vmaforensics.arch.x86_64.bits import (
    ACCESSED,
    ADDRESS_MASK,
    DIRTY,
    ENTRIES,
    LARGE,
    NO_EXECUTE,
    PAGE_SHIFT,
    PRESENT,
    TABLE_SHIFT,
    USER,
    WRITE,
)
from vmaforensics.columns.lookup import sort_order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.arch.reading import PhysicalReader
    from vmaforensics.columns.types import I8, I32, U8, U32, U64, Bools, U64Wide

_BATCH = 1024  # tables read at once: 4 MiB
_LARGEST_LEAF = 3  # PUD: 1 GiB
_TABLE = PRESENT | WRITE | DIRTY  # of _PAGE_TABLE (arch/x86/include/asm/pgtable_types.h), what stays as it was written


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What of the top-level tables is walked, and which entries are kept.

    Of the top level only the slots ``[first, last)`` that are not in ``skip`` are entered. With ``everything`` leaf
    entries that are not present and not zero are kept too; ``deferred``: the tables of the lowest level are listed and
    not read. ``mask`` takes the physical address out of an entry (SME puts its C-bit there). With ``below`` the roots
    are tables of a lower level, and addresses count from 0 in each.
    """

    levels: int
    first: int = 0
    last: int = ENTRIES
    skip: tuple[int, ...] = ()
    mask: int = ADDRESS_MASK
    everything: bool = False
    below: bool = False
    deferred: bool = False


@dataclass(slots=True)
class _Level:
    """Tables to be read, or entries within them: parallel arrays."""

    owner: I32
    pa: U64
    va: U64
    allow: U8

    def take(self, rows: Bools | slice) -> _Level:
        """Some of the rows."""
        return _Level(self.owner[rows], self.pa[rows], self.va[rows], self.allow[rows])


def walk(memory: PhysicalReader, roots: U64, bounds: Bounds) -> Walk:
    """Walk the entries under ``roots`` (physical addresses of top-level tables).

    The no-execute bit of the top level is disregarded: page-table isolation sets it on user entries of the kernel's
    copy (arch/x86/mm/pti.c). No more tables are read per level than the image has page frames, plus the roots.
    """
    count = len(roots)
    level_now = _Level(
        np.arange(count, dtype=np.int32),
        roots.astype(np.uint64) & np.uint64(bounds.mask),
        np.zeros(count, np.uint64),
        np.full(count, ALLOW_WRITE | ALLOW_USER | ALLOW_EXECUTE, np.uint8),
    )
    most = (int((memory.ranges[:, 1] - memory.ranges[:, 0]).sum()) >> PAGE_SHIFT) + count
    leaves: list[Leaves] = []
    tables: list[TablePages] = []
    repeated: list[TablePages] = []
    unusual: list[Leaves] = []
    lowest = LowestTables.zeros(0)
    truncated = False
    for level in range(bounds.levels, 0, -1):
        level_now, again = _once(level_now, level)
        repeated.append(again)
        if len(level_now.pa) > most:
            truncated = True
            break
        if level == 1 and bounds.deferred:
            lowest = LowestTables(pa=level_now.pa, va=level_now.va, owner=level_now.owner, allow=level_now.allow)
            tables.append(_tables(level_now, level, np.ones(len(lowest), np.bool_)))
            break
        ok = np.zeros(len(level_now.pa), np.bool_)
        below: list[_Level] = []
        for low in range(0, len(level_now.pa), _BATCH):
            part = slice(low, low + _BATCH)
            ok[part], entry, here = _read(memory, level_now.take(part), level, bounds)
            present = (entry & np.uint64(PRESENT)) != 0
            end = _ends(entry, present, level)
            keep = end if bounds.everything else end & present
            leaves.append(_leaves(here.take(keep), entry[keep], level))
            down = present & ~end
            under = here.take(down)
            if bounds.everything:
                odd = _is_unusual(entry[down], top=level == bounds.levels)
                unusual.append(_leaves(under.take(odd), entry[down][odd], level))
            under.pa = entry[down] & np.uint64(bounds.mask)
            below.append(under)
        tables.append(_tables(level_now, level, ok))
        if not below:
            break
        level_now = _Level(
            np.concatenate([part.owner for part in below]),
            np.concatenate([part.pa for part in below]),
            np.concatenate([part.va for part in below]),
            np.concatenate([part.allow for part in below]),
        )
    return Walk(
        leaves=Leaves.concatenate(leaves),
        tables=TablePages.concatenate(tables),
        repeated=TablePages.concatenate(repeated),
        truncated=truncated,
        lowest=lowest,
        unusual=Leaves.concatenate(unusual),
    )


def read_lowest(memory: PhysicalReader, tables: LowestTables, *, digests: bool = False) -> LowestEntries:
    """The entries of ``tables`` that are not zero; they are read all at once."""
    raw, ok = memory.gather(tables.pa, 8 * ENTRIES)
    entries = raw.view("<u8").reshape(-1)
    at = np.flatnonzero(entries)
    entry: U64 = entries[at]
    counts = np.bincount(at >> TABLE_SHIFT, minlength=len(tables))
    slot = at.astype(np.uint64) & np.uint64(ENTRIES - 1)
    leaves = Leaves(
        va=np.repeat(tables.va, counts) | slot << np.uint64(PAGE_SHIFT),
        entry=entry,
        where=np.repeat(tables.pa, counts) + slot * np.uint64(8),
        owner=np.repeat(tables.owner, counts),
        level=np.ones(len(at), np.int8),
        allow=np.repeat(tables.allow, counts) & _allowed(entry, top=False),
    )
    return LowestEntries(leaves, counts, ok, _digests(entries) if digests else None)


@cache
def _keys() -> U32:
    """Random numbers that nobody knows who wrote an image: two for each entry of a table, twice."""
    return np.frombuffer(secrets.token_bytes(4 * 4 * ENTRIES), "<u4").reshape(4, ENTRIES)


def _digests(entries: U64) -> U64Wide:
    """Two words for each 512 entries, without the bits that a CPU sets by itself in those that are present.

    NH of UMAC (RFC 4418), twice: of two tables that differ, both words are equal with a chance of 2**-64.
    """
    own = entries & ~((entries & np.uint64(PRESENT)) * np.uint64(ACCESSED | DIRTY))
    words = own.view("<u4").reshape(-1, ENTRIES, 2)
    found = np.empty((len(words), 2), np.uint64)
    for lane in (0, 1):
        low, high = (words[:, :, half] + _keys()[2 * lane + half] for half in (0, 1))
        found[:, lane] = np.einsum("ij,ij->i", low.astype(np.uint64), high.astype(np.uint64))
    return found


def _read(memory: PhysicalReader, tables: _Level, level: int, bounds: Bounds) -> tuple[Bools, U64, _Level]:
    """Read ``tables``: (which could be read, the entries that are not zero, where each of these stands)."""
    top = level == bounds.levels and not bounds.below
    raw, ok = memory.gather(tables.pa, 8 * ENTRIES)
    entries = raw.view("<u8").reshape(-1, ENTRIES)
    live = entries != 0
    if top:
        live[:, : bounds.first] = live[:, bounds.last :] = False
        live[:, list(bounds.skip)] = False
    row, slot = np.nonzero(live)
    entry: U64 = entries[row, slot]
    shift = PAGE_SHIFT + TABLE_SHIFT * (level - 1)
    here = _Level(
        tables.owner[row],
        tables.pa[row] + np.uint64(8) * slot.astype(np.uint64),
        tables.va[row] | slot.astype(np.uint64) << np.uint64(shift),
        tables.allow[row] & _allowed(entry, top),
    )
    if top:
        here.va |= _sign(slot, bounds.levels)
    return ok, entry, here


def _ends(entry: U64, present: Bools, level: int) -> Bools:
    """Which entries of a table of this level are leaves."""
    if level == 1:
        return np.ones(len(entry), np.bool_)
    if level > _LARGEST_LEAF:
        return ~present
    found: Bools = ~present | ((entry & np.uint64(LARGE)) != 0)
    return found


def _is_unusual(entry: U64, *, top: bool) -> Bools:
    """Which entries that lead to tables are not as pud_populate, pmd_populate and their like make them: _PAGE_TABLE.

    They are what pmd_bad, pud_bad, p4d_bad and pgd_bad (arch/x86/include/asm/pgtable.h) look for, and what lacks a bit.
    The accessed bit is taken back where pages age, the user bit is what :data:`ALLOW_USER` tells, and page-table
    isolation sets the no-execute bit of the top level.
    """
    changing = ADDRESS_MASK | USER | ACCESSED | (NO_EXECUTE if top else 0)
    found: Bools = (entry & ~np.uint64(changing)) != np.uint64(_TABLE)
    return found


def _once(level_now: _Level, level: int) -> tuple[_Level, TablePages]:
    """The tables of a level without those that an owner has twice, and these."""
    order = sort_order(level_now.owner, level_now.pa)
    owner, pa = level_now.owner[order], level_now.pa[order]
    again = np.zeros(len(order), np.bool_)
    again[order[1:]] = (owner[1:] == owner[:-1]) & (pa[1:] == pa[:-1])
    twice = level_now.take(again)
    rows = _tables(twice, level, np.zeros(len(twice.pa), np.bool_))
    return (level_now.take(~again) if len(rows) else level_now), rows


def _tables(these: _Level, level: int, ok: Bools) -> TablePages:
    return TablePages(pa=these.pa, va=these.va, owner=these.owner, level=np.full(len(these.pa), level, np.int8), ok=ok)


def _leaves(these: _Level, entry: U64, level: int) -> Leaves:
    return Leaves(
        va=these.va,
        entry=entry,
        where=these.pa,
        owner=these.owner,
        level=np.full(len(entry), level, np.int8),
        allow=these.allow,
    )


def _allowed(entry: U64, top: bool) -> U8:
    """ALLOW_* of entries, alone."""
    allowed: U8 = ((entry & np.uint64(WRITE)) != 0).view(np.uint8) * np.uint8(ALLOW_WRITE)
    allowed |= ((entry & np.uint64(USER)) != 0).view(np.uint8) * np.uint8(ALLOW_USER)
    executable = np.uint8(ALLOW_EXECUTE)
    allowed |= executable if top else ((entry & np.uint64(NO_EXECUTE)) == 0).view(np.uint8) * executable
    return allowed


def _sign(slot: NDArray[np.intp], levels: int) -> U64:
    """The canonical upper bits of addresses in top-level ``slot``."""
    upper = np.uint64((-1 << (PAGE_SHIFT + TABLE_SHIFT * levels)) % (1 << 64))
    return np.where(slot >= ENTRIES // 2, upper, np.uint64(0))


def span(level: I8) -> U64:
    """Bytes that a leaf entry of each ``level`` maps."""
    if len(level) and int(level.max()) == 1:
        return np.full(len(level), 1 << PAGE_SHIFT, np.uint64)
    found: U64 = np.uint64(1) << (
        np.uint64(PAGE_SHIFT) + np.uint64(TABLE_SHIFT) * (level.astype(np.uint64) - np.uint64(1))
    )
    return found


def target(entry: U64, level: I8, mask: int = ADDRESS_MASK) -> U64:
    """Physical address that each present leaf entry maps; the PAT bit of large pages is not part of it."""
    if len(level) and int(level.max()) == 1:  # nearly always, of millions of entries
        return entry & np.uint64(mask & -(1 << PAGE_SHIFT))
    return entry & np.uint64(mask) & ~(span(level) - np.uint64(1))
