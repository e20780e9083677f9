"""What registers and words of the stack lead to, as text for people."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vmaforensics.crash.pointers_document import FaultPart, NearPart, PointerPart, PointersPart
    from vmaforensics.crash.trail.parts import WordPart

_WIDTH: Final = 120
_VALUE: Final = 16


def said_lines(pointers: PointersPart) -> Iterator[str]:
    """Registers whose pointers contradict themselves, and the addresses that the kernel named."""
    for pointer in [*(pointer for pointer in pointers.registers if pointer.odd), *pointers.said]:
        yield from _wrapped(f"{pointer.name} {_bare(pointer.value)}: {pointer.text}")


def fault_lines(fault: FaultPart, words: Iterable[WordPart]) -> Iterator[str]:
    """:func:`fault_sentences`, wrapped."""
    for sentence in fault_sentences(fault, words):
        yield from _wrapped(sentence)


def fault_sentences(fault: FaultPart, words: Iterable[WordPart]) -> Iterator[str]:
    """The address that could not be used, and the ``words`` that it came from."""
    pointer = fault.pointer
    if pointer is None or fault.register is None:
        yield f"{_bare(fault.address)}: {fault.text or f'NULL+{fault.address}'}"
    else:
        how = f"{fault.register} + {fault.displacement:#x}" if fault.displacement else f"the value of {fault.register}"
        yield f"{_bare(fault.address)}: is {how}" + ("" if fault.exact else ", if that is where it is from")
        yield f"{fault.register} {_bare(pointer.value)}: {pointer.text or _number(pointer.value)}"
    for word in words:
        if word.address is not None:
            yield f"it stands at {_bare(word.address)}: {word.what}"
    for near in fault.nearly:
        yield _near(near)


def near_lines(near: NearPart) -> Iterator[str]:
    """What a value would lead to if a byte of it were another."""
    yield from _wrapped(_near(near))


def _near(near: NearPart) -> str:
    return f"with {_changed(near)}: {near.pointer.text}"


def _changed(near: NearPart) -> str:
    """Which bits would have to be others."""
    bits = int(near.changed, 16)
    if bits.bit_count() == 1:
        return f"bit {bits.bit_length() - 1} changed, {int(near.pointer.value, 16):x}"
    return f"byte {(bits.bit_length() - 1) // 8} changed, {int(near.pointer.value, 16):x}"


def _number(value: str) -> str:
    return "NULL" if value == "0x0" else "a number"


def register_lines(registers: Iterable[PointerPart]) -> Iterator[str]:
    """:func:`register_sentences`, wrapped."""
    for sentence in register_sentences(registers):
        yield from _wrapped(sentence)


def register_sentences(registers: Iterable[PointerPart]) -> Iterator[str]:
    """A line for each register that leads somewhere."""
    for pointer in registers:
        yield f"{pointer.name:>4} {_bare(pointer.value):0>{_VALUE}}: {pointer.text}"


def stack_lines(pointers: PointersPart) -> Iterator[str]:
    """The words of the stack, beneath the function in whose frame they lie, and lines to see it in other tools."""
    frame = ""
    for word in pointers.stack:
        if word.frame != frame:
            frame = word.frame
            yield f"  {frame}"
        yield from _wrapped(f"  {_bare(word.address)}: {word.pointer.text}")
    for line in pointers.lines if pointers.stack else ():
        yield f"      {line}"


def pointer_lines(pointer: PointerPart) -> Iterator[str]:
    """One value on its own, with the lines for other tools."""
    named = f"{pointer.name} = " if pointer.name else ""
    yield from _wrapped(f"{named}{_bare(pointer.value)}: {pointer.text or 'a number'}")
    for line in pointer.lines:
        yield f"      {line}"


def _bare(value: str) -> str:
    return value.removeprefix("0x")


def _wrapped(text: str) -> list[str]:
    """A line of a section, wrapped."""
    return textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent=" " * 6, break_on_hyphens=False)


def pointer_summary(pointers: PointersPart, fault: FaultPart | None) -> str | None:
    """Where the pointer leads that could not be used, in a sentence; None where that says nothing."""
    if fault is None:
        return None
    odd = next((pointer for pointer in pointers.registers if pointer.odd), None)
    if odd is not None:
        return f"{odd.name}, {odd.value}, leads to {odd.text}"
    if fault.nearly:
        wrong = fault.address if fault.pointer is None else fault.pointer.value
        return f"{wrong} leads nowhere; with {_changed(fault.nearly[0])}, to {fault.nearly[0].pointer.text}"
    return None
