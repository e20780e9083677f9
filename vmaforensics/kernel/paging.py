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
LARGE = 1 << 7  # PS; bit 7 of a PTE is PAT
ADDRESS_MASK = 0x000F_FFFF_FFFF_F000

_ENTRIES = 512
_BATCH = 4096  # tables read at once: 16 MiB

LEAVES = np.dtype(
    [
        ("owner", np.int32),  # index into roots
        ("level", np.int8),  # 1: PTE (4 KiB), 2: PMD (2 MiB), 3: PUD (1 GiB)
        ("va", np.uint64),
        ("pa", np.uint64),
        ("entry", np.uint64),
    ]
)

UNREADABLE = np.dtype([("owner", np.int32), ("level", np.int8), ("va", np.uint64), ("pa", np.uint64)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """What a walk met: present leaf entries (dtype ``LEAVES``), tables that could not be read (dtype
    ``UNREADABLE``), and whether the bound on tables cut it short."""

    leaves: NDArray[np.void]
    unreadable: NDArray[np.void]
    truncated: bool


def walk(
    memory: PhysicalMemory,
    roots: NDArray[np.uint64],
    *,
    levels: int,
    first: int = 0,
    last: int = _ENTRIES,
    skip: tuple[int, ...] = (),
    mask: int = ADDRESS_MASK,
) -> Walk:
    """Walk the present entries under ``roots`` (physical addresses of top-level tables).

    ``levels`` is 4 or 5; of the top level only the slots ``[first, last)`` that are not in ``skip`` are
    entered. ``mask`` takes the physical address out of an entry (SME puts its C-bit there). No more
    tables are read per level than the image has page frames, times the number of roots.
    """
    owner = np.arange(len(roots), dtype=np.int32)
    tables = roots.astype(np.uint64) & np.uint64(mask)
    base = np.zeros(len(roots), np.uint64)
    frames = int((memory.ranges[:, 1] - memory.ranges[:, 0]).sum()) >> 12
    bound = max(frames, 1) * max(len(roots), 1)
    leaves: list[NDArray[np.void]] = []
    unreadable: list[NDArray[np.void]] = []
    truncated = False
    for level in range(levels, 0, -1):
        below: list[tuple[NDArray[np.int32], NDArray[np.uint64], NDArray[np.uint64]]] = []
        found = 0
        for low in range(0, len(tables), _BATCH):
            part = slice(low, low + _BATCH)
            raw, ok = memory.gather(tables[part], 8 * _ENTRIES)
            if not ok.all():
                bad = np.zeros(int((~ok).sum()), UNREADABLE)
                bad["owner"], bad["level"] = owner[part][~ok], level
                bad["va"], bad["pa"] = base[part][~ok], tables[part][~ok]
                unreadable.append(bad)
            entries = raw.view("<u8").reshape(-1, _ENTRIES)
            live = (entries & np.uint64(PRESENT)) != 0
            if level == levels:
                live[:, :first] = live[:, last:] = False
                live[:, list(skip)] = False
            row, slot = np.nonzero(live)
            entry = entries[row, slot]
            va = base[part][row] | slot.astype(np.uint64) << np.uint64(12 + 9 * (level - 1))
            if level == levels:
                va |= _sign(slot, levels)
            is_leaf = np.ones(len(row), np.bool_) if level == 1 else (entry & np.uint64(LARGE)) != 0
            if level > 3:
                is_leaf[:] = False
            if is_leaf.any():
                leaf = np.zeros(int(is_leaf.sum()), LEAVES)
                leaf["owner"], leaf["level"] = owner[part][row[is_leaf]], level
                leaf["va"], leaf["entry"] = va[is_leaf], entry[is_leaf]
                span = (1 << (12 + 9 * (level - 1))) - 1
                leaf["pa"] = entry[is_leaf] & np.uint64(mask & ~span)
                leaves.append(leaf)
            down = ~is_leaf
            found += int(down.sum())
            if found > bound:
                truncated = True
                break
            below.append((owner[part][row[down]], entry[down] & np.uint64(mask), va[down]))
        if not below:
            break
        owner = np.concatenate([item[0] for item in below])
        tables = np.concatenate([item[1] for item in below])
        base = np.concatenate([item[2] for item in below])
    return Walk(
        leaves=np.concatenate(leaves) if leaves else np.zeros(0, LEAVES),
        unreadable=np.concatenate(unreadable) if unreadable else np.zeros(0, UNREADABLE),
        truncated=truncated,
    )


def _sign(slot: NDArray[np.intp], levels: int) -> NDArray[np.uint64]:
    """The canonical upper bits of addresses in top-level ``slot``."""
    upper = np.uint64((-1 << (12 + 9 * levels)) % (1 << 64))
    return np.where(slot >= _ENTRIES // 2, upper, np.uint64(0))


def span(level: NDArray[np.int8]) -> NDArray[np.uint64]:
    """Bytes a leaf entry of each ``level`` maps."""
    return np.uint64(1) << (np.uint64(12) + np.uint64(9) * (level.astype(np.uint64) - np.uint64(1)))
