"""x86-64 page tables, walked a level at a time for any number of roots at once (Intel SDM vol. 3, 4.5).

A level is one gather: the tables' addresses in, 512 entries each out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.image.memory import PhysicalMemory

PRESENT = 1 << 0
WRITE = 1 << 1
USER = 1 << 2
LARGE = 1 << 7  # PS; bit 7 of a PTE is PAT
NO_EXECUTE = 1 << 63
ADDRESS_MASK = 0x000F_FFFF_FFFF_F000

_ENTRIES = 512
_BATCH = 1024  # tables read at once: 4 MiB

LEAVES = np.dtype(
    [
        ("va", np.uint64),
        ("entry", np.uint64),
        ("where", np.uint64),  # physical address of the entry
        ("owner", np.int32),  # index into roots
        ("level", np.int8),  # 1: PTE (4 KiB), 2: PMD (2 MiB), 3: PUD (1 GiB)
        ("allow", np.uint8),  # ALLOW_* bits, over the entry and all tables above it
    ]
)
ALLOW_WRITE, ALLOW_USER, ALLOW_EXECUTE = 1, 2, 4

TABLES = np.dtype([("pa", np.uint64), ("va", np.uint64), ("owner", np.int32), ("level", np.int8), ("ok", np.bool_)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """What a walk met.

    ``leaves`` (dtype ``LEAVES``): the present leaf entries, and with ``everything`` also those that are not
    present and not zero. ``tables`` (dtype ``TABLES``): every table, ``ok`` False where it could not be
    read. ``repeated`` (dtype ``TABLES``): where a table came up again at the same level under the same root;
    it was not entered again, so that tables that lead to themselves cost no more than others. ``truncated``:
    the bound on tables cut the walk short.
    """

    leaves: NDArray[np.void]
    tables: NDArray[np.void]
    repeated: NDArray[np.void]
    truncated: bool

    @property
    def unreadable(self) -> NDArray[np.void]:
        """The tables that could not be read."""
        lost: NDArray[np.void] = self.tables[~self.tables["ok"]]
        return lost


@dataclass(slots=True)
class _Level:
    owner: NDArray[np.int32]
    pa: NDArray[np.uint64]
    va: NDArray[np.uint64]
    allow: NDArray[np.uint8]


def walk(
    memory: PhysicalMemory,
    roots: NDArray[np.uint64],
    *,
    levels: int,
    first: int = 0,
    last: int = _ENTRIES,
    skip: tuple[int, ...] = (),
    mask: int = ADDRESS_MASK,
    everything: bool = False,
) -> Walk:
    """Walk the entries under ``roots`` (physical addresses of top-level tables).

    ``levels`` is 4 or 5; of the top level only the slots ``[first, last)`` that are not in ``skip`` are
    entered, and its no-execute bit is not heeded: page-table isolation sets it on user entries of the
    kernel's copy (arch/x86/mm/pti.c). ``mask`` takes the physical address out of an entry (SME puts its
    C-bit there). No more tables are read per level than the image has page frames, plus the roots.
    """
    count = len(roots)
    level_now = _Level(
        np.arange(count, dtype=np.int32),
        roots.astype(np.uint64) & np.uint64(mask),
        np.zeros(count, np.uint64),
        np.full(count, ALLOW_WRITE | ALLOW_USER | ALLOW_EXECUTE, np.uint8),
    )
    bound = (int((memory.ranges[:, 1] - memory.ranges[:, 0]).sum()) >> 12) + count
    leaves: list[NDArray[np.void]] = []
    tables: list[NDArray[np.void]] = []
    repeated: list[NDArray[np.void]] = []
    truncated = False
    for level in range(levels, 0, -1):
        level_now, again = _once(level_now, level)
        repeated.append(again)
        if len(level_now.pa) > bound:
            truncated = True
            break
        seen = np.zeros(len(level_now.pa), TABLES)
        seen["pa"], seen["va"], seen["owner"] = level_now.pa, level_now.va, level_now.owner
        seen["level"] = level
        below: list[_Level] = []
        for low in range(0, len(level_now.pa), _BATCH):
            part = slice(low, low + _BATCH)
            raw, seen["ok"][part] = memory.gather(level_now.pa[part], 8 * _ENTRIES)
            entries = raw.view("<u8").reshape(-1, _ENTRIES)
            live = entries != 0
            if level == levels:
                live[:, :first] = live[:, last:] = False
                live[:, list(skip)] = False
            row, slot = np.nonzero(live)
            entry = entries[row, slot]
            here = _Level(
                level_now.owner[part][row],
                level_now.pa[part][row] + np.uint64(8) * slot.astype(np.uint64),
                level_now.va[part][row] | slot.astype(np.uint64) << np.uint64(12 + 9 * (level - 1)),
                level_now.allow[part][row] & _allowed(entry, level == levels),
            )
            if level == levels:
                here.va |= _sign(slot, levels)
            present = (entry & np.uint64(PRESENT)) != 0
            large = (entry & np.uint64(LARGE)) != 0
            end = np.ones(len(row), np.bool_) if level == 1 else ~present | (large if level <= 3 else False)
            keep = end if everything else end & present
            leaves.append(_leaves(here, entry, level, keep))
            down = present & ~end
            below.append(_Level(here.owner[down], entry[down] & np.uint64(mask), here.va[down], here.allow[down]))
        tables.append(seen)
        if not below:
            break
        level_now = _Level(*(np.concatenate([getattr(one, name) for one in below]) for name in _Level.__slots__))
    return Walk(
        leaves=np.concatenate(leaves) if leaves else np.zeros(0, LEAVES),
        tables=np.concatenate(tables) if tables else np.zeros(0, TABLES),
        repeated=np.concatenate(repeated),
        truncated=truncated,
    )


def _once(level_now: _Level, level: int) -> tuple[_Level, NDArray[np.void]]:
    """The tables of a level without those that an owner has twice, and these (dtype ``TABLES``)."""
    order = np.lexsort((level_now.pa, level_now.owner))
    owner, pa = level_now.owner[order], level_now.pa[order]
    again = np.zeros(len(order), np.bool_)
    again[order[1:]] = (owner[1:] == owner[:-1]) & (pa[1:] == pa[:-1])
    rows = np.zeros(int(again.sum()), TABLES)
    rows["pa"], rows["va"], rows["owner"] = level_now.pa[again], level_now.va[again], level_now.owner[again]
    rows["level"] = level
    if not len(rows):
        return level_now, rows
    return _Level(*(getattr(level_now, name)[~again] for name in _Level.__slots__)), rows


def _leaves(here: _Level, entry: NDArray[np.uint64], level: int, keep: NDArray[np.bool_]) -> NDArray[np.void]:
    rows = np.zeros(int(keep.sum()), LEAVES)
    rows["va"], rows["entry"], rows["where"] = here.va[keep], entry[keep], here.pa[keep]
    rows["owner"], rows["level"], rows["allow"] = here.owner[keep], level, here.allow[keep]
    return rows


def _allowed(entry: NDArray[np.uint64], top: bool) -> NDArray[np.uint8]:
    allowed = np.zeros(len(entry), np.uint8)
    allowed[(entry & np.uint64(WRITE)) != 0] |= ALLOW_WRITE
    allowed[(entry & np.uint64(USER)) != 0] |= ALLOW_USER
    allowed[np.full(len(entry), top) | ((entry & np.uint64(NO_EXECUTE)) == 0)] |= ALLOW_EXECUTE
    return allowed


def _sign(slot: NDArray[np.intp], levels: int) -> NDArray[np.uint64]:
    """The canonical upper bits of addresses in top-level ``slot``."""
    upper = np.uint64((-1 << (12 + 9 * levels)) % (1 << 64))
    return np.where(slot >= _ENTRIES // 2, upper, np.uint64(0))


def span(level: NDArray[np.int8]) -> NDArray[np.uint64]:
    """Bytes a leaf entry of each ``level`` maps."""
    return np.uint64(1) << (np.uint64(12) + np.uint64(9) * (level.astype(np.uint64) - np.uint64(1)))


def target(entry: NDArray[np.uint64], level: NDArray[np.int8], mask: int = ADDRESS_MASK) -> NDArray[np.uint64]:
    """Physical address that each present leaf entry maps; the PAT bit of large pages is not part of it."""
    return entry & np.uint64(mask) & ~(span(level) - np.uint64(1))
