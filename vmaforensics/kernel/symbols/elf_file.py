"""Types and symbols out of vmlinux, or of its debugging information (vmlinux.debug, a -dbg or -dbgsym package)."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from elftools.elf.elffile import ELFFile

from vmaforensics.arch.known import DEFAULT
from vmaforensics.errors import SymbolFileError
from vmaforensics.kernel.structures.dwarf import SECTIONS, Dwarf
from vmaforensics.kernel.structures.dwarf_entries import UNREADABLE
from vmaforensics.kernel.structures.kept_types import KeptTypes
from vmaforensics.kernel.symbols.btf_file import btf_types
from vmaforensics.kernel.symbols.by_name import NamedSymbols, moved_symbols, plain_name
from vmaforensics.progress import unheard

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from elftools.elf.sections import Section

    from vmaforensics.kernel.structures.btf import Btf
    from vmaforensics.kernel.structures.layout import Layout
    from vmaforensics.progress import Progress

_SYMBOL = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)
_KINDS = (0, 1, 2)  # STT_NOTYPE, STT_OBJECT, STT_FUNC: no names of sections and files
_BANNER = 512  # bytes
_PIECE = 1 << 22  # bytes hashed at a time
_GNU = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0"


class ElfFile:
    """Types by its BTF, else by its DWARF; symbols by its symbol table; the banner if it has the kernel's data too.

    Raises :class:`SymbolFileError` for a file that cannot be read, or has neither types nor symbols of Linux.
    """

    def __init__(self, path: str | os.PathLike[str], progress: Progress = unheard) -> None:
        self.path = Path(path)
        self._progress = progress
        try:
            with self.path.open("rb") as stream:
                self._read(ELFFile(stream))
        except (OSError, *UNREADABLE) as error:
            raise SymbolFileError(
                f"{self.path} cannot be read as an ELF file with symbols: {error}; it is damaged, cut short, or packed "
                "in a way that is not known (objcopy --decompress-debug-sections unpacks it)"
            ) from None

    def _read(self, elf: ELFFile) -> None:
        if elf["e_machine"] != DEFAULT.elf_machine or elf["e_type"] not in ("ET_EXEC", "ET_DYN"):
            raise SymbolFileError(
                f"{self.path} is no {DEFAULT.name} vmlinux: ELF of type {elf['e_type']} for {elf['e_machine']}; "
                "a module (.ko) has neither the kernel's types nor its symbols"
            )
        held = {section.name: section for section in elf.iter_sections() if section["sh_type"] != "SHT_NOBITS"}
        self._linked = _symbols(held)
        self._first = NamedSymbols(self._linked)
        self._types: Btf | KeptTypes | None = None
        if ".BTF" in held:
            self._types = btf_types(self.path, held[".BTF"].data())
        elif ".debug_info" in held and ".debug_abbrev" in held:
            key = _sha256([held[name] for name in SECTIONS if name in held])
            self._types = KeptTypes(key, partial(_dwarf, self.path, key), self._progress)
        if self._types is None and not self._linked:
            raise SymbolFileError(
                f"{self.path} has been stripped: there is no BTF, no DWARF and no symbol table in it; give the vmlinux "
                "of the kernel's -dbg or -dbgsym package"
            )
        self.banner = self._banner(list(held.values()))
        self.build_id = next((found for section in held.values() if (found := _build_id(section))), None)

    def _banner(self, sections: list[Section]) -> bytes | None:
        at = self._first.get("linux_banner")
        for section in sections if at else ():
            start = at - section["sh_addr"] if at else 0
            if section["sh_type"] == "SHT_PROGBITS" and section["sh_addr"] and 0 <= start < section["sh_size"]:
                stream = section.stream
                stream.seek(section["sh_offset"] + start)
                text: bytes = stream.read(_BANNER).split(b"\0", 1)[0]
                return text if text.startswith(b"Linux version ") else None
        return None

    def __len__(self) -> int:
        """How many types it has; of DWARF, how many files of source it describes."""
        return 0 if self._types is None else len(self._types)

    def struct(self, name: str) -> Layout | None:
        """The layout of a structure or union. Raises :class:`SymbolFileError` if what the file says is no type."""
        try:
            return None if self._types is None else self._types.struct(name)
        except UNREADABLE as error:
            raise SymbolFileError(f"the type {name} of {self.path} cannot be read: {error}") from None

    def constant(self, name: str) -> int | None:
        """The value of enumerator ``name``."""
        try:
            return None if self._types is None else self._types.constant(name)
        except UNREADABLE as error:
            raise SymbolFileError(f"the constant {name} of {self.path} cannot be read: {error}") from None

    def address(self, name: str) -> int | None:
        """Where the symbol ``name`` was linked to."""
        return self._first.get(name)

    def symbols(self, moved: int, image_start: int) -> NamedSymbols:
        """The symbols, ``moved`` as by :func:`~vmaforensics.kernel.symbols.by_name.moved_symbols`."""
        return moved_symbols(self._linked, moved, image_start, every_function=True)


def _dwarf(path: Path, key: str) -> Dwarf:
    """The debugging information of a file. Raises one of ``UNREADABLE`` if it is not what ``key`` is the hash of."""
    with path.open("rb") as stream:
        held = {section.name: section for section in ELFFile(stream).iter_sections() if section.name in SECTIONS}
        if _sha256([held[name] for name in SECTIONS if name in held]) != key:
            raise ValueError("it was changed while it was read")
        return Dwarf({name: section.data() for name, section in held.items()})


def _sha256(sections: Sequence[Section]) -> str:
    """A hash of sections as they lie in the file, hexadecimal."""
    found = hashlib.sha256()
    for section in sections:
        left = section["sh_size"]
        found.update(f"{section.name} {section['sh_flags']} {left}\n".encode())
        section.stream.seek(section["sh_offset"])
        while left > 0 and (piece := section.stream.read(min(left, _PIECE))):
            found.update(piece)
            left -= len(piece)
    return found.hexdigest()


def _symbols(held: dict[str, Section]) -> list[tuple[str, int]]:
    """Name and address of each symbol, in the order of the table."""
    if ".symtab" not in held or ".strtab" not in held:
        return []
    raw, names = held[".symtab"].data(), held[".strtab"].data()
    rows = np.frombuffer(raw, _SYMBOL, count=len(raw) // _SYMBOL.itemsize)
    rows = rows[(rows["value"] > 0) & (rows["section"] > 0) & np.isin(rows["info"] & 15, _KINDS) & (rows["name"] > 0)]
    found = []
    for name, value in zip(rows["name"].tolist(), rows["value"].tolist(), strict=True):
        end = names.find(b"\0", name)
        if 0 <= name < end:
            found.append((plain_name(names[name:end].decode("ascii", "replace")), value))
    return found


def _build_id(section: Section) -> str | None:
    if section["sh_type"] != "SHT_NOTE":
        return None
    raw = section.data()
    at = raw.find(_GNU)
    return raw[at + 16 : at + 36].hex() if at >= 0 else None
