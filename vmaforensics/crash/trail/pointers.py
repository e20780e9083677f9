"""Pointers that kernel code could not follow: the word that held the one in a register, or that was NULL.

A faulting instruction leaves the pointer in a register, and addresses near where it came from in others. In this order:

1. which register the address was made of (:mod:`fault`); its value, then those of others that lie little behind the
   address, are looked for
2. in the index of the VMAs of the task's memory map, in the objects that registers lead to, and in these VMAs;
3. in the task itself, what its stack leads to, and what the words of all these lead to (:mod:`further`);
4. in what registers lead to that is no slab object: stacks of other tasks, variables, per-CPU memory;
5. on the free lists of CPUs (:mod:`free_pointers`);
6. if nothing holds it: struct pages in registers whose mapping contradicts itself (:mod:`frames`).

Of NULL there are many: there the type of the pointer has to fit the member that was accessed (:mod:`null_pointers`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.crash.named_values import address_registers
from vmaforensics.crash.trail.fault import read_fault
from vmaforensics.crash.trail.frames import broken_mapping
from vmaforensics.crash.trail.free_pointers import follow_free_pointer
from vmaforensics.crash.trail.further import further_holders, places_of
from vmaforensics.crash.trail.null_pointers import null_members
from vmaforensics.crash.trail.restored import broken_pointer
from vmaforensics.crash.trail.targets import targets_of
from vmaforensics.crash.trail.word import BrokenWord, Sure, Trail

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vmaforensics.crash.complaints import Complaint
    from vmaforensics.crash.trail.records import Records
    from vmaforensics.crash.trail.targets import Target

_MOST_WORDS: Final = 4
_LARGEST: Final = 16 << 10  # bytes of an object that are searched
_STACK: Final = 1 << 14  # bytes, of one that is not known
_BEHIND: Final = 32  # words behind a pointer to what is of no slab


def follow_pointer(records: Records, complaint: Complaint) -> Trail:
    """Where the pointer came from that faulted; else what is wrong with what the registers lead to."""
    registers = complaint.said.registers
    fault = read_fault(records, complaint)
    trail = Trail(fault=fault)
    targets = targets_of(records, registers)
    if fault is not None and fault.null:
        trail.words += null_members(records, complaint, targets, fault.address)
    else:
        for value in fault.suspects if fault is not None else _wild(records, registers):
            trail.words += _holders(records, complaint, targets, value)[:_MOST_WORDS]
            if not trail.words:
                free = follow_free_pointer(records, complaint, targets, value)
                trail.words += free.words
                trail.notes += free.notes
            if trail.words:
                break
    if not trail.words:
        for _, value in sorted(registers.items()):
            broken = broken_mapping(records, value)
            if broken is not None and broken not in trail.words:
                trail.words.append(broken)
    if not trail.words and fault is not None and fault.suspects:
        trail.notes.append(
            "no word that was looked at holds the pointer any more: the code had taken it from there, or made it"
        )
    if not trail.words and not registers:
        trail.notes.append("the log has no registers of kernel code beneath it")
    return trail


def _wild(records: Records, registers: Mapping[str, int]) -> list[int]:
    """Values of registers that are like addresses of the kernel and lead nowhere."""
    arch, space = records.kernel.arch, records.kernel.space
    values = np.array(sorted(set(registers.values())), np.uint64)
    mapped = space.translate(values)[2]
    wild = ~arch.kernel_pointer(values) & np.array(
        [arch.is_kernel_address(value) for value in values.tolist()], np.bool_
    )
    return [int(value) for value in values[wild & ~mapped]]


def _holders(records: Records, complaint: Complaint, targets: list[Target], value: int) -> list[BrokenWord]:
    """Words that hold ``value``, in what registers lead to and in the records of the task's memory map."""
    mm = records.mm_of(complaint.said.pid)
    found: dict[int, str] = {}
    if mm:
        found |= dict(_in_tree(records, mm, value))
    for target in targets:
        if target.found.size > _LARGEST:
            continue
        for address in places_of(records, target.found, value):
            found.setdefault(address, f"{target.register} leads to {records.object_name(target.found)}")
    if mm:
        found = dict(_in_vmas(records, mm, value)) | found
    found = found or further_holders(records, complaint, [target.found for target in targets], value)
    if found:
        return [broken_pointer(records, address, why, value, mm) for address, why in found.items()]
    # No type says what these words are, so that they may be copies.
    others = [
        broken_pointer(records, address, why, value, mm) for address, why in _elsewhere(records, complaint, value)
    ]
    return [replace(word, sure=Sure.LIKELY) for word in others]


def _elsewhere(records: Records, complaint: Complaint, value: int) -> Iterator[tuple[int, str]]:
    """Words that hold ``value`` a little behind where registers lead to, in memory that is of no slab.

    The stack of the code itself is left out: the CPU has put the registers there.
    """
    arch, seen = records.kernel.arch, set[int]()
    registers = address_registers(arch, complaint.said.registers)
    stacks, sp = records.surroundings, registers.get(arch.registers.sp, 0)
    own = stacks.stack_of(np.array([sp], np.uint64))[0]
    for name, pointer in registers.items():
        at = np.array([pointer & ~7], np.uint64)
        if not arch.is_kernel_address(pointer) or records.objects.at(pointer) is not None:
            continue
        if stacks.stack_of(at)[0] == own if own >= 0 else abs(pointer - sp) < _STACK:
            continue
        words, ok = records.kernel.words(at + np.arange(_BEHIND, dtype=np.uint64) * np.uint64(8), 1)
        for place in np.flatnonzero(ok & (words[:, 0] == np.uint64(value))).tolist():
            address = int(at[0]) + 8 * place
            if address not in seen:
                seen.add(address)
                yield address, f"{name} leads there: {records.leads_to(pointer)}"


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
