"""The BTF of a file: detached, as ``/sys/kernel/btf/vmlinux`` and BTFHub give it, or in the ELF file of a kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.errors import KernelNotFoundError, SymbolFileError
from vmaforensics.kernel.structures.btf import MAGIC, Btf

if TYPE_CHECKING:
    from pathlib import Path

_LIMIT = 64 << 20  # bytes; that of a kernel with everything built in has 10
_ELF = b"\x7fELF"


def read_btf(path: Path) -> Btf:
    """The types in the file at ``path``. Raises :class:`SymbolFileError` where there are none, or ``OSError``."""
    with path.open("rb") as file:
        begin = file.read(4)
        file.seek(0)
        blob = file.read(_LIMIT) if begin == MAGIC else _section(path) if begin == _ELF else b""
    if not blob.startswith(MAGIC):
        raise SymbolFileError(
            f"{path} has no BTF; give a detached file as /sys/kernel/btf/vmlinux, or a vmlinux with a section .BTF"
        )
    try:
        return Btf(blob)
    except KernelNotFoundError as error:
        raise SymbolFileError(f"the BTF of {path} cannot be read: {error}") from error


def _section(path: Path) -> bytes:
    """The section .BTF of an ELF file; empty without one."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as file:
        try:
            section = ELFFile(file).get_section_by_name(".BTF")
            return bytes(section.data()) if section is not None and section["sh_size"] <= _LIMIT else b""
        except (ELFError, ValueError, OverflowError) as error:
            raise SymbolFileError(f"{path} cannot be read as an ELF file: {error}") from error
