"""Writes a process as an ELF core file, with the memory that its own records hide, and a manifest of what is missing.

The file is what the kernel's own dump would be (elf_core_dump, fs/binfmt_elf.c) with three differences. Memory that an
index lacks has segments too, and a note that names them. Of a page whose bytes are not in the image the file holds
nothing: its segment has no bytes (``p_filesz`` 0), so that a debugger says it cannot read it, and does not show zeros.
No thread has a signal, for none stopped the process.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from elftools.elf.enums import ENUM_E_MACHINE

from vmaforensics.compare.known_regions import KnownRegions, known_regions
from vmaforensics.compare.ranges import mm_of
from vmaforensics.errors import UsageError
from vmaforensics.export.core.notes import MappedFile, all_notes
from vmaforensics.export.core.process import core_process, tasks_of
from vmaforensics.export.core.segments import Layout, lay_out, total
from vmaforensics.export.core.threads import core_threads
from vmaforensics.export.page_source import STATES
from vmaforensics.version import __version__
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from typing import IO

    from vmaforensics.arch.registers import CpuState
    from vmaforensics.export.core.process import Process
    from vmaforensics.export.core.threads import Thread
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views

MOST_BYTES = 16 << 30  # of memory in a core file, unless the caller says more
_EHDR, _PHDR, _SHDR = struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQQQ"), struct.Struct("<IIQQQQIIQQ")
_ET_CORE = 4
_PT_LOAD, _PT_NOTE = 1, 4
_PN_XNUM = 0xFFFF
_CHUNK = 1 << 10  # pages read at once
_GRAIN = 16  # pages that become a hole of the file where all are zeros


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """A core file that is ready to be written."""

    process: Process
    mm: int
    threads: list[Thread]
    regions: KnownRegions
    layout: Layout
    files: list[MappedFile]
    problems: list[str]


def make_core(
    kernel: Kernel, views: Views, cpus: tuple[CpuState, ...], pid: int, mm: int | None = None, most: int = MOST_BYTES
) -> Core:
    """Everything that goes into the core file of a process, but for the bytes.

    Raises :class:`UsageError` for a process that has no memory, and for one that has more than ``most`` bytes.
    """
    where = mm_of(views, pid) if mm is None else mm
    tasks = tasks_of(views, pid, where)
    regions = known_regions(views, [where])
    layout = lay_out(kernel, views, regions)
    if total(layout.segments) > most:
        raise UsageError(
            f"the core file would hold {total(layout.segments)} bytes of memory, more than {most}; "
            f"give --max {total(layout.segments)} to write it anyway"
        )
    process = core_process(kernel, views, tasks, where)
    threads = core_threads(kernel, views, tasks, cpus)
    problems = []
    if process.narrow:
        problems.append("a 32-bit program: the core file is a 64-bit one all the same, with registers of 64 bits")
    if not process.auxv:
        problems.append("the auxiliary vector (NT_AUXV) is not in the image")
    if not threads:
        problems.append("no thread of the process has user-mode registers (NT_PRSTATUS)")
    if views.page_tables is None:
        problems.append("the page tables could not be read: the core file holds no memory")
    return Core(
        process=process,
        mm=where,
        threads=threads,
        regions=regions,
        layout=layout,
        files=_mapped_files(views, regions),
        problems=problems,
    )


def _mapped_files(views: Views, regions: KnownRegions) -> list[MappedFile]:
    """The elements of NT_FILE: regions of files whose path is known."""
    files, rows = views.files, regions.rows
    if files is None:
        return []
    found = []
    at = files.rows_of(rows.file)
    for row in np.flatnonzero((rows.file != 0) & (at >= 0)).tolist():
        path = files.paths[int(at[row])]
        if path is not None:
            start, end, pgoff = int(rows.start[row]), int(rows.end[row]), int(rows.pgoff[row])
            found.append(MappedFile(start, end, pgoff, printable(path)))
    return found


def hidden_parts(core: Core) -> list[dict[str, object]]:
    """The regions that the kernel's own index lacks, with the records that show each."""
    rows = core.regions.rows
    return [
        {
            "start": hex(int(rows.start[row])),
            "end": hex(int(rows.end[row])),
            "name": printable(core.regions.name(row)),
            "vma": hex(int(rows.vma[row])) if rows.vma[row] else None,
            "shown_by": list(core.regions.records(row)),
            "missing_in": list(core.regions.lacking(row)),
        }
        for row in np.flatnonzero(rows.hidden).tolist()
    ]


