"""What the first bytes of an ELF file tell, before a reader is loaded: whether it is a dump of a machine that is read.

Structures are those of elf(5); the notes by which the core of a process is told are those of fs/binfmt_elf.c.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Literal, NamedTuple

from vmaforensics.arch.machines import OTHER_ELF_MACHINES
from vmaforensics.arch.machines import refusal as other_machine
from vmaforensics.words.amounts import amount, counted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAGIC = b"\x7fELF"
EHDR_SIZE = 64
NT_PRPSINFO, NT_AUXV, NT_FILE = 3, 6, 0x46494C45

_TYPES = {0: "ET_NONE", 1: "ET_REL", 2: "ET_EXEC", 3: "ET_DYN"}
_ET_CORE = 4
_PHDR = Struct("<IIQQQQQQ")  # type, flags, offset, vaddr, paddr, filesz, memsz, align
_NOTE = Struct("<III")  # namesz, descsz, type
_PT_LOAD, _PT_NOTE = 1, 4
_MOST_NOTES = 64  # of those that tell a process; each thread has some of its own behind them
_GUEST = 64 << 20  # bytes; the memory of a guest is not smaller


class Stretch(NamedTuple):
    """A segment of an ELF file: where in the file it lies, and how many of its bytes are there."""

    offset: int
    size: int


def elf_refusal(path: Path, start: bytes) -> str | None:
    """The sentence that refuses an ELF file which begins with ``start``, 64 KiB or all of it; None for one that may be
    the dump of a machine that is read."""
    if len(start) < EHDR_SIZE:
        return (
            f"{path} is an ELF file of {counted(len(start), 'byte')}, too short for its 64-byte header; "
            "take the dump again"
        )
    kind, order = start[4], start[5]
    if kind not in (1, 2) or order not in (1, 2):
        return f"{path}: the ELF header is damaged (byte 4 is {kind}, byte 5 is {order}; expected 2 and 1)"
    number: Literal["little", "big"] = "little" if order == 1 else "big"
    of, machine = (int.from_bytes(start[at : at + 2], number) for at in (16, 18))
    if of != _ET_CORE:
        return (
            f"{path} is an ELF file of type {_TYPES.get(of, of)} (file offset 16), a program or a kernel, not a memory "
            "dump (ET_CORE); give the dump, and a vmlinux with --symbols"
        )
    kinds = [*(["32-bit"] if kind == 1 else []), *(["big-endian"] if order == 2 else [])]
    if (name := OTHER_ELF_MACHINES.get(machine)) is not None:
        return f"{path} {other_machine(', '.join([name, *kinds]))}"
    if kinds:
        return f"{path} is an ELF core that is {' and '.join(kinds)}; only 64-bit little-endian machines are read"
    if not is_process(set(_notes(start)), placed=False):
        return None
    loads = [(paddr, Stretch(at, size)) for kind, at, paddr, size in _headers(start) if kind == _PT_LOAD]
    return None if any(paddr for paddr, _ in loads) else process_refusal(path, [held for _, held in loads])


def is_process(notes: set[tuple[str, int]], *, placed: bool) -> bool:
    """Are notes of these names and types those of a user process? ``placed`` if a segment has a physical address."""
    kernel = any(name in ("VMCOREINFO", "QEMU") for name, _ in notes)
    mine = {kind for name, kind in notes if name == "CORE"} & {NT_PRPSINFO, NT_AUXV, NT_FILE}
    return bool(mine) and not kernel and not placed


def process_refusal(path: Path, segments: list[Stretch]) -> str:
    """The sentence that refuses the core of a user process: a hypervisor is one, and has the memory of its guest."""
    largest = max(segments, key=lambda one: one.size, default=Stretch(0, 0))
    guest = (
        f"; if the process is a hypervisor, its largest segment ({amount(largest.size)}) may be the guest's memory: "
        f"cut it out with `tail -c +{largest.offset + 1} {path} | head -c {largest.size} > {path}.guest` and give that"
    )
    return (
        f"{path} is the core of a user process (its notes describe one and no segment has a physical address); open it "
        "with a debugger, and give a dump of the machine's physical memory here"
        + (guest if largest.size >= _GUEST else "")
    )


def _notes(start: bytes) -> Iterator[tuple[str, int]]:
    """Name and type of the first notes that lie in ``start``."""
    for kind, at, _, size in _headers(start):
        if kind != _PT_NOTE:
            continue
        end = min(at + size, len(start))
        for _ in range(_MOST_NOTES):
            if at + _NOTE.size > end:
                break
            name_size, desc_size, of = _NOTE.unpack_from(start, at)
            at += _NOTE.size
            yield start[at : at + min(name_size, 16)].split(b"\0", 1)[0].decode("latin-1"), of
            at += -(-name_size // 4) * 4 + -(-desc_size // 4) * 4


def _headers(start: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Type, file offset, physical address and size in the file of the segments whose headers are in ``start``."""
    at, count = int.from_bytes(start[32:40], "little"), int.from_bytes(start[56:58], "little")
    if int.from_bytes(start[54:56], "little") != _PHDR.size:
        return
    table = start[at : at + count * _PHDR.size]
    for kind, _, offset, _, paddr, size, _, _ in _PHDR.iter_unpack(table[: len(table) // _PHDR.size * _PHDR.size]):
        yield kind, offset, paddr, size
