"""What registers and words of the stack lead to, as text for people."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.crash.pointers_document import FaultPart, NearPart, PointerPart, PointersPart

_WIDTH: Final = 120
_VALUE: Final = 16


def fault_lines(pointers: PointersPart) -> Iterator[str]:
    """The address that could not be used, and where it stands; then the addresses that the kernel named."""
    if pointers.fault is not None:
        yield from _fault(pointers.fault)
    for pointer in [pointer for pointer in pointers.registers if pointer.odd]:
        yield from _wrapped(f"{pointer.name} {_bare(pointer.value)}", pointer.text)
    for pointer in pointers.said:
        yield from _wrapped(f"{pointer.name} {_bare(pointer.value)}", pointer.text)


def _fault(fault: FaultPart) -> Iterator[str]:
    pointer = fault.pointer
    if pointer is None or fault.register is None:
        yield from _wrapped(_bare(fault.address), fault.text or f"NULL+{fault.address}")
    else:
        how = f"{fault.register} + {fault.displacement:#x}" if fault.displacement else f"the value of {fault.register}"
        yield from _wrapped(
            _bare(fault.address), f"is {how}" + ("" if fault.exact else ", if that is where it is from")
        )
        yield from _wrapped(f"{fault.register} {_bare(pointer.value)}", pointer.text or _number(pointer.value))
    for held in fault.held:
        yield from _wrapped(f"it stands at {_bare(held.value)}", held.text)
    for text in fault.lists:
        yield from _wrapped("it stands at", text)
    for near in fault.nearly:
        yield from near_lines(near)
    for null in fault.null:
        yield from _wrapped(
            f"NULL->{null.member}?", f"struct {null.struct} has it there; NULL is the pointer in {null.pointer.text}"
        )


def near_lines(near: NearPart) -> Iterator[str]:
    """What a value would lead to if a byte of it were another."""
    yield from _wrapped(f"with {_changed(near)}", near.pointer.text)


def _changed(near: NearPart) -> str:
    """Which bits would have to be others."""
    bits = int(near.changed, 16)
    if bits.bit_count() == 1:
        return f"bit {bits.bit_length() - 1} changed, {int(near.pointer.value, 16):x}"
    return f"byte {(bits.bit_length() - 1) // 8} changed, {int(near.pointer.value, 16):x}"


def _number(value: str) -> str:
    return "NULL" if value == "0x0" else "a number"


def register_lines(pointers: PointersPart) -> Iterator[str]:
    """A line for each register that leads somewhere."""
    for pointer in pointers.registers:
        yield from _wrapped(f"{pointer.name:>4} {_bare(pointer.value):0>{_VALUE}}", pointer.text)


def stack_lines(pointers: PointersPart) -> Iterator[str]:
    """The words of the stack, beneath the function in whose frame they lie, and lines to see it in other tools."""
    frame = ""
    for word in pointers.stack:
        if word.frame != frame:
            frame = word.frame
            yield f"  {frame}"
        yield from _wrapped(f"  {_bare(word.address)}", word.pointer.text)
    for line in pointers.lines if pointers.stack else ():
        yield f"      {line}"


def pointer_lines(pointer: PointerPart) -> Iterator[str]:
    """One value on its own, with the lines for other tools."""
    named = f"{pointer.name} = " if pointer.name else ""
    yield from _wrapped(f"{named}{_bare(pointer.value)}", pointer.text or "a number")
    for line in pointer.lines:
        yield f"      {line}"


def _bare(value: str) -> str:
    return value.removeprefix("0x")


def _wrapped(label: str, text: str) -> list[str]:
    """A labelled line, wrapped."""
    return textwrap.wrap(
        f"{label}: {text}", _WIDTH, initial_indent="  ", subsequent_indent=" " * 6, break_on_hyphens=False
    )


def pointer_summary(pointers: PointersPart) -> str | None:
    """Where the pointer that could not be used stands, in a sentence; None where that is not known."""
    fault = pointers.fault
    if fault is None:
        return None
    if fault.held:
        return f"what could not be used stands at {fault.held[0].value}, {fault.held[0].text}"
    if fault.null:
        null = fault.null[0]
        return f"NULL->{null.member}: NULL stands at {null.pointer.value}, {null.pointer.text}"
    if fault.lists:
        return f"what could not be used stands at {fault.lists[0]}"
    odd = next((pointer for pointer in pointers.registers if pointer.odd), None)
    if odd is not None:
        return f"{odd.name}, {odd.value}, leads to {odd.text}"
    if fault.nearly:
        wrong = fault.address if fault.pointer is None else fault.pointer.value
        return f"{wrong} leads nowhere; with {_changed(fault.nearly[0])}, to {fault.nearly[0].pointer.text}"
    return None
