"""Which way leads from which kind of complaint."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.crash.named_values import address_registers, grouped
from vmaforensics.crash.patterns import FATAL, Kind
from vmaforensics.crash.trail.checks import follow_bug, follow_named
from vmaforensics.crash.trail.counters import follow_pgtables, follow_rss
from vmaforensics.crash.trail.entries import follow_entry
from vmaforensics.crash.trail.frames import follow_page
from vmaforensics.crash.trail.lists import follow_list
from vmaforensics.crash.trail.pointers import follow_pointer
from vmaforensics.crash.trail.word import Trail
from vmaforensics.errors import KernelNotFoundError, MemoryReadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vmaforensics.crash.complaints import Complaint
    from vmaforensics.crash.named_values import NamedValue
    from vmaforensics.crash.trail.records import Records

log = logging.getLogger(__name__)

_WAYS: Final[dict[Kind, Callable[[Records, Complaint], Trail]]] = {
    Kind.BAD_RSS: follow_rss,
    Kind.PAGE_TABLE_LEAK: follow_pgtables,
    Kind.BAD_PAGE_MAP: follow_entry,
    Kind.BAD_PAGE_STATE: follow_page,
    Kind.LIST_CORRUPTION: follow_list,
    Kind.NULL_POINTER: follow_pointer,
    Kind.PAGE_FAULT: follow_pointer,
    Kind.PROTECTION_FAULT: follow_pointer,
    Kind.BUG: follow_bug,
    Kind.SLAB: follow_named,
    Kind.MAPLE_TREE: follow_named,
    Kind.USE_AFTER_FREE: follow_named,
    Kind.OTHER_BUG: follow_named,
}
_MOST: Final = 16  # complaints that are followed: the first of them, since the others may be of their making


def concern_memory(complaints: Iterable[Complaint]) -> bool:
    """Is there a complaint that records of memory maps may explain?"""
    return any(complaint.kind in _WAYS or complaint.kind in FATAL for complaint in complaints)


def follow(records: Records, complaints: Sequence[Complaint]) -> dict[int, Trail]:
    """What complaints lead to, by the row of each in the log."""
    wanted = [complaint for complaint in complaints if complaint.kind in _WAYS or complaint.kind in FATAL]
    return {complaint.row: _followed(records, complaint) for complaint in wanted[:_MOST]}


def _followed(records: Records, complaint: Complaint) -> Trail:
    """One of them; what goes wrong on its way costs no other."""
    try:
        trail = _WAYS[complaint.kind](records, complaint) if complaint.kind in _WAYS else Trail()
        trail.registers = _registers(records, complaint)
    except (KernelNotFoundError, MemoryReadError) as error:
        return Trail(notes=[f"could not be followed: {error}"])
    except Exception as error:  # a bug of ours must not cost the page
        log.debug("complaint %s", complaint.kind, exc_info=True)
        kind = type(error).__name__
        return Trail(notes=[f"could not be followed: internal error ({kind}: {error}); please report it"])
    return trail


def _registers(records: Records, complaint: Complaint) -> list[NamedValue]:
    """What the registers beneath a complaint lead to, as the memory is by now."""
    registers = address_registers(records.kernel.arch, complaint.said.registers)
    values = np.array(list(registers.values()), np.uint64)
    return grouped(registers, records.meanings(values, records.mm_of(complaint.said.pid))) if registers else []
