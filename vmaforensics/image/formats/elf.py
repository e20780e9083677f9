"""ELF64 cores of physical memory: /proc/vmcore, makedumpfile -E, QEMU dump-guest-memory, /proc/kcore.

The header is read by pyelftools; program headers, of which QEMU writes 65,000 with ``-p``, as one array.
"""

from __future__ import annotations

import io
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from elftools.common.exceptions import ELFError
from elftools.common.utils import struct_parse
from elftools.elf.structs import ELFStructs

from vmaforensics.arch.known import by_elf_machine
from vmaforensics.arch.machines import refusal
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import U32, U64
from vmaforensics.errors import UnsupportedFormatError
from vmaforensics.image.elf_header import EHDR_SIZE, Stretch, elf_refusal, is_process, process_refusal
from vmaforensics.image.file import FIRST
from vmaforensics.image.formats.segments import Segments, lay_out
from vmaforensics.image.formats.xen import open_xen, sections
from vmaforensics.image.image import Image, Note
from vmaforensics.image.notes import (
    LARGEST_AREA,
    cpu_states,
    erased,
    parse_notes,
    vmcoreinfo_of,
)
from vmaforensics.image.source import ascii_text

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.image.source import FileSource

# Elf64_Phdr, as it lies in the file
PROGRAM_HEADER = np.dtype(
    [
        ("type", "<u4"),
        ("flags", "<u4"),
        ("offset", "<u8"),
        ("vaddr", "<u8"),
        ("paddr", "<u8"),
        ("filesz", "<u8"),
        ("memsz", "<u8"),
        ("align", "<u8"),
    ]
)


@table()
class ProgramHeaders(Table):
    """The program headers of an ELF file, in its order (elf(5))."""

    type: U32  # PT_*
    offset: U64  # in the file
    vaddr: U64
    paddr: U64
    filesz: U64  # bytes in the file
    memsz: U64  # bytes in memory


PT_LOAD, PT_NOTE = 1, 4
PN_XNUM = 0xFFFF
NO_PADDR = 2**64 - 1  # /proc/kcore's p_paddr of vmalloc and module space
MOST_NOTE_SEGMENTS = 64  # a dump has one or two
SHDR_SIZE = 64
INCOMPLETE = 1  # e_flags bit 0, makedumpfile's DUMP_ELF_INCOMPLETE


def open_elf(path: Path, source: FileSource) -> Image:
    """Open an ELF64 little-endian core of physical memory.

    Bytes between ``p_filesz`` and ``p_memsz`` were left out by makedumpfile, zero or not: they are absent.
    Raises :class:`UnsupportedFormatError` for any other ELF file and for headers that cannot be believed.
    """
    header = _header(path, source)
    machine = str(header["e_machine"])
    arch = by_elf_machine(machine)
    if arch is None:
        raise UnsupportedFormatError(f"{path} {refusal(machine.removeprefix('EM_'))}")
    problems: list[str] = []
    if header["e_phnum"] == 0 and ".xen_pages" in (places := sections(source, header)):
        return open_xen(path, source, places, arch)
    headers = _program_headers(path, source, header, problems)
    loads = headers.take(headers.type == PT_LOAD)
    notes = _notes(source, headers.take(headers.type == PT_NOTE), problems)
    _refuse_process(path, loads, notes)
    unplaced = loads.paddr == NO_PADDR
    loads = loads.take(~unplaced & (loads.memsz > 0))
    if len(loads) == 0:
        raise UnsupportedFormatError(
            f"{path} is an ELF core without a PT_LOAD segment of physical memory; take the dump again"
        )
    segments = Segments(
        pa=loads.paddr, memory=loads.memsz, held=loads.filesz, offset=loads.offset, key=loads.vaddr - loads.paddr
    )
    memory, more = lay_out(source, segments, "PT_LOAD segment")
    if header["e_flags"] & INCOMPLETE:
        problems.append("makedumpfile marked this dump as incomplete (e_flags bit 0): it ran out of space or time")
    more += [erased(note.desc) for note in notes if note.name == "ERASEINFO"]
    details = {
        "ELF machine": machine.removeprefix("EM_"),
        "segments": f"{len(loads):,} PT_LOAD",
        "notes": ", ".join(sorted({ascii_text(note.name.encode("latin-1")) for note in notes})) or "none",
    }
    if unplaced.any():
        details["segments without a physical address"] = f"{int(unplaced.sum()):,} (skipped)"
    return Image(
        path=path,
        size=len(source),
        format="elf",
        memory=memory,
        vmcoreinfo=vmcoreinfo_of(notes),
        cpus=cpu_states(notes, arch),
        arch=arch,
        notes=tuple(notes),
        details=details,
        problems=(*problems, *more),
    )


