"""Pointers that kernel code could not follow: the word that held the one in a register, or that was NULL.

A faulting instruction leaves the pointer in a register, and addresses near where it came from in others. The words of
what these lead to are searched for it, and so are the records of the address space that the task had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.columns.types import U64
from vmaforensics.crash.trail.frames import broken_mapping
from vmaforensics.crash.trail.free_pointers import follow_free_pointer
from vmaforensics.crash.trail.further import further_holders, tags_of
from vmaforensics.crash.trail.word import BrokenWord, Sure, Trail, flipped
from vmaforensics.views.indices.entries import IndexEntries
from vmaforensics.views.objects.members import begins_at
from vmaforensics.views.slab.objects import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.crash.complaints import Complaint
    from vmaforensics.crash.trail.objects import SlabObject
    from vmaforensics.crash.trail.records import Records

_POINTER: Final = 8  # bytes
_NEAR: Final = 4096  # bytes that a member may lie behind the pointer that leads to it
_MOST_WORDS: Final = 4
_LARGEST: Final = 16 << 10  # bytes of an object that are searched
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


class _Target(NamedTuple):
    """What a register leads to."""

    register: str
    value: int
    found: SlabObject


def follow_pointer(records: Records, complaint: Complaint) -> Trail:
    """What the pointer that faulted came from; else what is wrong with what the registers lead to."""
    said, trail = complaint.said, Trail()
    targets = _targets(records, said.registers)
    fault = said.address if said.address is not None else complaint.named.get("bad pointer")
    if fault is not None and fault < _NEAR:
        trail.words += list(_null_members(records, records.mm_of(said.pid), targets, fault))[:_MOST_WORDS]
    else:
        for value in _bad_pointers(records, said.registers, fault):
            trail.words += _holders(records, complaint, targets, value)[: _MOST_WORDS - len(trail.words)]
            if not trail.words:
                free = follow_free_pointer(records, complaint, value)
                trail.words += free.words
                trail.notes += free.notes
            if trail.words:
                break
    if not trail.words:
        for _, value in sorted(said.registers.items()):
            broken = broken_mapping(records, value)
            if broken is not None and broken not in trail.words:
                trail.words.append(broken)
    if not trail.words and not said.registers:
        trail.notes.append("the log has no registers of kernel code beneath it")
    return trail


def _targets(records: Records, registers: dict[str, int]) -> list[_Target]:
    """The registers that lead into slab objects, objects led to directly first."""
    found = []
    records.objects.look_up(np.array(list(registers.values()), np.uint64))
    for name, value in registers.items():
        target = records.objects.at(value)
        if target is not None:
            found.append(_Target(name, value, target))
    return sorted(found, key=lambda target: target.found.offset != 0)


def _bad_pointers(records: Records, registers: dict[str, int], fault: int | None) -> list[int]:
    """Values of registers that are, or lead shortly before, the address that faulted; else those that lead nowhere."""
    arch, space = records.kernel.arch, records.kernel.space
    values = np.array(sorted(set(registers.values())), np.uint64)
    if fault is not None:
        near = [value for value in values.tolist() if 0 <= fault - value < _NEAR]
        # The pointer itself is furthest off: what was computed from it for the access lies at the address.
        return near or [fault]
    mapped = space.translate(values)[2]
    wild = ~arch.kernel_pointer(values) & np.array(
        [arch.is_kernel_address(value) for value in values.tolist()], np.bool_
    )
    return [int(value) for value in values[wild & ~mapped]]


class _Place(NamedTuple):
    """A word that holds a pointer."""

    address: int
    mm: int


def _holders(records: Records, complaint: Complaint, targets: list[_Target], value: int) -> list[BrokenWord]:
    """Words that hold ``value``, in what registers lead to and in the records of the task's memory map."""
    mm = records.mm_of(complaint.said.pid)
    found: dict[int, str] = {}
    if mm:
        found |= dict(_in_tree(records, mm, value))
    for target in targets:
        if target.found.size > _LARGEST:
            continue
        words = records.words(target.found.start, target.found.size // 8)
        for place in np.flatnonzero(words == np.uint64(value)).tolist():
            address = target.found.start + 8 * place
            found.setdefault(address, f"{target.register} leads to {records.object_name(target.found)}")
    if mm:
        found = dict(_in_vmas(records, mm, value)) | found
    found = found or further_holders(records, complaint, [target.found for target in targets], value)
    return [_broken(records, address, why, value, mm) for address, why in found.items()]


def _in_tree(records: Records, mm: int, value: int) -> Iterator[tuple[int, str]]:
    """Slots of the maple tree that hold the pointer."""
    entries = records.index(mm)
    for row in np.flatnonzero(entries.vma == np.uint64(value)).tolist():
        yield int(entries.slot[row]), "it stands in the index of the process's VMAs"


def _in_vmas(records: Records, mm: int, value: int) -> Iterator[tuple[int, str]]:
    """Words of the VMAs of the mm that hold it."""
    entries = records.index(mm)
    size = records.kernel.sizeof("vm_area_struct")
    words, ok = records.kernel.words(entries.vma, size // 8)
    row, place = np.nonzero((words == np.uint64(value)) & ok[:, None])
    for vma, word in zip(entries.vma[row].tolist(), place.tolist(), strict=True):
        yield vma + 8 * word, "a word of a VMA of the process"


def _broken(records: Records, address: int, why: str, value: int, mm: int) -> BrokenWord:
    """The word at ``address``, with what it held before, if one bit or byte of it was changed."""
    entries = records.index(mm) if mm else IndexEntries.zeros(0)
    slot = next(iter(np.flatnonzero(entries.slot == np.uint64(address)).tolist()), None)
    what = records.word_name(address)
    user = None
    if slot is not None and records.kernel.has("mm_struct", "mm_mt"):
        user = int(entries.start[slot])
        node = records.objects.at(address)
        place = f"maple_node {node.start:#x}" if node is not None else "the tree's root"
        what = f"the slot for {user:#x}-{int(entries.end[slot]):#x} in {place} of {records.who(mm)}"
    reasons = [
        why,
        f"no {'memory' if records.kernel.arch.is_kernel_address(value) else 'kernel memory'} is at {value:#x}",
    ]
    before = _before(records, address, value, is_slot=slot is not None)
    if before is not None:
        target = records.objects.at(before)
        reasons.append(
            f"{flipped(value, before)}: without that it leads to "
            + (records.object_name(target) if target is not None else records.leads_to(before))
        )
    flags = (records.word(address) or 0) & tags_of(value)
    return BrokenWord(
        what=what,
        address=address,
        physical=records.physical(address),
        user_address=user,
        mm=mm,
        found=hex(value | flags),
        expected="" if before is None else hex(before | flags),
        sure=Sure.CERTAIN if before is not None else Sure.LIKELY,
        why=tuple(reasons),
    )


def _before(records: Records, address: int, value: int, *, is_slot: bool) -> int | None:
    """``value`` with one bit other, if that is the start of the one object that the member may point to.

    If it is of no slab: of the one symbol of the kernel itself, as its tables of operations have.
    """
    bits: U64 = np.uint64(value) ^ (np.uint64(1) << np.arange(64, dtype=np.uint64))
    records.objects.look_up(bits)
    wanted = "vm_area_struct" if is_slot else _pointed_to(records, address)
    fits = []
    for candidate in bits.tolist():
        target = records.objects.at(candidate)
        if target is None or target.offset or target.state == State.FREE:
            continue
        if wanted is None or target.struct in (wanted, None):
            fits.append(candidate)
    fits = fits or records.own_symbols(value)
    return fits[0] if len(fits) == 1 else None


def _pointed_to(records: Records, address: int) -> str | None:
    """The structure that the member at ``address`` points to."""
    found = records.objects.at(address)
    pointers = {} if found is None or found.struct is None else _pointers(records, found.struct)
    return None if found is None or found.offset not in pointers else pointers[found.offset].struct


class _Pointer(NamedTuple):
    """A member that points to a structure."""

    name: str
    struct: str


def _pointers(records: Records, struct: str) -> dict[int, _Pointer]:
    """The members of a structure that point to structures, by offset; those of embedded structures left out."""
    layout = records.kernel.types.struct(struct)
    return {
        field.offset: _Pointer(name, field.struct)
        for name, field in (layout.fields.items() if layout is not None else ())
        if field.pointer and field.struct and field.count is None and field.size == _POINTER
    }


def _holding(records: Records, mm: int, vma: int) -> int | None:
    """The mm, if its index holds the VMA."""
    return mm if mm and (records.index(mm).vma == np.uint64(vma)).any() else None


def _null_members(records: Records, mm: int, targets: list[_Target], fault: int) -> Iterator[BrokenWord]:
    """Pointers that are NULL, in what registers lead to, to structures with a member at the address that faulted."""
    kernel = records.kernel
    found: dict[int, tuple[bool, BrokenWord]] = {}
    for target in targets:
        struct = target.found.struct
        if struct is None or target.found.state == State.FREE:
            continue
        words = records.words(target.found.start, target.found.size // 8)
        for offset, pointer in sorted(_pointers(records, struct).items()):
            if offset % 8 or offset // 8 >= len(words) or words[offset // 8] != 0:
                continue
            member = begins_at(kernel.types, pointer.struct, fault)
            if member is None:
                continue
            address = target.found.start + offset
            never = (struct, pointer.name) in _NEVER_NULL
            owner = _holding(records, mm, target.found.start) if pointer.struct == "mm_struct" else None
            reasons = [f"{target.register} leads to it; the kernel read NULL->{member}, which is {fault:#x}"]
            reasons += [f"{pointer.name} is never NULL while a {struct} is in use"] if never else []
            reasons += [f"the index of {records.who(mm)} holds it"] if owner else []
            word = BrokenWord(
                what=records.word_name(address),
                address=address,
                physical=records.physical(address),
                found="0x0",
                mm=owner or 0,
                expected=hex(owner) if owner else f"a struct {pointer.struct}",
                sure=Sure.CERTAIN if owner else Sure.LIKELY if never else Sure.POSSIBLE,
                why=tuple(reasons),
            )
            found.setdefault(address, (never, word))
    sure = [word for never, word in found.values() if never]
    yield from sure or [word for _, word in found.values()]
