"""Checks of the kernel that failed (BUG_ON, VM_BUG_ON, KASAN): what they compare, and the objects that they name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vmaforensics.crash.trail.counters import follow_map_count
from vmaforensics.crash.trail.frames import broken_mapping
from vmaforensics.crash.trail.word import Trail

if TYPE_CHECKING:
    from vmaforensics.crash.complaints import Complaint
    from vmaforensics.crash.trail.records import Records

_ADDRESSES: Final = ("address", "vma", "mm", "page", "object", "entry")


def follow_bug(records: Records, complaint: Complaint) -> Trail:
    """``kernel BUG at``: the count of VMAs, if that is what was compared; struct pages that registers lead to."""
    trail = follow_map_count(records, complaint)
    if not trail.words:
        broken = [broken_mapping(records, value) for value in sorted(set(complaint.said.registers.values()))]
        trail.words += [word for word in broken if word is not None]
    named = follow_named(records, complaint)
    trail.notes += named.notes
    return trail


def follow_named(records: Records, complaint: Complaint) -> Trail:
    """What the kernel objects that the lines name are in the image."""
    arch, trail = records.kernel.arch, Trail()
    for name in _ADDRESSES:
        value = complaint.named.get(name)
        if value is not None and arch.is_kernel_address(value):
            trail.notes.append(f"{name} {value:#x} is {records.leads_to(value)}")
    return trail
