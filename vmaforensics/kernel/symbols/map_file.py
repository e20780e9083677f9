"""Symbols out of a System.map, the text that nm(1) made of vmlinux when the kernel was built."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from vmaforensics.errors import SymbolFileError
from vmaforensics.kernel.symbols.by_name import NamedSymbols, moved_symbols, plain_name
from vmaforensics.kernel.symbols.unpacked import unpacked

if TYPE_CHECKING:
    import os

    from vmaforensics.kernel.structures.layout import Layout

LINE = re.compile(rb"^([0-9a-f]{8,16}) ([A-Za-z?]) (\S+)$", re.MULTILINE)


class MapFile:
    """Addresses that symbols were linked to. It says nothing of types, and not which build it is of.

    Raises :class:`SymbolFileError` for a file that cannot be read, or lists no kernel's symbols.
    """

    banner: bytes | None = None
    build_id: str | None = None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._linked = [
            (plain_name(name.decode("ascii", "replace")), int(address, 16))
            for address, _, name in LINE.findall(unpacked(self.path).replace(b"\r\n", b"\n"))
        ]
        self._first = NamedSymbols(self._linked)
        if not self._first.get("_stext"):
            raise SymbolFileError(
                f"{self.path} has no address of _stext: expected the System.map of a kernel, lines like "
                "'ffffffff81000000 T _stext' (a copy of /proc/kallsyms that says 0 was made without privileges)"
            )

    def __len__(self) -> int:
        """How many types it has: none."""
        return 0

    def struct(self, name: str) -> Layout | None:
        """None: there are no types in it."""
        return None

    def constant(self, name: str) -> int | None:
        """None: there are no types in it."""
        return None

    def address(self, name: str) -> int | None:
        """Where the symbol ``name`` was linked to."""
        return self._first.get(name)

    def symbols(self, moved: int, image_start: int) -> NamedSymbols:
        """The symbols, ``moved`` as by :func:`~vmaforensics.kernel.symbols.by_name.moved_symbols`."""
        return moved_symbols(self._linked, moved, image_start, every_function=True)
