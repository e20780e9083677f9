"""What an architecture needs of memory and of the kernel's types: protocols, so that it knows of neither."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from vmaforensics.columns.types import U8, U64, Bools


class PhysicalReader(Protocol):
    """Physical memory; see ``vmaforensics.image.memory.PhysicalMemory``."""

    @property
    def ranges(self) -> U64:
        """RAM as ``[start, end)`` pairs, shape ``(n, 2)``, sorted and disjoint."""
        ...

    def gather(self, pas: U64, size: int) -> tuple[U8, Bools]:
        """``size`` bytes at each physical address: (bytes of shape ``(len(pas), size)``, which could be read)."""
        ...


class SymbolReader(Protocol):
    """Symbols by name."""

    def get(self, name: str) -> int | None:
        """Address of the symbol, if there is one."""
        ...


class TypeReader(Protocol):
    """The kernel's types by name."""

    def struct(self, name: str) -> object | None:
        """The layout of the structure, if the kernel has one of that name."""
        ...


class KernelReader(Protocol):
    """Structures of the kernel; see ``vmaforensics.kernel.kernel.Kernel``."""

    @property
    def symbols(self) -> SymbolReader:
        """Symbols by name."""
        ...

    @property
    def types(self) -> TypeReader:
        """Types by name."""
        ...

    def has(self, struct: str, path: str) -> bool:
        """Does this kernel's ``struct`` have the member ``path``?"""
        ...

    def offset(self, struct: str, path: str) -> int:
        """Byte offset of a member."""
        ...

    def sizeof(self, struct: str) -> int:
        """Bytes of a structure."""
        ...

    def gather_member(self, struct: str, path: str, addresses: U64) -> tuple[U64, Bools]:
        """One unsigned member of the structures at ``addresses``: (values, which could be read)."""
        ...

    def words(self, addresses: U64, count: int) -> tuple[U64, Bools]:
        """``count`` 64-bit words at each kernel address, shape ``(n, count)``, and which could be read."""
        ...


class Note(Protocol):
    """An ELF note of a dump."""

    @property
    def name(self) -> str:
        """Owner, without the terminating NUL."""
        ...

    @property
    def type(self) -> int:
        """Meaning of the descriptor, by owner."""
        ...

    @property
    def desc(self) -> bytes:
        """The descriptor."""
        ...
