"""Page-table entries that lead where none may: ``print_bad_pte``, ``print_bad_page_map`` (mm/memory.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.columns.types import U64
from vmaforensics.crash.trail.word import BrokenWord, Sure, Trail, flipped
from vmaforensics.errors import KernelNotFoundError, MemoryReadError
from vmaforensics.views.pages.mapped_pages import read_pages

if TYPE_CHECKING:
    from vmaforensics.crash.complaints import Complaint
    from vmaforensics.crash.trail.named import Named
    from vmaforensics.crash.trail.records import Records

_LEVELS: Final = ("pte", "pmd", "pud", "p4d", "pgd")
_ENTRY: Final = 8  # bytes


def follow_entry(records: Records, complaint: Complaint) -> Trail:
    """The entry, found through the entry above it, and what it was before, if one bit of it was flipped."""
    named, arch = complaint.named, records.kernel.arch
    entry, address = named.get("pte", "entry"), named.get("address")
    level = named.texts.get("level", "pte")
    trail = Trail()
    if entry is None or address is None or level not in _LEVELS:
        return trail
    mm = records.mm_of(complaint.said.pid)
    whose = f" of {records.who(mm)}" if mm else ""
    physical = _place(records, named, level, address)
    held = None if physical is None else _entry_at(records, physical)
    frame = int(arch.pages(arch.target(np.array([entry], np.uint64), np.ones(1, np.int8)))[0])
    why = [f"it leads to page frame {frame:#x}, " + _about_frame(records, frame)]
    if physical is not None and held == entry:
        why.append("the table still holds it")
    elif physical is not None and held is not None:
        trail.notes.append(f"at {physical:#x} stands {held:#x} by now: the table was cleared, or given back")
    before = _before(records, named, entry)
    if before is not None:
        right = int(arch.pages(arch.target(np.array([before], np.uint64), np.ones(1, np.int8)))[0])
        why.append(
            f"{flipped(entry, before)}: without that it leads to frame {right:#x}, whose page names this mapping"
        )
    trail.words.append(
        BrokenWord(
            what=f"the page-table entry ({level}) for {address:#x}{whose}",
            physical=physical,
            user_address=address,
            mm=mm,
            found=hex(entry),
            expected="" if before is None else hex(before),
            sure=Sure.CERTAIN,
            why=tuple(why),
        )
    )
    if physical is None:
        trail.notes.append("where the entry lies is not known: the entry of the level above is not in the log")
    return trail


def _place(records: Records, named: Named, level: str, address: int) -> int | None:
    """Physical address of the entry of ``address`` in the table that the entry above it leads to."""
    arch, number = records.kernel.arch, _LEVELS.index(level) + 1
    upper = next((named.numbers[name] for name in _LEVELS[number:] if name in named.numbers), None)
    if upper is None:
        return None
    table = int(arch.target(np.array([upper], np.uint64), np.ones(1, np.int8))[0])
    one = np.full(1, number, np.int8)
    return table + address % int(arch.table_span(one)[0]) // int(arch.span(one)[0]) * _ENTRY


def _entry_at(records: Records, physical: int) -> int | None:
    try:
        return int.from_bytes(records.kernel.memory.read(physical, _ENTRY), "little")
    except MemoryReadError:
        return None


def _about_frame(records: Records, frame: int) -> str:
    """What there is of a page frame."""
    memory = records.kernel.memory
    place = frame << records.kernel.arch.page_shift
    if not len(memory.ranges) or not ((memory.ranges[:, 0] <= place) & (place < memory.ranges[:, 1])).any():
        return "where no RAM is"
    return "which is RAM"


def _before(records: Records, named: Named, entry: int) -> int | None:
    """The entry with one bit other, if it then leads to a page with the VMA's own mapping and index."""
    mapping, index = named.get("anon_vma") or 0, named.get("index")
    file_mapping = named.get("mapping") or 0
    if index is None or not (mapping or file_mapping):
        return None
    entries: U64 = np.uint64(entry) ^ (np.uint64(1) << np.arange(64, dtype=np.uint64))
    arch = records.kernel.arch
    frames = arch.pages(arch.target(entries, np.ones(64, np.int8)))
    same = arch.pages(arch.target(np.array([entry], np.uint64), np.ones(1, np.int8)))[0]
    try:
        pages = read_pages(records.kernel, frames)
    except KernelNotFoundError:
        return None
    # A page of another VMA may name an anon_vma above or below this one: only its own is looked for.
    fits = pages.ok & ((pages.mapping == np.uint64(mapping)) | (pages.mapping == np.uint64(file_mapping)))
    fits &= (pages.mapping != 0) & (pages.index == np.uint64(index)) & (pages.mapcount > 0) & (frames != same)
    rows = np.flatnonzero(fits)
    return int(entries[rows[0]]) if len(rows) == 1 else None
