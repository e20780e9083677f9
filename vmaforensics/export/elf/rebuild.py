"""A mapped ELF file out of memory: its segments as they were loaded, behind program headers that fit the file.

What the loader and the program have written is in it: relocated pointers, ``.data``, ``.bss``. There are no sections.
Pointers of the dynamic section that the dynamic linker has made absolute (``_dl_relocate_ld``, elf/dl-reloc.c of glibc)
are made relative again, so that tools find the symbols.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.errors import UsageError
from vmaforensics.export.elf.headers import (
    ET_DYN,
    PT_DYNAMIC,
    PT_NOTE,
    Headers,
    headers_of,
    laid_out,
    packed,
    phdrs_at,
    size_of_header,
)
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from vmaforensics.columns.types import U8
    from vmaforensics.export.page_source import PageRecord, PageSources
    from vmaforensics.export.user_memory import UserMemory

MOST_BYTES = 1 << 30  # of one rebuilt file
_MOST_TRIED = 64  # regions below the address that are looked at for a header
_MOST_DYNAMIC = 1 << 12
# Tags of the dynamic section whose value is an address: PLTGOT HASH STRTAB SYMTAB RELA REL JMPREL, GNU_HASH, VERSYM,
# VERDEF, VERNEED.
_POINTERS = frozenset((3, 4, 5, 6, 7, 17, 23, 0x6FFFFEF5, 0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFE))
_NT_GNU_BUILD_ID = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuiltElf:
    """A file that was rebuilt."""

    data: U8
    header: int  # address of the ELF header in memory
    base: int  # what addresses in the file have to be moved by to be those in memory
    headers: Headers  # as written
    name: str  # of the file mapped, as the image has it; empty without one
    build_id: str | None
    dynamic_fixed: int  # pointers of the dynamic section that were made relative again
    segments: list[dict[str, object]]  # of each loaded segment: address, size, offset, rights, hash, missing pages
    sha256: str

    def manifest(self, file: str) -> dict[str, object]:
        """What the manifest says of it."""
        return {
            "file": file,
            "size": int(self.data.size),
            "sha256": self.sha256,
            "header": hex(self.header),
            "base": hex(self.base),
            "entry": hex((self.headers.entry + self.base) % (1 << 64)),
            "class": self.headers.bits,
            "type": self.headers.kind,
            "name": self.name,
            "build_id": self.build_id,
            "dynamic_pointers_made_relative": self.dynamic_fixed,
            "segments": self.segments,
        }


def rebuild(memory: UserMemory, address: int, page: int) -> RebuiltElf:
    """The ELF file that ``address`` lies in. Raises :class:`UsageError` where there is none that can be rebuilt."""
    where, headers = find_headers(memory, address, page)
    base = _base(headers, where, page)
    fixed, size = laid_out(headers, page)
    if size > MOST_BYTES:
        raise UsageError(f"the program headers at {where:#x} name {size} bytes, more than {MOST_BYTES}")
    data = np.zeros(size, np.uint8)
    segments = []
    for old, new in zip(headers.loads(), fixed.loads(), strict=True):
        start = (base + old.vaddr) % (1 << 64)
        if start + old.memsz > memory.top:
            raise UsageError(f"the program headers at {where:#x} name a segment at {start:#x}, outside of user memory")
        read = memory.read(start, old.memsz)
        data[new.offset : new.offset + old.memsz] = read.data
        missing = read.pages.take(~read.pages.known)
        segments.append(
            {
                "start": hex(start),
                "size": old.memsz,
                "offset": new.offset,
                "perms": "".join(letter if old.flags & bit else "-" for letter, bit in (("r", 4), ("w", 2), ("x", 1))),
                "sha256": hashlib.sha256(read.data.data).hexdigest(),
                "pages": len(read.pages),
                "missing": len(missing),
                "runs": _records(missing),
            }
        )
    fixes = _fix_dynamic(data, fixed, base)
    header, at, phdrs = packed(fixed)
    data[: len(header)] = np.frombuffer(header, np.uint8)
    data[at : at + len(phdrs)] = np.frombuffer(phdrs, np.uint8)
    return RebuiltElf(
        data=data,
        header=where,
        base=base,
        headers=fixed,
        name=_name(memory, where),
        build_id=_build_id(data, fixed),
        dynamic_fixed=fixes,
        segments=segments,
        sha256=hashlib.sha256(data.data).hexdigest(),
    )


def _records(pages: PageSources) -> list[PageRecord]:
    return list(pages.records()) if len(pages) else []


def find_headers(memory: UserMemory, address: int, page: int) -> tuple[int, Headers]:
    """Where the headers are whose segments cover ``address``: at the start of a region that is not above it."""
    rows = memory.regions.rows
    below = rows.start[rows.start <= np.uint64(address)]
    tried = 0
    for start in distinct(below)[::-1][:_MOST_TRIED].tolist():
        head = memory.read(start, 64)
        length = size_of_header(head.data.tobytes())
        if head.missing or not length:
            continue
        tried += 1
        header = head.data.tobytes()[:length]
        try:
            offset, count = phdrs_at(header)
        except UsageError:
            continue
        part = memory.read(start + offset, count)
        if part.missing:
            continue
        headers = headers_of(header, part.data.tobytes())
        loads = headers.loads()
        if not loads or loads[0].vaddr % page + max(offset + count, length) > loads[0].memsz:
            continue
        base = _base(headers, start, page)
        if any(base + part.vaddr <= address < base + part.vaddr + part.memsz for part in loads):
            return start, headers
    seen = f"; {tried} ELF headers below it belong to other files" if tried else ""
    raise UsageError(f"no ELF file is mapped at {address:#x} whose headers are in the image{seen}")


def _base(headers: Headers, where: int, page: int) -> int:
    """By how much the addresses in the headers are moved: the first segment begins with the page of the header."""
    return (where - headers.loads()[0].vaddr // page * page) % (1 << 64)


def _name(memory: UserMemory, where: int) -> str:
    rows = memory.regions.rows
    at = np.flatnonzero(rows.start == np.uint64(where))
    return printable(memory.regions.name(int(at[0]))) if len(at) else ""


def _fix_dynamic(data: U8, headers: Headers, base: int) -> int:
    """Make absolute pointers of the dynamic section relative again; how many there were."""
    part = next((phdr for phdr in headers.phdrs if phdr.type == PT_DYNAMIC and phdr.filesz), None)
    if part is None or headers.type != ET_DYN or not base:
        return 0
    kind = np.dtype("<u8") if headers.bits == 64 else np.dtype("<u4")
    count = min(part.filesz // (2 * kind.itemsize), _MOST_DYNAMIC)
    raw = data[part.offset : part.offset + 2 * count * kind.itemsize]
    if raw.size < 2 * count * kind.itemsize:
        return 0
    pairs = np.frombuffer(raw.tobytes(), kind).reshape(-1, 2).copy()
    last = max(load.vaddr + load.memsz for load in headers.loads())
    fixes = 0
    for row, (tag, value) in enumerate(pairs.tolist()):
        if tag == 0:
            break
        if tag in _POINTERS and base <= value < base + last:
            pairs[row, 1] = value - base
            fixes += 1
    raw[:] = np.frombuffer(pairs.tobytes(), np.uint8)
    return fixes


def _build_id(data: U8, headers: Headers) -> str | None:
    """The descriptor of the GNU build-id note."""
    for part in headers.phdrs:
        if part.type != PT_NOTE or not 0 < part.filesz < 1 << 16:
            continue
        area, at = data[part.offset : part.offset + part.filesz].tobytes(), 0
        while at + 12 <= len(area):
            name, size, kind = struct.unpack_from("<III", area, at)
            desc = at + 12 + (name + 3 & ~3)
            if kind == _NT_GNU_BUILD_ID and area[at + 12 : at + 16] == b"GNU\0" and size <= 64:
                return area[desc : desc + size].hex()
            at = desc + (size + 3 & ~3)
    return None
