"""ELF notes of a dump: the VMCOREINFO text and the state of each CPU when the machine stopped.

ELF cores keep them in PT_NOTE segments, kdump files in an area of the sub header; the bytes are the same.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vmaforensics.image.image import CpuState, Note
from vmaforensics.image.source import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

NT_PRSTATUS = 1
NT_PRPSINFO = 3
NT_AUXV = 6
NT_FILE = 0x46494C45

LARGEST_AREA = 16 << 20  # 4096 CPUs need less than 4 MiB; what is larger is no note area

# struct elf_prstatus of x86-64 (include/linux/elfcore.h): pr_pid, then pt_regs from r15 on.
PRSTATUS_SIZE, PRSTATUS_PID, PRSTATUS_REGS = 336, 32, 112
REG_RIP, REG_RSP = 16 * 8, 19 * 8

# struct QEMUCPUState (QEMU, target/i386/arch_dump.c): u32 version, u32 size, registers, segments, cr0..cr4.
QEMU_STATE_SIZE, QEMU_RSP, QEMU_RIP, QEMU_CR3, QEMU_CR4 = 440, 56, 136, 416, 424

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


def cpu_states(notes: Iterable[Note], x86_64: bool = True) -> tuple[CpuState, ...]:
    """The CPUs that ``CORE`` (NT_PRSTATUS) and ``QEMU`` notes describe, in the order of the notes.

    The n-th NT_PRSTATUS and the n-th QEMU note are the same CPU; the latter alone knows the control
    registers. QEMU writes the number of the CPU plus one where a kernel writes the pid. Registers are
    read only if the notes are of an x86-64 machine.
    """
    status = [n.desc for n in notes if n.name == "CORE" and n.type == NT_PRSTATUS and len(n.desc) >= PRSTATUS_REGS]
    qemu = [n.desc for n in notes if n.name == "QEMU" and n.type == 0 and len(n.desc) >= QEMU_STATE_SIZE]
    states = []
    for cpu in range(max(len(status), len(qemu))):
        fields: dict[str, int] = {}
        if cpu < len(status):
            desc = status[cpu]
            fields["pid"] = int.from_bytes(desc[PRSTATUS_PID : PRSTATUS_PID + 4], "little")
            if x86_64 and len(desc) >= PRSTATUS_SIZE:
                fields["rip"] = _word(desc, PRSTATUS_REGS + REG_RIP)
                fields["rsp"] = _word(desc, PRSTATUS_REGS + REG_RSP)
        if cpu < len(qemu) and x86_64:
            desc = qemu[cpu]
            fields["rip"], fields["rsp"] = _word(desc, QEMU_RIP), _word(desc, QEMU_RSP)
            fields["cr3"], fields["cr4"] = _word(desc, QEMU_CR3), _word(desc, QEMU_CR4)
        states.append(CpuState(cpu=cpu, **fields))
    return tuple(states)


def erased(text: bytes) -> str:
    """The sentence that says which data makedumpfile was told to erase (its eraseinfo, one line each)."""
    lines = "; ".join(printable(line) for line in text.strip(b"\0\n").split(b"\n")[:8])
    return f"makedumpfile erased data on purpose: {lines}"


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")