def _header(path: Path, source: FileSource) -> dict[str, Any]:
    """The ELF header as pyelftools names its fields, if it is one of a 64-bit little-endian core."""
    if (why := elf_refusal(path, bytes(source[:FIRST]))) is not None:
        raise UnsupportedFormatError(why)
    structs = ELFStructs(little_endian=True, elfclass=64)
    structs.create_basic_structs()
    structs.create_advanced_structs()
    try:
        header: dict[str, Any] = struct_parse(structs.Elf_Ehdr, io.BytesIO(bytes(source[:EHDR_SIZE])), 0)
    except ELFError as error:
        raise UnsupportedFormatError(f"{path}: the ELF header cannot be read: {error}; take the dump again") from error
    return header


def _program_headers(path: Path, source: FileSource, header: dict[str, Any], problems: list[str]) -> ProgramHeaders:
    """The program headers. QEMU's lie behind its section headers, and its e_ehsize is wrong: only
    e_phoff says where they are."""
    at, size, count = header["e_phoff"], header["e_phentsize"], header["e_phnum"]
    if count == PN_XNUM:
        section = header["e_shoff"]
        if 0 < section <= len(source) - SHDR_SIZE:
            count = int.from_bytes(bytes(source[section + 44 : section + 48]), "little")  # sh_info
        else:
            problems.append(
                "the ELF header says (e_phnum 0xffff, file offset 56) that section 0 counts the program "
                f"headers, but there is no section at e_shoff {section:#x}; 65,535 were read"
            )
    if count == 0:
        raise UnsupportedFormatError(f"{path} is an ELF core without program headers (e_phnum is 0, file offset 56)")
    if size != PROGRAM_HEADER.itemsize:
        raise UnsupportedFormatError(
            f"{path}: e_phentsize (file offset 54) is {size}, expected {PROGRAM_HEADER.itemsize}; the header is damaged"
        )
    room = (len(source) - at) // size if EHDR_SIZE <= at <= len(source) else 0
    if room == 0:
        raise UnsupportedFormatError(
            f"{path}: e_phoff (file offset 32) is {at:#x}, but no program header fits there into a file "
            f"of {len(source):#x} bytes; the header is damaged or the file is cut off"
        )
    if room < count:
        problems.append(
            f"the file is truncated: it ends inside the program headers, and {count - room:,} of {count:,} are missing"
        )
        count = room
    return ProgramHeaders.from_structured(source.array(PROGRAM_HEADER, at, count))


def _notes(source: FileSource, headers: ProgramHeaders, problems: list[str]) -> list[Note]:
    """The notes of every PT_NOTE segment, at most 16 MiB of them."""
    notes: list[Note] = []
    left = LARGEST_AREA
    places = zip(headers.offset.tolist(), headers.filesz.tolist(), strict=True)
    for number, (at, size) in enumerate(islice(places, MOST_NOTE_SEGMENTS)):
        if at + size > len(source):
            problems.append(
                f"PT_NOTE segment {number} reaches from file offset {at:#x} to {at + size:#x}, past the "
                f"end of the file at {len(source):#x}; the notes beyond are missing"
            )
            size = max(0, len(source) - at)
        area = bytes(source[at : at + min(size, left + 1)])
        left -= min(len(area), left)
        found, more = parse_notes(area, f"at file offset {at:#x}")
        notes += found
        problems += more
        if left == 0:
            break
    return notes


def _refuse_process(path: Path, loads: ProgramHeaders, notes: list[Note]) -> None:
    """A core of a user process has no physical addresses; the kernel's notes of a process tell it."""
    if is_process({(note.name, note.type) for note in notes}, placed=bool(loads.paddr.any())):
        segments = zip(loads.offset.tolist(), loads.filesz.tolist(), strict=True)
        raise UnsupportedFormatError(process_refusal(path, [Stretch(at, size) for at, size in segments]))
