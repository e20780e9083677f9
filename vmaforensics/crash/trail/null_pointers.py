"""Pointers that are NULL and were followed: of a type whose structure has a member just where the fault was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.crash.trail.further import stack_objects
from vmaforensics.crash.trail.word import BrokenWord, Sure
from vmaforensics.views.objects.members import begins_at, pointed_to
from vmaforensics.views.slab.objects import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vmaforensics.crash.complaints import Complaint
    from vmaforensics.crash.trail.objects import SlabObject
    from vmaforensics.crash.trail.records import Records
    from vmaforensics.crash.trail.targets import Target

_MOST: Final = 4
# Members that are never NULL while the object is in use, whatever state its owner is in (mm/, kernel/fork.c).
_NEVER_NULL: Final = frozenset(
    {
        ("vm_area_struct", "vm_mm"),
        ("task_struct", "signal"),
        ("task_struct", "cred"),
        ("anon_vma_chain", "vma"),
        ("anon_vma_chain", "anon_vma"),
        ("file", "f_inode"),  # of an open file (do_dentry_open, fs/open.c), as the next
        ("file", "f_op"),
        ("file", "f_mapping"),
    }
)


def null_members(records: Records, complaint: Complaint, targets: list[Target], fault: int) -> list[BrokenWord]:
    """Pointers that are NULL in what registers lead to, to structures with a member at the address ``fault``.

    If there are none, in what the stack leads to; tasks are left out there: they have pointers to anything.
    """
    mm = records.mm_of(complaint.said.pid)
    near = ((target.found, f"{target.register} leads to it") for target in targets)
    found = list(_among(records, mm, near, fault))
    if not found:
        further = (
            (holder, "a word of the stack leads to it")
            for holder in stack_objects(records, complaint)
            if holder.struct != "task_struct"
        )
        found = list(_among(records, mm, further, fault))
    never = [word for word in found if word.sure is not Sure.POSSIBLE]
    return (never or found)[:_MOST]


def _among(records: Records, mm: int, holders: Iterable[tuple[SlabObject, str]], fault: int) -> Iterator[BrokenWord]:
    """Each pointer of ``holders`` that fits, once; with each, how it was come upon."""
    kernel, seen = records.kernel, set[int]()
    for holder, how in holders:
        layout = None if holder.struct is None else kernel.types.struct(holder.struct)
        if holder.struct is None or layout is None or holder.state == State.FREE or holder.start in seen:
            continue
        seen.add(holder.start)
        words = records.words(holder.start, holder.size // 8)
        for name, field in sorted(layout.fields.items(), key=lambda pair: pair[1].offset):
            place = field.offset // 8
            if not field.pointer or field.count is not None or place >= len(words) or words[place] != 0:
                continue
            struct = pointed_to(kernel.types, holder.struct, field.offset)
            member = None if struct is None else begins_at(kernel.types, struct, fault)
            if struct is None or member is None:
                continue
            never = (holder.struct, name) in _NEVER_NULL
            owner = _holding(records, mm, holder.start) if struct == "mm_struct" else None
            reasons = [f"{how}; the kernel read NULL->{member}, which is {fault:#x}"]
            reasons += [f"{name} is never NULL while a {holder.struct} is in use"] if never else []
            reasons += [f"the index of {records.who(owner)} holds it"] if owner else []
            address = holder.start + field.offset
            yield BrokenWord(
                what=records.word_name(address),
                address=address,
                physical=records.physical(address),
                found="0x0",
                mm=owner or 0,
                expected=hex(owner) if owner else f"a struct {struct}",
                sure=Sure.CERTAIN if owner else Sure.LIKELY if never else Sure.POSSIBLE,
                why=tuple(reasons),
            )


def _holding(records: Records, mm: int, vma: int) -> int | None:
    """The mm, if its index holds the VMA."""
    return mm if mm and (records.index(mm).vma == np.uint64(vma)).any() else None
