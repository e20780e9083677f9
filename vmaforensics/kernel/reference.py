"""The file that a kernel was booted from, as a reference for its code: vmlinux, or the vmlinuz of the same package."""

from __future__ import annotations

import bz2
import io
import lzma
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import cramjam
import lzallright
import numpy as np
import zstandard
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from vmaforensics.arch.reference_text import LinkedSection
from vmaforensics.errors import SymbolFileError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from vmaforensics.arch.interface import Architecture

_ELF: Final = b"\x7fELF"
_LARGEST: Final = 1 << 30  # bytes of a file, packed or not; vmlinux with debugging information has some hundred MiB
_UNPACKED: Final = 1 << 28  # of the kernel in a boot image, which has no debugging information
_BLOCK: Final = 8 << 20  # of LZ4's old frames
_CODE, _WRITABLE = 0x4, 0x1  # SHF_EXECINSTR, SHF_WRITE
_GNU: Final = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0"
_FAILURES: Final = (
    *(OSError, EOFError, ValueError, MemoryError, struct.error, zlib.error, lzma.LZMAError, zstandard.ZstdError),
    *(cramjam.DecompressionError, lzallright.LZOError),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceKernel:
    """What a file says that the kernel is, before it changes itself."""

    path: Path
    build_id: str | None  # in hexadecimal
    sections: dict[str, LinkedSection]  # those with bytes that are loaded
    code: tuple[str, ...]  # names of those that hold code

    def read(self, address: int, size: int) -> bytes | None:
        """Bytes by the address they were linked to; None where no section has all of them."""
        for section in self.sections.values():
            at = address - section.address
            if 0 <= at <= len(section.data) - size:
                return section.data[at : at + size].tobytes()
        return None


def read_reference(path: str | os.PathLike[str], arch: Architecture) -> ReferenceKernel:
    """Read vmlinux, or unpack it out of a bootable kernel. Raises :class:`SymbolFileError` if it is neither."""
    path = Path(path)
    try:
        if path.stat().st_size > _LARGEST:
            raise SymbolFileError(f"{path} has more than {_LARGEST >> 20:,} MiB: it is no kernel")
        raw = path.read_bytes()
    except OSError as error:
        raise SymbolFileError(f"{path} cannot be read: {error.strerror or error}") from None
    if not raw.startswith(_ELF):
        payload = arch.boot_payload(raw)
        if payload is None:
            raise SymbolFileError(
                f"{path} is no kernel of {arch.name}: expected vmlinux (ELF) or vmlinuz (bzImage), as in the folder "
                "/boot of the machine or in its kernel's package"
            )
        raw = _unpacked(path, payload)
    return _elf(path, raw, arch)


def require_same_build(reference: ReferenceKernel, build_id: str | None) -> None:
    """Raises :class:`SymbolFileError` where the file is not of the build that the image's kernel is."""
    if build_id is None or reference.build_id is None:
        whose = "the image's kernel" if build_id is None else str(reference.path)
        raise SymbolFileError(
            f"{reference.path} cannot be compared with the image's kernel: the build id of {whose} is not known, so "
            "that a difference would mean nothing"
        )
    if reference.build_id != build_id:
        raise SymbolFileError(
            f"{reference.path} is of another kernel: its build id is {reference.build_id}, the image's kernel has "
            f"{build_id}; give the file of that very build"
        )


def _elf(path: Path, raw: bytes, arch: Architecture) -> ReferenceKernel:
    sections: dict[str, LinkedSection] = {}
    code, build_id = [], None
    try:
        elf = ELFFile(io.BytesIO(raw))
        if elf["e_machine"] != arch.elf_machine or elf["e_type"] not in ("ET_EXEC", "ET_DYN"):
            raise SymbolFileError(
                f"{path} is no {arch.name} vmlinux: ELF of type {elf['e_type']} for {elf['e_machine']}"
            )
        for section in elf.iter_sections():
            if section["sh_addr"] and section["sh_type"] in ("SHT_PROGBITS", "SHT_NOTE"):
                data = section.data()
                sections[section.name] = LinkedSection(section["sh_addr"], np.frombuffer(data, np.uint8))
                if section["sh_flags"] & _CODE and not section["sh_flags"] & _WRITABLE:
                    code.append(section.name)
                at = data.find(_GNU) if section["sh_type"] == "SHT_NOTE" else -1
                build_id = data[at + 16 : at + 36].hex() if at >= 0 else build_id
    except (ELFError, UnicodeDecodeError, *_FAILURES) as error:
        raise SymbolFileError(f"{path} cannot be read as the ELF file of a kernel: {error}") from None
    if not code:
        raise SymbolFileError(
            f"{path} has no code of a kernel: it was taken out of it, as from files of debugging information alone; "
            "give vmlinux or vmlinuz"
        )
    return ReferenceKernel(path=path, build_id=build_id, sections=sections, code=tuple(code))


def _unpacked(path: Path, packed: bytes) -> bytes:
    """The kernel of a boot image (scripts/Makefile.lib: the ways of CONFIG_KERNEL_*)."""
    reader = next((unpack for magic, unpack in _PACKERS.items() if packed.startswith(magic)), None)
    if reader is None:
        raise SymbolFileError(f"the kernel in {path} is packed in a way that is not known: {packed[:6].hex(' ')}")
    try:
        raw = reader(packed)
    except _FAILURES as error:
        raise SymbolFileError(
            f"the kernel in {path} cannot be unpacked, the file is damaged or cut short: {error}"
        ) from None
    if len(raw) >= _UNPACKED or not raw.startswith(_ELF):
        raise SymbolFileError(f"what is packed in {path} is no kernel")
    return raw


def _gzip(packed: bytes) -> bytes:
    return zlib.decompressobj(wbits=31).decompress(packed, _UNPACKED)


def _xz(packed: bytes) -> bytes:
    return lzma.LZMADecompressor().decompress(packed, _UNPACKED)


def _bzip2(packed: bytes) -> bytes:
    return bz2.BZ2Decompressor().decompress(packed, _UNPACKED)


def _zstd(packed: bytes) -> bytes:
    with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(io.BytesIO(packed)) as reader:
        return reader.read(_UNPACKED)


def _lz4(packed: bytes) -> bytes:
    """Frames of LZ4's old form: a magic number, then blocks, each behind its size."""
    found, at = bytearray(), 4
    while at + 4 <= len(packed) - 4 and len(found) < _UNPACKED:  # the last word is the size of it all
        (size,) = struct.unpack_from("<I", packed, at)
        if not 0 < size <= len(packed) - at - 4:
            raise ValueError(f"a block of {size} bytes")
        found += bytes(cramjam.lz4.decompress_block(packed[at + 4 : at + 4 + size], output_len=_BLOCK))
        at += 4 + size
    return bytes(found)


def _lzo(packed: bytes) -> bytes:
    """A file of lzop: a header, then blocks, each behind its two sizes and a checksum (lib/decompress_unlzo.c)."""
    version = struct.unpack_from(">H", packed, 9)[0]
    at = 9 + 2 + 2 + (2 if version >= 0x0940 else 0) + 1 + (1 if version >= 0x0940 else 0)
    flags = struct.unpack_from(">I", packed, at)[0]
    at += 4 + (4 if flags & 0x800 else 0) + 4 + 4 + (4 if version >= 0x0940 else 0)
    at += 1 + packed[at] + 4
    found = bytearray()
    while len(found) < _UNPACKED:
        (size,) = struct.unpack_from(">I", packed, at)
        if not size:
            break
        (length,) = struct.unpack_from(">I", packed, at + 4)
        at += 12
        block = packed[at : at + length]
        if not 0 < length <= len(packed) - at or size > _BLOCK:
            raise ValueError(f"a block of {length} bytes")
        found += block if length >= size else lzallright.LZOCompressor.decompress(block, size)
        at += length
    return bytes(found)


_PACKERS: Final[dict[bytes, Callable[[bytes], bytes]]] = {
    b"\x1f\x8b": _gzip,
    b"\xfd7zXZ\0": _xz,
    b"BZh": _bzip2,
    b"\x28\xb5\x2f\xfd": _zstd,
    b"\x02\x21\x4c\x18": _lz4,
    b"\x89LZO": _lzo,
    b"\x5d\0\0": lambda packed: lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(packed, _UNPACKED),
}
