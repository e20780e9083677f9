"""The notes of a core file, as fs/binfmt_elf.c and fs/binfmt_elf.h of the kernel lay them out for 64-bit machines."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from vmaforensics.image.elf_header import NT_AUXV, NT_FILE, NT_PRPSINFO
from vmaforensics.image.image import Note
from vmaforensics.image.notes import NT_PRSTATUS, pack_note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.export.core.process import Process
    from vmaforensics.export.core.threads import Thread

NT_SIGINFO = 0x53494749
OWN_NAME, OWN_TYPE = "VMAFORENSICS", 0x564D4131  # JSON: which segments are of memory that the kernel's own index lacks

_COMMON = struct.Struct("<iiihxxQQiiii8Q")  # struct elf_prstatus_common: siginfo, signals, pids, four timevals
_PSINFO = struct.Struct("<bbbbxxxxQIIiiii16s80s")  # struct elf_prpsinfo
_LETTERS = "RSDTZW"  # fill_psinfo: by the lowest bit of the state


class MappedFile(NamedTuple):
    """A file that a range maps: an element of NT_FILE."""

    start: int
    end: int
    pgoff: int  # pages
    name: str


def all_notes(process: Process, threads: Sequence[Thread], files: Sequence[MappedFile], hidden: object) -> bytes:
    """The notes in the order of the kernel's own dumps: of the first thread, of the process, of the other threads."""
    first = [_prstatus(process, threads[0])] if threads else []
    own = [
        Note(name="CORE", type=NT_PRPSINFO, desc=_psinfo(process)),
        *([Note(name="CORE", type=NT_SIGINFO, desc=process.siginfo)] if process.siginfo else []),
        *([Note(name="CORE", type=NT_AUXV, desc=process.auxv)] if process.auxv else []),
        Note(name="CORE", type=NT_FILE, desc=_files(files, process.page_size)),
        *([_further(note) for note in threads[0].floating] if threads else []),
        Note(name=OWN_NAME, type=OWN_TYPE, desc=msgspec.json.encode(hidden)),
    ]
    others = [
        note
        for thread in threads[1:]
        for note in (_prstatus(process, thread), *(_further(note) for note in thread.floating))
    ]
    return b"".join(pack_note(note) for note in (*first, *own, *others))


def _further(note: tuple[str, int, bytes]) -> Note:
    name, kind, desc = note
    return Note(name=name, type=kind, desc=desc)


def _prstatus(process: Process, thread: Thread) -> Note:
    """NT_PRSTATUS. A thread has no signal: the process was stopped with its machine, not by one."""
    common = _COMMON.pack(0, 0, 0, 0, 0, 0, thread.tid, process.parent, process.group, process.session, *([0] * 8))
    words = struct.pack(f"<{len(thread.registers)}Q", *thread.registers)
    valid = struct.pack("<i4x", int(bool(thread.floating)))
    return Note(name="CORE", type=NT_PRSTATUS, desc=common + words + valid)


def _psinfo(process: Process) -> bytes:
    """NT_PRPSINFO (fill_psinfo)."""
    state = (process.state & -process.state).bit_length()
    letter = _LETTERS[state] if state < len(_LETTERS) else "."
    return _PSINFO.pack(
        min(state, 127),
        ord(letter),
        int(letter == "Z"),
        process.nice,
        process.flags,
        process.uid,
        process.gid,
        process.pid,
        process.parent,
        process.group,
        process.session,
        process.comm[:15],
        process.arguments[:79],
    )


def _files(files: Sequence[MappedFile], page_size: int) -> bytes:
    """NT_FILE (fill_files_note): count, page size, ranges with offsets in pages, names one after the other."""
    ranges = b"".join(struct.pack("<QQQ", file.start, file.end, file.pgoff) for file in files)
    names = b"".join(file.name.encode() + b"\0" for file in files)
    return struct.pack("<QQ", len(files), page_size) + ranges + names
