"""Where the members of a structure lie, asked by name and by presence, never by kernel version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One member: offset and size in bytes; ``size`` is that of one element of an array.

    ``struct`` names the structure the member is (or, with ``pointer``, points to), for dotted paths.
    """

    offset: int
    size: int
    count: int | None = None  # elements, if the member is an array
    signed: bool = False
    bit_offset: int = 0  # of a bit field, within the byte at ``offset``
    bit_size: int = 0  # 0: not a bit field
    struct: str | None = None
    pointer: bool = False

    @property
    def extent(self) -> int:
        """Bytes the whole member takes."""
        return self.size * (1 if self.count is None else self.count)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """How NumPy reads it: integers by size and sign, arrays of them, anything else as raw bytes."""
        if self.size in (1, 2, 4, 8) and (self.struct is None or self.pointer):
            scalar = np.dtype(f"<{'i' if self.signed else 'u'}{self.size}")
            return scalar if self.count is None else np.dtype((scalar, (self.count,)))
        return np.dtype((np.uint8, (self.extent,)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A structure's size in bytes and its members, those of anonymous members included."""

    name: str
    size: int
    fields: dict[str, Field]


class Types(Protocol):
    """A source of type information: BTF; later ISF or DWARF."""

    def struct(self, name: str) -> Layout | None:
        """The layout of a structure, or None if the source does not know it."""
        ...

    def constant(self, name: str) -> int | None:
        """The value of an enumerator, or None if the source does not know it."""
        ...


def member(types: Types, struct: str, path: str) -> Field | None:
    """The member ``path`` of ``struct``; dots lead into embedded structures (``mm_mt.ma_root``).

    None if the structure or any part of the path does not exist in this kernel.
    """
    base = 0
    found: Field | None = None
    for name in path.split("."):
        layout = types.struct(struct)
        found = layout.fields.get(name) if layout else None
        if found is None:
            return None
        base += found.offset
        struct = found.struct if found.struct and not found.pointer else ""
    assert found is not None
    return Field(
        offset=base,
        size=found.size,
        count=found.count,
        signed=found.signed,
        bit_offset=found.bit_offset,
        bit_size=found.bit_size,
        struct=found.struct,
        pointer=found.pointer,
    )
