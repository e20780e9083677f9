"""Symbol files that were given: what each has to offer, and of which kind it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vmaforensics.errors import SymbolFileError
from vmaforensics.kernel.symbols.unpacked import unpacked
from vmaforensics.progress import unheard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.kernel.structures.layout import Layout
    from vmaforensics.kernel.symbols.by_name import NamedSymbols
    from vmaforensics.progress import Progress

_START = 4096  # bytes by which the kind of a file is told


class SymbolFile(Protocol):
    """Types of a kernel, symbols of it, or both; a :class:`~vmaforensics.kernel.structures.layout.Types`."""

    path: Path

    @property
    def banner(self) -> bytes | None:
        """The kernel's, with its newline; None if the file does not have it."""
        ...

    @property
    def build_id(self) -> str | None:
        """Of vmlinux, in hexadecimal; None if the file does not have it."""
        ...

    def struct(self, name: str) -> Layout | None:
        """The layout of a structure or union, or None if the file does not know it."""
        ...

    def constant(self, name: str) -> int | None:
        """The value of an enumerator, or None if the file does not know it."""
        ...

    def address(self, name: str) -> int | None:
        """Where the symbol ``name`` was linked to, or None if the file does not know it."""
        ...

    def symbols(self, moved: int, image_start: int) -> NamedSymbols:
        """The symbols of the kernel ``moved`` bytes from where it was linked to; see ``moved_symbols``."""
        ...

    def __len__(self) -> int:
        """How many types it has, or symbols of debugging information that may be types."""
        ...


class Given(NamedTuple):
    """The files that were given, and which of them stand in for the image's types and for its symbols."""

    files: tuple[SymbolFile, ...] = ()
    types: SymbolFile | None = None
    symbols: SymbolFile | None = None


def open_symbol_files(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None,
    progress: Progress = unheard,
) -> Given:
    """Open one file, or several beside each other: the first that has types and the first that has symbols count.

    ``progress`` hears of types that take time to find.
    Raises :class:`SymbolFileError` for a file that cannot be read or is none of the kinds known.
    """
    if paths is None:
        return Given()
    listed = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    files = tuple(open_symbol_file(path, progress) for path in listed)
    return Given(
        files,
        next((file for file in files if len(file)), None),
        next((file for file in files if file.address("_stext") is not None), None),
    )


def open_symbol_file(path: str | os.PathLike[str], progress: Progress = unheard) -> SymbolFile:
    """The file at ``path``, whose kind its first bytes tell. Raises :class:`SymbolFileError`."""
    from vmaforensics.kernel.symbols.btf_file import BtfFile
    from vmaforensics.kernel.symbols.elf_file import ElfFile
    from vmaforensics.kernel.symbols.isf import Isf
    from vmaforensics.kernel.symbols.map_file import LINE, MapFile

    start = unpacked(Path(path), _START)
    if start.startswith(b"\x7fELF"):
        return ElfFile(path, progress)
    if start.startswith(b"\x9f\xeb"):
        return BtfFile(path)
    if start.lstrip()[:1] == b"{":
        return Isf(path)
    if LINE.search(start):
        return MapFile(path)
    if b"The real System.map" in start:
        raise SymbolFileError(
            f"{path} is Debian's stand-in for a System.map: the real one is in the kernel's -dbg package"
        )
    for magic, advice in _OTHERS.items():
        if start[257:262] == b"ustar" if magic == b"ustar" else start.startswith(magic):
            raise SymbolFileError(f"{path} is {advice}")
    raise SymbolFileError(
        f"{path} is not a symbol file: expected an ISF of volatility3 (JSON, as dwarf2json or `vmaforensics isf` "
        "writes it), BTF (a copy of /sys/kernel/btf/vmlinux), vmlinux with debugging information, or a System.map"
    )


# What people have instead.
_OTHERS = {
    b"ustar": "a tar archive: unpack it and give the file in it",
    b"!<arch>\n": "a package of Debian: unpack it (dpkg-deb -x) and give the vmlinux in it",
    b"\xed\xab\xee\xdb": "a package of RPM: unpack it (rpm2cpio) and give the vmlinux in it",
    b"PK\x03\x04": "a zip archive: unpack it and give the file in it",
    b"\x28\xb5\x2f\xfd": "packed with zstd: unpack it (zstd -d)",
    b"MZ": "a bootable kernel (vmlinuz), which has no symbols: give vmlinux with debugging information",
}
