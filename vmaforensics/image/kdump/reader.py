"""kdump-compressed dumps (makedumpfile, QEMU's ``dump-guest-memory`` with kdump-raw formats) and diskdump.

Four states are distinguished: RAM whose page was filtered out is in the first bitmap and not in the second,
and all zero pages share one page of zeros in the file.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.arch.known import DEFAULT, by_machine
from vmaforensics.arch.machines import OTHER_MACHINES, refusal
from vmaforensics.errors import UnsupportedFormatError
from vmaforensics.image.image import Image, Note
from vmaforensics.image.kdump.bitmap import PageBitmap
from vmaforensics.image.kdump.codecs import COMPRESSION, NAMES, RAW, decompress
from vmaforensics.image.kdump.header import (
    PAGE_LIMIT,
    STATUS_INCOMPLETE,
    STATUS_NO_VMEMMAP,
    KdumpHeader,
    read_header,
)
from vmaforensics.image.kdump.pages import DESCRIPTOR, Descriptors, KdumpMemory, Part
from vmaforensics.image.notes import LARGEST_AREA, cpu_states, erased, parse_notes, vmcoreinfo_of
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from vmaforensics.image.source import FileSource


class KdumpFile(NamedTuple):
    """A file and its headers."""

    path: Path
    source: FileSource
    header: KdumpHeader
    problems: tuple[str, ...]  # of the headers


# Descriptors (24 bytes each) are all counted and searched at opening only up to this many, 16 GiB of memory; of more,
# the first SAMPLED.
MOST_COUNTED = 1 << 22
SAMPLED = 1 << 18


def open_kdump(path: Path, source: FileSource) -> Image:
    """Open a kdump-compressed file of header version 0 to 6, or a diskdump.

    Raises :class:`UnsupportedFormatError` for headers that cannot be believed. Damaged pages are found when
    they are read: they are absent, and ``memory.problems()`` counts them.
    """
    header, problems = read_header(path, source)
    return open_parts([KdumpFile(path, source, header, tuple(problems))])


def open_parts(files: Sequence[KdumpFile]) -> Image:
    """Open a kdump file, or the parts of a split one: sorted by their windows, which are disjoint, and alike
    in everything else. Headers, bitmaps and notes are read from the first.

    Raises :class:`UnsupportedFormatError` for headers that cannot be believed.
    """
    path, source, header = files[0].path, files[0].source, files[0].header
    problems = [text for file in files for text in file.problems]
    octets = header.bitmap_size
    dumped_at = header.bitmap_at + (octets if header.bitmaps == 2 else 0)
    dumped = PageBitmap(_words(source, dumped_at, octets), header.max_mapnr)
    ram = (
        dumped
        if header.bitmaps == 1
        else PageBitmap(_words(source, header.bitmap_at, octets) | _words(source, dumped_at, octets), header.max_mapnr)
    )
    shift = header.block_size.bit_length() - 1
    try:
        ranges = ram.runs() << np.uint64(shift)
    except ValueError as error:
        raise UnsupportedFormatError(
            f"{path}: the bitmap at file offset {header.bitmap_at:#x} describes {error}, which no "
            "machine's memory does; the file is damaged"
        ) from error
    counts = _Counts()
    parts = [_part(file, dumped, counts, problems) for file in files]
    memory = KdumpMemory(ranges, block_shift=shift, ram=ram, dumped=dumped, parts=parts)
    notes = _notes(source, header, problems)
    vmcoreinfo = None
    if header.vmcoreinfo is not None:
        at, size = header.vmcoreinfo
        vmcoreinfo = bytes(source[at : at + min(size, LARGEST_AREA)]).rstrip(b"\0")
    if any(file.header.status & STATUS_INCOMPLETE for file in files):
        problems.append("makedumpfile marked this dump as incomplete (status bit 3): it ran out of space")
    elsewhere = dumped.count - sum(dumped.before(part.window[1]) - dumped.before(part.window[0]) for part in parts)
    if elsewhere:
        problems.append(_elsewhere(parts, elsewhere))
    for file in files:
        if file.header.eraseinfo is not None:
            at, size = file.header.eraseinfo
            problems.append(erased(bytes(file.source[at : at + min(size, LARGEST_AREA)])))
    machine = header.utsname["machine"]
    arch = by_machine(machine)
    if arch is None and machine in OTHER_MACHINES:
        raise UnsupportedFormatError(f"{path} {refusal(machine)}")
    if arch is None:
        arch = DEFAULT
        problems.append(f"the header names the machine {machine!r}, which is none that is known; taken for {arch.name}")
    details = _details(header)
    if header.window is not None:
        details["split"] = f"{counted(len(files), 'part')}, {_windows(parts)}"
    details |= {"pages of RAM": f"{ram.count:,}", "pages excluded": f"{ram.count - dumped.count:,}"}
    return Image(
        path=path,
        others=tuple(file.path for file in files[1:]),
        size=sum(len(file.source) for file in files),
        format="kdump",
        memory=memory,
        vmcoreinfo=vmcoreinfo or vmcoreinfo_of(notes),
        cpus=cpu_states(notes, arch),
        arch=arch,
        notes=tuple(notes),
        details=details | counts.details(),
        problems=tuple(dict.fromkeys(problems)),
    )


def _part(file: KdumpFile, dumped: PageBitmap, counts: _Counts, problems: list[str]) -> Part:
    """The descriptors of one file, as far as they are in it."""
    source, header = file.source, file.header
    window = header.window or (0, PAGE_LIMIT)
    count = dumped.before(window[1]) - dumped.before(window[0])
    room = (len(source) - header.descriptors_at) // DESCRIPTOR.itemsize
    if room < count:
        problems.append(
            f"the file {_named(file)}is truncated: it ends at offset {len(source):#x}, and {count - room:,} of "
            f"{count:,} page descriptors are missing"
        )
        count = room
    records = source.array(DESCRIPTOR, header.descriptors_at, count if count <= MOST_COUNTED else SAMPLED)
    first = Descriptors.of_records(records)
    zero_offset = _zero_page(source, first, header.block_size)
    counts.add(file, first, count, zero_offset, problems)
    return Part(
        source=source, window=window, descriptors_at=header.descriptors_at, count=count, zero_offset=zero_offset
    )


def _windows(parts: Sequence[Part]) -> str:
    windows = [f"{low:#x} to {high:#x}" for low, high in (part.window for part in parts) if low < high] or ["none"]
    return f"page frames {', '.join(windows[:8])}{', and more' if len(windows) > 8 else ''}"


def _elsewhere(parts: Sequence[Part], pages: int) -> str:
    if len(parts) == 1:
        low, high = parts[0].window
        return (
            f"this is one part of a split dump, with the page frames {low:#x} to {high:#x}; the other parts are "
            f"missing, and their {counted(pages, 'page')} absent: give all parts together"
        )
    return (
        f"these are {len(parts)} parts of a split dump, with the {_windows(parts)}; other parts are missing, and "
        f"their {counted(pages, 'page')} absent: give all parts together"
    )


def _words(source: FileSource, at: int, size: int) -> NDArray[np.uint64]:
    return source.array(np.dtype("<u8"), at, size // 8)


def _notes(source: FileSource, header: KdumpHeader, problems: list[str]) -> list[Note]:
    if header.notes is None:
        return []
    at, size = header.notes
    notes, more = parse_notes(bytes(source[at : at + min(size, LARGEST_AREA + 1)]), f"at file offset {at:#x}")
    problems += more
    return notes


def _zero_page(source: FileSource, descriptors: Descriptors, page_size: int) -> int | None:
    """The file offset of the page all zero pages share, if there is one.

    makedumpfile and QEMU write it before all others. If the lowest page is not zero, the lowest that
    several page frames share is tried.
    """
    offsets = descriptors.offset
    usable = (offsets > 0) & (offsets < len(source)) & (descriptors.size <= page_size)
    usable &= np.isin(descriptors.flags, list(NAMES))
    if not usable.any():
        return None
    lowest = offsets[usable].min()
    if not _is_zero(source, descriptors.take(np.flatnonzero(usable & (offsets == lowest))[:1]), page_size):
        ordered = np.sort(offsets[usable])
        shared = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(shared) == 0:
            return None
        lowest = shared[0]
        if not _is_zero(source, descriptors.take(np.flatnonzero(usable & (offsets == lowest))[:1]), page_size):
            return None
    return int(lowest)


def _is_zero(source: FileSource, descriptor: Descriptors, page_size: int) -> bool:
    page = np.ones(page_size, dtype=np.uint8)
    at = int(descriptor.offset[0])
    file = source[at : at + int(descriptor.size[0])]
    if len(file) < int(descriptor.size[0]):
        return False
    start = np.zeros(1, np.int64)
    unpacked = decompress(file, start, descriptor.size, descriptor.flags, page.data, start, page_size)
    return bool(unpacked[0] and not page.any())


def _details(header: KdumpHeader) -> dict[str, str]:
    methods = [NAMES[bit] for bit in NAMES if bit & header.status & COMPRESSION]
    details = {
        "header version": str(header.version),
        "compression": ", ".join(methods) or NAMES[RAW],
        "page size": f"{header.block_size:,}",
    }
    if header.dump_level is not None:
        details["dump level"] = str(header.dump_level)
    details |= {name: text for name, text in header.utsname.items() if text}
    if 0 < header.timestamp < 1 << 35:
        details["crash time"] = datetime.fromtimestamp(header.timestamp, UTC).isoformat()
    if header.status & STATUS_NO_VMEMMAP:
        details["excluded"] = "unused vmemmap pages (makedumpfile -e)"
    return details


class _Counts:
    """Numbers of pages over all files; a problem if descriptors point past the end of one."""

    def __init__(self) -> None:
        self._descriptors, self._zeros, self._whole = 0, 0, True

    def add(
        self, file: KdumpFile, first: Descriptors, count: int, zero_offset: int | None, problems: list[str]
    ) -> None:
        """Count a file of ``count`` descriptors, the ``first`` of which are given."""
        whole = len(first) == count
        source, at = file.source, file.header.descriptors_at + (count - len(first)) * DESCRIPTOR.itemsize
        # Data is written in order: where the file is cut off, the last descriptors show it.
        sample = first if whole else Descriptors.of_records(source.array(DESCRIPTOR, at, len(first)))
        self._descriptors += count
        self._zeros += int((sample.offset == zero_offset).sum()) if zero_offset is not None else 0
        self._whole &= whole
        end = np.uint64(len(source))
        offsets = sample.offset
        beyond = int(((offsets > end) | (sample.size > end - np.minimum(offsets, end))).sum())
        if beyond:
            problems.append(
                f"the file {_named(file)}is truncated: it ends at offset {len(source):#x}, and the data of "
                f"{'' if whole else 'at least '}{counted(beyond, 'page')} lies beyond"
            )

    def details(self) -> dict[str, str]:
        """For ``Image.details``."""
        if self._whole:
            return {"pages held": f"{self._descriptors - self._zeros:,}", "pages zero": f"{self._zeros:,}"}
        return {"pages held or zero": f"{self._descriptors:,}"}


def _named(file: KdumpFile) -> str:
    """The name of a part of a split dump, before "is"; where there is one file only, it needs none."""
    return "" if file.header.window is None else f"{file.path} "
