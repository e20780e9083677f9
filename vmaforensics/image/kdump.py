"""kdump-compressed dumps (makedumpfile, QEMU's ``dump-guest-memory`` with kdump-raw formats) and diskdump.

Four states are told apart: RAM whose page was filtered out is in the first bitmap and not in the second,
and all zero pages share one page of zeros in the file.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import UnsupportedFormatError
from vmaforensics.image.bitmap import PageBitmap
from vmaforensics.image.codecs import COMPRESSION, NAMES, RAW, decompress
from vmaforensics.image.image import Image, Note
from vmaforensics.image.kdump_header import (
    PAGE_LIMIT,
    STATUS_INCOMPLETE,
    STATUS_NO_VMEMMAP,
    KdumpHeader,
    read_header,
)
from vmaforensics.image.kdump_pages import DESCRIPTOR, KdumpMemory
from vmaforensics.image.notes import LARGEST_AREA, cpu_states, erased, parse_notes, vmcoreinfo_of
from vmaforensics.image.source import plural

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# Descriptors (24 bytes each) are counted and searched at opening only up to this many: 16 GiB of memory.
MOST_COUNTED = 1 << 22


def open_kdump(path: Path, buffer: NDArray[np.uint8]) -> Image:
    """Open a kdump-compressed file of header version 0 to 6, or a diskdump.

    Raises :class:`UnsupportedFormatError` for headers that cannot be believed. Damaged pages are found when
    they are read: they are absent, and ``memory.problems()`` counts them.
    """
    file = buffer.data
    header, problems = read_header(path, file)
    octets = header.bitmap_size
    dumped_at = header.bitmap_at + (octets if header.bitmaps == 2 else 0)
    dumped = PageBitmap(_words(buffer, dumped_at, octets), header.max_mapnr)
    ram = (
        dumped
        if header.bitmaps == 1
        else PageBitmap(_words(buffer, header.bitmap_at, octets) | _words(buffer, dumped_at, octets), header.max_mapnr)
    )
    window = header.window or (0, PAGE_LIMIT)
    count = dumped.before(window[1]) - dumped.before(window[0])
    room = (len(buffer) - header.descriptors_at) // DESCRIPTOR.itemsize
    if room < count:
        problems.append(
            f"the file is truncated: it ends at offset {len(buffer):#x}, and {count - room:,} of "
            f"{count:,} page descriptors are missing"
        )
        count = room
    descriptors = np.frombuffer(file, dtype=DESCRIPTOR, count=count, offset=header.descriptors_at)
    shift = header.block_size.bit_length() - 1
    zero_offset = _zero_page(file, descriptors[:MOST_COUNTED], 1 << shift)
    try:
        ranges = ram.runs() << np.uint64(shift)
    except ValueError as error:
        raise UnsupportedFormatError(
            f"{path}: the bitmap at file offset {header.bitmap_at:#x} describes {error}, which no "
            "machine's memory does; the file is damaged"
        ) from error
    memory = KdumpMemory(
        buffer,
        ranges,
        block_shift=shift,
        ram=ram,
        dumped=dumped,
        window=window,
        descriptors=descriptors,
        zero_offset=zero_offset,
    )
    notes = _notes(file, header, problems)
    vmcoreinfo = None
    if header.vmcoreinfo is not None:
        at, size = header.vmcoreinfo
        vmcoreinfo = bytes(file[at : at + min(size, LARGEST_AREA)]).rstrip(b"\0")
    if header.status & STATUS_INCOMPLETE:
        problems.append("makedumpfile marked this dump as incomplete (status bit 3): it ran out of space")
    elsewhere = dumped.count - dumped.before(window[1]) + dumped.before(window[0])
    if elsewhere:
        problems.append(
            f"this is one part of a split dump, with the page frames {window[0]:#x} to {window[1]:#x}; "
            f"the other parts are missing, and their {plural(elsewhere, 'page')} absent"
        )
    if header.eraseinfo is not None:
        at, size = header.eraseinfo
        problems.append(erased(bytes(file[at : at + min(size, LARGEST_AREA)])))
    details = _details(header) | _counts(file, descriptors, zero_offset, ram.count, dumped.count, problems)
    return Image(
        path=path,
        size=len(buffer),
        format="kdump",
        memory=memory,
        vmcoreinfo=vmcoreinfo or vmcoreinfo_of(notes),
        cpus=cpu_states(notes, header.utsname["machine"] in ("x86_64", "")),
        notes=tuple(notes),
        details=details,
        problems=tuple(problems),
    )


def _words(buffer: NDArray[np.uint8], at: int, size: int) -> NDArray[np.uint64]:
    return np.frombuffer(buffer.data, dtype="<u8", count=size // 8, offset=at)


def _notes(file: memoryview, header: KdumpHeader, problems: list[str]) -> list[Note]:
    if header.notes is None:
        return []
    at, size = header.notes
    notes, more = parse_notes(bytes(file[at : at + min(size, LARGEST_AREA + 1)]), f"at file offset {at:#x}")
    problems += more
    return notes


def _zero_page(file: memoryview, descriptors: NDArray[np.void], page_size: int) -> int | None:
    """The file offset of the page all zero pages share, if there is one.

    makedumpfile and QEMU write it before all others. If the lowest page is not zero, the lowest that
    several page frames share is tried.
    """
    offsets = descriptors["offset"]
    usable = (offsets > 0) & (offsets < len(file)) & (descriptors["size"] <= page_size)
    usable &= np.isin(descriptors["flags"], list(NAMES))
    if not usable.any():
        return None
    lowest = offsets[usable].min()
    if not _is_zero(file, descriptors[usable & (offsets == lowest)][:1], page_size):
        ordered = np.sort(offsets[usable])
        shared = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(shared) == 0:
            return None
        lowest = shared[0]
        if not _is_zero(file, descriptors[usable & (offsets == lowest)][:1], page_size):
            return None
    return int(lowest)


def _is_zero(file: memoryview, row: NDArray[np.void], page_size: int) -> bool:
    page = np.ones(page_size, dtype=np.uint8)
    fine = decompress(file, row["offset"], row["size"], row["flags"], page.data, np.zeros(1, np.int64), page_size)
    return bool(fine[0] and not page.any())


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


def _counts(
    file: memoryview,
    descriptors: NDArray[np.void],
    zero_offset: int | None,
    ram: int,
    dumped: int,
    problems: list[str],
) -> dict[str, str]:
    """Numbers of pages; a problem if descriptors point past the end of the file."""
    counts = {"pages of RAM": f"{ram:,}", "pages excluded": f"{ram - dumped:,}"}
    whole = len(descriptors) <= MOST_COUNTED
    sample = descriptors if whole else descriptors[-MOST_COUNTED:]
    offsets = sample["offset"]
    zeros = int((offsets == zero_offset).sum()) if zero_offset is not None else 0
    if whole:
        counts |= {"pages held": f"{len(descriptors) - zeros:,}", "pages zero": f"{zeros:,}"}
    else:
        counts["pages held or zero"] = f"{len(descriptors):,}"
    end = np.uint64(len(file))
    beyond = int(((offsets > end) | (sample["size"] > end - np.minimum(offsets, end))).sum())
    if beyond:
        problems.append(
            f"the file is truncated: it ends at offset {len(file):#x}, and the data of "
            f"{'' if whole else 'at least '}{plural(beyond, 'page')} lies beyond"
        )
    return counts
