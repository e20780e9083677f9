"""The parts of the document on what registers and words of the stack lead to."""

from __future__ import annotations

import msgspec


class PointersBase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every part here. Addresses and values are hexadecimal strings."""


class PointerPart(PointersBase, frozen=True, omit_defaults=True):
    """A value, and what it leads to. ``place`` is a fixed word, ``text`` says it for people.

    ``object`` is the address of the slab object, or of the struct page, that the value lies in, ``offset`` bytes into
    it; ``struct`` and ``member`` are what the kernel's types call it. ``state`` is what the allocator says of it.
    """

    value: str
    place: str
    text: str
    name: str = ""  # of the register, or what the kernel called it
    object: str | None = None
    cache: str | None = None
    struct: str | None = None
    offset: int = 0
    member: str | None = None
    state: str | None = None
    detail: str = ""  # what more is known of the object
    odd: bool = False  # what it leads to contradicts itself
    lines: list[str] = []


class StackWordPart(PointersBase, frozen=True):
    """A word of the stack; ``frame`` is the function whose frame it lies in."""

    address: str
    frame: str
    pointer: PointerPart


class NearPart(PointersBase, frozen=True):
    """An object that a pointer would lead to if the ``changed`` bits were the other way."""

    changed: str
    pointer: PointerPart


class FaultPart(PointersBase, frozen=True):
    """The address that could not be used.

    It lies ``displacement`` bytes behind the value of ``register``; ``exact`` if the instruction says so, otherwise the
    register is near it. ``nearly`` are objects that the pointer would lead to with one byte changed.
    """

    address: str
    text: str
    register: str | None
    displacement: int
    exact: bool
    pointer: PointerPart | None
    nearly: list[NearPart]


class PointersPart(PointersBase, frozen=True):
    """What the registers and the stack of who died lead to; null where nothing died, or tasks are not known."""

    cpu: int | None
    source: str  # of the registers
    said: list[PointerPart]  # addresses that the kernel named
    registers: list[PointerPart]
    stack: list[StackWordPart]
    lines: list[str]  # to look at the stack and the instruction with other tools
