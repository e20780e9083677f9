"""The headers of an ELF file as they lie in memory, and as they are written again.

Everything in them may have been made up: counts are bounded, ranges are checked, and what does not fit is an error.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from vmaforensics.errors import UsageError

MAGIC = b"\x7fELF"
PT_NULL, PT_LOAD, PT_DYNAMIC, PT_NOTE = 0, 1, 2, 4
ET_DYN = 3
_TYPES = {2: "executable", 3: "shared object", 1: "relocatable", 4: "core"}
_MOST_PHDRS = 1024
_LITTLE = 1

# By class: the header behind e_ident, a program header, and where the latter's members lie in it.
_HEADERS = {1: struct.Struct("<HHIIIIIHHHHHH"), 2: struct.Struct("<HHIQQQIHHHHHH")}
_PHDRS = {1: struct.Struct("<IIIIIIII"), 2: struct.Struct("<IIQQQQQQ")}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramHeader:
    """A program header; members are those of Elf64_Phdr without ``p_``."""

    type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    align: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Headers:
    """The ELF header and the program headers."""

    ident: bytes
    words: tuple[int, ...]  # of the header, from e_type on
    phdrs: tuple[ProgramHeader, ...]

    @property
    def bits(self) -> int:
        """32 or 64."""
        return 32 * self.ident[4]

    @property
    def type(self) -> int:
        """e_type."""
        return self.words[0]

    @property
    def kind(self) -> str:
        """e_type in words."""
        return _TYPES.get(self.type, f"type {self.type}")

    @property
    def entry(self) -> int:
        """e_entry."""
        return self.words[3]

    def loads(self) -> list[ProgramHeader]:
        """The segments that are loaded and have bytes, by address."""
        return sorted((phdr for phdr in self.phdrs if phdr.type == PT_LOAD and phdr.memsz), key=lambda part: part.vaddr)


def size_of_header(ident: bytes) -> int:
    """Bytes of the ELF header of the class that ``ident`` names, 0 if it names none that is known."""
    fits = len(ident) >= 16 and ident.startswith(MAGIC) and ident[4] in _HEADERS and ident[5] == _LITTLE
    return 16 + _HEADERS[ident[4]].size if fits else 0


def phdrs_at(header: bytes) -> tuple[int, int]:
    """``(offset, bytes)`` of the program headers. Raises :class:`UsageError` for a header that cannot be one."""
    words = _HEADERS[header[4]].unpack_from(header, 16)
    offset, entry, count = words[4], words[8], words[9]
    if entry != _PHDRS[header[4]].size or not 0 < count <= _MOST_PHDRS or offset > 1 << 20:
        raise UsageError(f"the ELF header says {count} program headers of {entry} bytes at {offset:#x}: it is none")
    return offset, entry * count


def headers_of(header: bytes, phdrs: bytes) -> Headers:
    """The headers out of their bytes; see :func:`phdrs_at`."""
    layout = _PHDRS[header[4]]
    found = []
    for words in layout.iter_unpack(phdrs):
        if header[4] == 1:
            kind, offset, vaddr, paddr, filesz, memsz, flags, align = words
        else:
            kind, flags, offset, vaddr, paddr, filesz, memsz, align = words
        found.append(
            ProgramHeader(
                type=kind,
                flags=flags,
                offset=offset,
                vaddr=vaddr,
                paddr=paddr,
                filesz=filesz,
                memsz=memsz,
                align=align,
            )
        )
    return Headers(ident=header[:16], words=_HEADERS[header[4]].unpack_from(header, 16), phdrs=tuple(found))


def packed(headers: Headers) -> tuple[bytes, int, bytes]:
    """(the ELF header, where the program headers go, their bytes), without any section."""
    kind = headers.ident[4]
    words = list(headers.words)
    words[5] = words[11] = words[12] = 0  # e_shoff, e_shnum, e_shstrndx
    parts = []
    for part in headers.phdrs:
        tail = (part.offset, part.vaddr, part.paddr, part.filesz, part.memsz)
        ordered = (
            (part.type, *tail, part.flags, part.align) if kind == 1 else (part.type, part.flags, *tail, part.align)
        )
        parts.append(_PHDRS[kind].pack(*ordered))
    return headers.ident + _HEADERS[kind].pack(*words), headers.words[4], b"".join(parts)


def laid_out(headers: Headers, page: int) -> tuple[Headers, int]:
    """The headers of a file that has every segment whole, as it is in memory, and the size of that file.

    Segments lie one behind the other, each at an offset that is its address within a page. What other program headers
    name lies within segments; what does not is left empty.
    """
    offsets: dict[ProgramHeader, int] = {}
    end = 0
    for part in headers.loads():
        offsets[part] = -(-end // page) * page + part.vaddr % page
        end = offsets[part] + part.memsz
    fixed = []
    for part in headers.phdrs:
        if part in offsets:
            fixed.append(replace(part, offset=offsets[part], filesz=part.memsz, align=page))
            continue
        home = next(
            (
                load
                for load in offsets
                if load.vaddr <= part.vaddr and part.vaddr + part.filesz <= load.vaddr + load.memsz
            ),
            None,
        )
        if home is None or part.type == PT_LOAD:
            fixed.append(replace(part, offset=0, filesz=0))
        else:
            fixed.append(replace(part, offset=offsets[home] + part.vaddr - home.vaddr))
    return replace(headers, phdrs=tuple(fixed)), end
