"""Symbols by name, as a file from outside lists them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.kernel.symbols.by_address import ByAddress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PROMOTED = re.compile(r"\.llvm\.\d+$")  # ThinLTO: what it appends to the name of a static symbol it makes global


class NamedSymbols:
    """Symbols by name; several may share one."""

    def __init__(self, symbols: Iterable[tuple[str, int]], *, every_function: bool = False) -> None:
        """Name and address of each, in the order of the file."""
        self.every_function = every_function
        self._addresses: dict[str, int] = {}
        self._others: dict[str, list[int]] = {}  # further addresses of a name
        for name, address in symbols:
            if self._addresses.setdefault(name, address) != address:
                self._others.setdefault(name, []).append(address)
        self._names: dict[int, str] | None = None
        self._by_address: ByAddress | None = None

    def __len__(self) -> int:
        return len(self._addresses)

    def get(self, name: str) -> int | None:
        """Address of the first symbol called ``name``."""
        return self._addresses.get(name)

    def find(self, name: str) -> list[int]:
        """Addresses of every symbol called ``name``."""
        first = self._addresses.get(name)
        return [] if first is None else [first, *self._others.get(name, ())]

    def items(self) -> Iterator[tuple[str, int]]:
        """Name and address of each symbol; a name that several share comes once for each."""
        for name, address in self._addresses.items():
            yield name, address
            for other in self._others.get(name, ()):
                yield name, other

    def name_of(self, address: int) -> str | None:
        """Name of a symbol at exactly ``address``."""
        if self._names is None:
            self._names = {}
            for name, at in self._addresses.items():
                self._names.setdefault(at, name)
        return self._names.get(address)

    def by_address(self) -> ByAddress:
        """The symbols in the order of addresses, sorted once."""
        if self._by_address is None:
            pairs = list(self.items())
            addresses = np.array([address for _, address in pairs], np.uint64)
            self._by_address = ByAddress(addresses, [name for name, _ in pairs].__getitem__)
        return self._by_address


def moved_symbols(
    linked: Iterable[tuple[str, int]], moved: int, image_start: int, *, every_function: bool
) -> NamedSymbols:
    """Symbols of the kernel ``moved`` bytes from where it was linked to (KASLR), of those ``linked``.

    What lies below ``image_start`` is no address in the kernel image, and is not moved: per-CPU offsets, up to 6.14.
    """
    kept = (
        (name, address + moved if address >= image_start else address)
        for name, address in linked
        if 0 < address < (1 << 64) - moved
    )
    return NamedSymbols(kept, every_function=every_function)


def plain_name(name: str) -> str:
    """``name`` as the source has it: without what ThinLTO appends.

    >>> plain_name("special_mapping_name.llvm.1234567890")
    'special_mapping_name'
    """
    return _PROMOTED.sub("", name) if ".llvm." in name else name
