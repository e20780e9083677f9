"""ELF notes of a dump: the VMCOREINFO text and the state of each CPU when the machine stopped.

ELF cores keep them in PT_NOTE segments, kdump files in an area of the sub header; the bytes are the same.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vmaforensics.arch.registers import CpuState
from vmaforensics.image.image import Note
from vmaforensics.image.source import ascii_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vmaforensics.arch.interface import Architecture

NT_PRSTATUS = 1

LARGEST_AREA = 16 << 20  # 4096 CPUs need less than 4 MiB; what is larger is no note area

_PRSTATUS_PID, _PRSTATUS_COMMON = 32, 112  # struct elf_prstatus_common of 64-bit machines (include/linux/elfcore.h)

_HEADER = struct.Struct("<III")  # namesz, descsz, type


def parse_notes(area: bytes, where: str) -> tuple[list[Note], list[str]]:
    """Every note of ``area`` in order, and a sentence if a note does not fit into it.

    ``where`` names the area in that sentence. An area larger than 16 MiB is read up to there.
    """
    notes: list[Note] = []
    problems: list[str] = []
    if len(area) > LARGEST_AREA:
        problems.append(f"the note area {where} has {len(area):,} bytes; only the first 16 MiB were read")
        area = area[:LARGEST_AREA]
    at = 0
    while at + _HEADER.size <= len(area):
        name_size, desc_size, kind = _HEADER.unpack_from(area, at)
        if name_size == desc_size == kind == 0:
            break  # the kernel pads the notes of a CPU with zeros
        name_at = at + _HEADER.size
        desc_at = name_at + (name_size + 3 & ~3)
        if desc_at + desc_size > len(area):
            problems.append(
                f"the note at byte {at:#x} of the note area {where} says it has a name of {name_size:,} "
                f"and a descriptor of {desc_size:,} bytes, more than the {len(area) - at:,} bytes left; "
                "it and what follows were not read"
            )
            break
        name = area[name_at : name_at + name_size].rstrip(b"\0").decode("latin-1")
        notes.append(Note(name=name, type=kind, desc=area[desc_at : desc_at + desc_size]))
        at = desc_at + (desc_size + 3 & ~3)
    return notes, problems


def pack_note(note: Note) -> bytes:
    """``note`` as bytes, padded to a multiple of 4."""
    name = note.name.encode("latin-1") + b"\0"
    header = _HEADER.pack(len(name), len(note.desc), note.type)
    return header + name + bytes(-len(name) % 4) + note.desc + bytes(-len(note.desc) % 4)


def vmcoreinfo_of(notes: Iterable[Note]) -> bytes | None:
    """The text of the first VMCOREINFO note that has one, without trailing NULs."""
    for note in notes:
        if note.name == "VMCOREINFO" and (text := note.desc.rstrip(b"\0")):
            return text
    return None


def cpu_states(notes: Sequence[Note], arch: Architecture | None) -> tuple[CpuState, ...]:
    """The CPUs that notes describe, in the order of the notes. Without an ``arch`` that can read the registers, what
    all 64-bit machines have alike: the pid.
    """
    if arch is not None:
        return arch.cpu_states(notes)
    status = [n.desc for n in notes if n.name == "CORE" and n.type == NT_PRSTATUS and len(n.desc) >= _PRSTATUS_COMMON]
    return tuple(
        CpuState(cpu=cpu, pid=int.from_bytes(desc[_PRSTATUS_PID : _PRSTATUS_PID + 4], "little"))
        for cpu, desc in enumerate(status)
    )


def erased(text: bytes) -> str:
    """The sentence that says which data makedumpfile was asked to erase (its eraseinfo, one line each)."""
    lines = "; ".join(ascii_text(line) for line in text.strip(b"\0\n").split(b"\n")[:8])
    return f"makedumpfile erased data on purpose: {lines}"
