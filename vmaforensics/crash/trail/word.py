"""A word of kernel memory that a complaint leads to."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmaforensics.crash.named_values import NamedValue
    from vmaforensics.crash.trail.fault import Fault


class Sure(StrEnum):
    """How sure it is that the word is what is broken."""

    CERTAIN = "certain"  # the kernel named it, or two records that must agree do not
    LIKELY = "likely"  # nothing else that was looked at fits
    POSSIBLE = "possible"  # one of several that fit


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenWord:
    """A word, what it holds, and what it should. Strings may hold text of the image: not fit to be shown."""

    what: str  # structure and member, and whose it is
    address: int | None = None  # kernel virtual
    physical: int | None = None
    user_address: int | None = None  # that it is about
    mm: int = 0  # address space whose records it belongs to, 0 if that is not known
    found: str = ""
    expected: str = ""
    sure: Sure = Sure.LIKELY
    why: tuple[str, ...] = ()  # what speaks for it, a sentence each


@dataclass(slots=True, kw_only=True)
class Trail:
    """What one complaint leads to."""

    words: list[BrokenWord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what could not be followed, and why
    fault: Fault | None = None  # the address that it says could not be used
    registers: list[NamedValue] = field(default_factory=list)  # what those beneath it lead to by now


def flipped(found: int, expected: int) -> str:
    """How two words differ: "bit 37 is set", "byte 5 differs"; empty where they differ in more.

    >>> flipped(0x24, 0x04), flipped(0x04, 0x24), flipped(0xff00, 0x1200)
    ('bit 5 is set', 'bit 5 is clear', 'byte 1 differs')
    """
    difference = found ^ expected
    if difference.bit_count() == 1:
        bit = difference.bit_length() - 1
        return f"bit {bit} is {'set' if found >> bit & 1 else 'clear'}"
    byte = (difference.bit_length() - 1) // 8
    return f"byte {byte} differs" if difference and difference & ~(0xFF << 8 * byte) == 0 else ""