def write_core(kernel: Kernel, core: Core, stream: IO[bytes]) -> None:
    """Write the core file into ``stream``, an empty file. Zeros become holes of it."""
    segments, size = core.layout.segments, kernel.arch.page_size
    notes = all_notes(core.process, core.threads, core.files, {"hidden": hidden_parts(core)})
    count = len(segments) + 1
    extended = count >= _PN_XNUM
    notes_at = _EHDR.size + count * _PHDR.size + (_SHDR.size if extended else 0)
    data_at = -(-(notes_at + len(notes)) // size) * size
    stream.write(
        _EHDR.pack(
            b"\x7fELF\x02\x01\x01".ljust(16, b"\0"),
            _ET_CORE,
            ENUM_E_MACHINE[kernel.arch.elf_machine],
            1,
            0,
            _EHDR.size,
            _EHDR.size + count * _PHDR.size if extended else 0,
            0,
            _EHDR.size,
            _PHDR.size,
            min(count, _PN_XNUM),
            _SHDR.size if extended else 0,
            int(extended),
            0,
        )
    )
    stream.write(_PHDR.pack(_PT_NOTE, 0, notes_at, 0, 0, len(notes), 0, 4))
    offset = data_at
    lengths = (segments.end - segments.start).tolist()
    columns = zip(segments.start.tolist(), lengths, segments.flags.tolist(), segments.has_bytes.tolist(), strict=True)
    for start, length, flags, held in columns:
        stream.write(_PHDR.pack(_PT_LOAD, flags, offset, start, 0, length if held else 0, length, size))
        offset += length if held else 0
    if extended:  # elf_core_extra_phdrs: the number of segments is in the first section header
        stream.write(_SHDR.pack(0, 0, 0, 0, 0, 1, 0, count, 0, 0))
    stream.write(notes)
    stream.seek(data_at)
    pages = core.layout.pages
    for low in range(0, len(pages), _CHUNK):
        part = pages.take(slice(low, low + _CHUNK))
        held_pages = part.has_bytes
        data = np.zeros((len(part), size), np.uint8)
        data[held_pages], _ = kernel.memory.gather(kernel.arch.bytes_of(part.pfn[held_pages]), size)
        for first in range(0, len(part), _GRAIN):
            grain = data[first : first + _GRAIN].reshape(-1)
            if grain.any():
                stream.write(grain.data)
            else:
                stream.seek(grain.size, os.SEEK_CUR)
    stream.truncate(offset)


def core_manifest(kernel: Kernel, core: Core, facts: dict[str, object]) -> bytes:
    """The JSON text that goes beside the core file: what is hidden, what is missing, where registers come from."""
    rows = core.regions.rows
    named = {file.start for file in core.files}
    document = {
        "tool": "vmaforensics",
        "version": __version__,
        **facts,
        "kernel": printable(kernel.identity.release),
        "pid": core.process.pid,
        "comm": printable(core.process.comm),
        "mm": hex(core.mm),
        "problems": core.problems,
        "threads": [
            {
                "tid": thread.tid,
                "comm": thread.comm,
                "task": hex(thread.task),
                "registers_from": thread.source,
                "missing": list(thread.missing),
            }
            for thread in core.threads
        ],
        "hidden": hidden_parts(core),
        "states": STATES,
        "pages": core.layout.counts,
        "missing": core.layout.missing,
        "regions": len(rows),
        "segments": len(core.layout.segments),
        "unnamed": [
            hex(int(rows.start[row]))
            for row in np.flatnonzero(rows.file != 0).tolist()
            if int(rows.start[row]) not in named
        ],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"
