"""Where else a pointer may have been loaded from: objects that no register of the complaint leads to any more.

The code that faulted often has the pointer only, and not where it came from: ``put_files_struct(task->files)``. Looked
through are the records of the task itself, what its stack leads to, and what the words of all these lead to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.views.slab.objects import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vmaforensics.columns.types import U64
    from vmaforensics.crash.complaints import Complaint
    from vmaforensics.crash.trail.objects import SlabObject
    from vmaforensics.crash.trail.records import Records

_STACK_WORDS: Final = 256  # above the stack pointer
_MOST: Final = 256  # objects
_LARGEST: Final = 16 << 10  # bytes of an object that are searched
_NODE: Final = 256  # what nodes of maple trees are multiples of; the bits below say what they are (MAPLE_NODE_MASK)
_VARIED: Final = 4  # different bytes; what memory is filled with has fewer, and where that stands says nothing
_TAGS: Final = 7  # bits of a pointer to anything else that flags may be kept in


def tags_of(value: int) -> int:
    """The low bits that a pointer to ``value`` may keep flags in."""
    return _NODE - 1 if value % _NODE == 0 else 0 if value & _TAGS else _TAGS


def further_holders(records: Records, complaint: Complaint, known: Iterable[SlabObject], value: int) -> dict[int, str]:
    """Words that hold ``value``, whatever its tag bits are, by address, each with why it was looked at.

    Only objects in use whose structure is known: others may have copies.
    """
    pattern = len(set(value.to_bytes(8, "little"))) < _VARIED
    if pattern or not records.kernel.arch.is_kernel_address(value):
        return {}
    own = list(_own(records, complaint))
    for objects in ([*own, *stack_objects(records, complaint)], _led_to(records, [*own, *known])):
        found = {
            address: f"{records.object_name(holder)} holds it"
            for holder in objects
            if holder.struct is not None and holder.state != State.FREE
            for address in places_of(records, holder, value)
        }
        if found:
            return found
    return {}


def _own(records: Records, complaint: Complaint) -> Iterator[SlabObject]:
    """The task and its address space."""
    tasks = records.tasks
    addresses = tasks.task[tasks.pid == complaint.said.pid].tolist() if complaint.said.pid else []
    for address in [*addresses, records.mm_of(complaint.said.pid)]:
        found = records.objects.at(address) if address else None
        if found is not None:
            yield found


def stack_objects(records: Records, complaint: Complaint) -> list[SlabObject]:
    """What words above the stack pointer lead to."""
    sp = complaint.said.registers.get(records.kernel.arch.registers.sp)
    if sp is None or not records.kernel.arch.is_kernel_address(sp):
        return []
    words, ok = records.kernel.words((sp & ~7) + np.arange(_STACK_WORDS, dtype=np.uint64) * np.uint64(8), 1)
    return _objects(records, words[ok, 0])


def _led_to(records: Records, objects: Iterable[SlabObject]) -> list[SlabObject]:
    """What the words of objects lead to."""
    words = [_words(records, found) for found in objects]
    return _objects(records, np.concatenate([np.zeros(0, np.uint64), *words]))


def _objects(records: Records, values: U64) -> list[SlabObject]:
    """The distinct objects that values lead into."""
    records.objects.look_up(values)
    found: dict[int, SlabObject] = {}
    for value in values.tolist():
        target = records.objects.at(value)
        if target is not None and len(found) < _MOST:
            found.setdefault(target.start, target)
    return list(found.values())


def _words(records: Records, found: SlabObject) -> U64:
    return records.words(found.start, min(found.size, _LARGEST) // 8)


def places_of(records: Records, holder: SlabObject, value: int) -> list[int]:
    """Addresses of the words of an object that hold ``value``; what a CPU saved in a task when it faulted is a copy."""
    mask = np.uint64(~tags_of(value) % (1 << 64))
    places = np.flatnonzero(_words(records, holder) & mask == np.uint64(value) & mask) * 8
    kernel = records.kernel
    if holder.struct == "task_struct" and kernel.has("task_struct", "thread"):
        saved = kernel.member("task_struct", "thread")
        places = places[(places < saved.offset) | (places >= saved.offset + saved.extent)]
    return [holder.start + place for place in places.tolist()]
