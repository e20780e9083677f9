"""The address that kernel code could not use, and which register it was made of.

The instruction says which (``Code:``). Where that is not to be had, the register that lies least below the address is
taken, which is a guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.crash.named_values import address_registers
from vmaforensics.views.objects.nearly import one_byte_off
from vmaforensics.views.objects.places import Place

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmaforensics.crash.complaints import Complaint
    from vmaforensics.crash.trail.records import Records
    from vmaforensics.views.objects.explain import Meaning
    from vmaforensics.views.objects.nearly import Nearly

NEAR: Final = 1 << 12  # bytes behind a pointer that a member may lie, and below which an address is NULL's
_MOST: Final = 4
_WRONG: Final = (Place.UNMAPPED, Place.NON_CANONICAL)
_FILLED: Final = (Place.POISON, Place.TEXT)  # such values stand everywhere: where they do says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An address that could not be used; ``register`` None where none is near it."""

    address: int
    meaning: Meaning
    register: str | None  # that holds the pointer
    displacement: int  # of the address from the pointer
    exact: bool  # the instruction says so; otherwise the register is just near
    pointer: Meaning | None  # what the register leads to
    nearly: list[Nearly]  # objects it would lead to with one byte changed
    suspects: tuple[int, ...]  # values that it may have been made of, the likeliest first; none where it is NULL's

    @property
    def null(self) -> bool:
        """Is it an address of NULL, or of a member of what NULL leads to?"""
        return self.address < NEAR


def read_fault(records: Records, complaint: Complaint) -> Fault | None:
    """The address that a complaint names, or to which the kernel had jumped; None where it says none."""
    said, arch = complaint.said, records.kernel.arch
    registers = address_registers(arch, said.registers)
    jumped = registers.pop(arch.registers.ip, None)
    address = jumped if said.place is None and jumped is not None else said.address
    if address is None:
        address = complaint.named.get("bad pointer")
    if address is None:
        return None
    name, exact = _register(records, registers, address, said.code)
    bad = registers[name] if name is not None else address if address >= NEAR else 0
    of_fault, of_pointer = records.meanings(np.array([address, bad], np.uint64), records.mm_of(said.pid))
    suspects: list[int] = []
    if bad >= NEAR:
        wrong = of_fault.place in _WRONG
        suspects += [bad] if wrong or of_pointer.place not in _FILLED else []
        suspects += _behind(registers, address, bad) if wrong else []
    nearly = [
        found
        for value in (suspects if of_fault.place in _WRONG else [])
        for found in one_byte_off(records.surroundings, value)
    ]
    return Fault(
        address=address,
        meaning=of_fault,
        register=name,
        displacement=address - bad,
        exact=exact,
        pointer=None if name is None else of_pointer,
        nearly=nearly[:_MOST],
        suspects=tuple(suspects),
    )


def _register(records: Records, registers: Mapping[str, int], address: int, code: bytes) -> tuple[str | None, bool]:
    """(the register that the address was made of, does the instruction prove it)."""
    operand = records.kernel.arch.operand(code) if code else None
    if operand is not None and operand.base is not None and operand.address(registers) == address:
        return operand.base, True
    near = [(address - value, name) for name, value in registers.items() if 0 <= address - value < NEAR and value]
    return (min(near)[1], False) if near else (None, False)


def _behind(registers: Mapping[str, int], address: int, bad: int) -> list[int]:
    """Values of other registers that the address may have been made of: it lies little behind them."""
    found = {value for value in registers.values() if value not in (bad, 0) and 0 <= address - value < NEAR <= value}
    return sorted(found, reverse=True)[:_MOST]
