"""The address that the kernel could not use: which register it was made of, and where that register's value stands.

A wrong pointer was loaded from somewhere. Its value, still in a register, is looked for in the objects that the other
registers lead to; where it stands is the word that is broken. Of NULL there are many: there the type of the pointer has
to fit the member that was accessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.views.objects.explain import explain
from vmaforensics.views.objects.holders import holders, null_pointers, one_byte_off
from vmaforensics.views.objects.places import Place
from vmaforensics.views.slab.free_pointers import free_pointers_to

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vmaforensics.arch.registers import MemoryOperand
    from vmaforensics.crash.trace import Particulars
    from vmaforensics.views.objects.explain import Meaning
    from vmaforensics.views.objects.holders import Nearly, NullMember
    from vmaforensics.views.objects.surroundings import Surroundings

_NEAR: Final = 1 << 12  # bytes behind a pointer that a member may lie, and below which an address is NULL's
_MOST: Final = 4
_WRONG: Final = (Place.UNMAPPED, Place.NON_CANONICAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An address that could not be used; ``register`` None where none is near it."""

    address: int
    meaning: Meaning
    register: str | None  # that holds the pointer
    displacement: int  # of the address from the pointer
    exact: bool  # the instruction says so; otherwise the register is just near
    pointer: Meaning | None  # what the register leads to
    held: list[Meaning]  # words that hold the pointer
    lists: list[str]  # free lists that begin with it, in words
    nearly: list[Nearly]  # objects it would lead to with one byte changed
    null: list[NullMember]  # pointers that are NULL and of a fitting type


def find_fault(
    surroundings: Surroundings,
    said: Particulars,
    registers: Mapping[str, int],
    near: Sequence[Sequence[Meaning]],
    mm: int,
) -> Fault | None:
    """The address that ``said`` names, or to which the kernel had jumped; None where it says none.

    ``registers`` are those that hold addresses. ``near`` is what they lead to, then what the stack does: a pointer is
    looked for in the latter only where the former have none.
    """
    ip = surroundings.kernel.arch.registers.ip
    address = registers.get(ip) if said.place is None and ip in registers else said.address
    if address is None:
        return None
    operand = surroundings.kernel.arch.operand(said.code) if said.code else None
    name, exact = _register({other: value for other, value in registers.items() if other != ip}, address, operand)
    bad = registers[name] if name is not None else address if address >= _NEAR else 0
    of_fault, of_pointer = explain(surroundings, np.array([address, bad], np.uint64), mm)
    values = [bad, *_behind(registers, address, bad)] if bad >= _NEAR else []
    # Patterns that memory is filled with stand everywhere: where they do says nothing.
    filled = of_pointer.place in (Place.POISON, Place.TEXT)
    wrong = [value for value in values if (value == bad and not filled) or of_fault.place in _WRONG]
    nearly = [found for value in wrong if of_fault.place in _WRONG for found in one_byte_off(surroundings, value)]
    held: list[Meaning] = []
    null: list[NullMember] = []
    for objects in near:
        if not held:
            held = [found for value in wrong for found in holders(surroundings, objects, value)]
        if not null and bad == 0 and address < _NEAR:
            null = _likeliest(null_pointers(surroundings, objects, address))
    objects = [meaning for part in near for meaning in part]
    return Fault(
        address=address,
        meaning=of_fault,
        register=name,
        displacement=address - bad,
        exact=exact,
        pointer=None if name is None else of_pointer,
        held=held[:_MOST],
        lists=[text for value in wrong for text in _lists(surroundings, objects, value)][:_MOST],
        nearly=nearly[:_MOST],
        null=null[:_MOST],
    )


def _register(registers: Mapping[str, int], address: int, operand: MemoryOperand | None) -> tuple[str | None, bool]:
    """(the register that the address was made of, does the instruction prove it)."""
    if operand is not None and operand.base is not None and operand.address(registers) == address:
        return operand.base, True
    near = [(address - value, name) for name, value in registers.items() if 0 <= address - value < _NEAR and value]
    return (min(near)[1], False) if near else (None, False)


def _behind(registers: Mapping[str, int], address: int, bad: int) -> list[int]:
    """Values of other registers that the address may have been made of: it lies little behind them."""
    found = {value for value in registers.values() if value != bad and value >= _NEAR and 0 <= address - value < _NEAR}
    return sorted(found, reverse=True)[:_MOST]


def _lists(surroundings: Surroundings, objects: Sequence[Meaning], value: int) -> list[str]:
    """Lists of free objects that begin with ``value``, of caches that registers lead to."""
    texts = []
    caches = {
        meaning.object: meaning.detail for meaning in objects if meaning.struct == "kmem_cache" and meaning.object
    }
    for cache, detail in caches.items():
        found = free_pointers_to(surroundings.kernel, cache, value)
        texts += [f"{where:#x}: kmem_cache_cpu.freelist of CPU {cpu}, {detail}" for cpu, where in found.lists]
        texts += [f"{where:#x}: free pointer of an object of {detail}, decoded" for where in found.objects]
    return texts


def _likeliest(found: list[NullMember]) -> list[NullMember]:
    """Pointers of other objects than tasks, which have pointers to anything, and to members that are no array's."""
    plain = [null for null in found if "[" not in null.member]
    others = [null for null in plain if null.holder.struct != "task_struct"]
    return others or plain
