"""Xen's ``xl dump-core``: an ELF core without program headers, the memory in sections.

``.xen_pages`` has the pages one behind the other, ``.xen_pfn`` the guest's page frame of each (xen,
docs/misc/dump-core-format.txt). A paravirtual guest has ``.xen_p2m`` in its place: its page tables hold frames of the
host, and are not read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vmaforensics.columns.runs import begins_range, run_lasts, run_starts
from vmaforensics.errors import UnsupportedFormatError
from vmaforensics.image.formats.segments import PHYSICAL_LIMIT, Segments, lay_out
from vmaforensics.image.image import Image
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.arch.interface import Architecture
    from vmaforensics.image.source import FileSource

SECTION_HEADER = np.dtype(
    [
        ("name", "<u4"),
        ("type", "<u4"),
        ("flags", "<u8"),
        ("addr", "<u8"),
        ("offset", "<u8"),
        ("size", "<u8"),
        ("link", "<u4"),
        ("info", "<u4"),
        ("addralign", "<u8"),
        ("entsize", "<u8"),
    ]
)
_MOST_SECTIONS = 64  # Xen writes seven
_LONGEST_NAME = 32
_PFN = np.dtype("<u8")


def sections(source: FileSource, header: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """File offset and size of the sections of an ELF file by name, as far as their headers lie in it."""
    at, count = header["e_shoff"], min(header["e_shnum"], _MOST_SECTIONS)
    if header["e_shentsize"] != SECTION_HEADER.itemsize or at + count * SECTION_HEADER.itemsize > len(source):
        return {}
    table = source.array(SECTION_HEADER, at, count)
    if header["e_shstrndx"] >= count:
        return {}
    names, length = (int(table[field][header["e_shstrndx"]]) for field in ("offset", "size"))
    found: dict[str, tuple[int, int]] = {}
    for name, offset, size in zip(*(table[field].tolist() for field in ("name", "offset", "size")), strict=True):
        if name < length and names + name < len(source):
            text = bytes(source[names + name : names + min(length, name + _LONGEST_NAME)]).split(b"\0", 1)[0]
            found.setdefault(text.decode("latin-1"), (offset, size))
    return found


def open_xen(path: Path, source: FileSource, places: dict[str, tuple[int, int]], arch: Architecture) -> Image:
    """Open a core with a section ``.xen_pages`` among its :func:`sections`.

    Raises :class:`UnsupportedFormatError` for that of a paravirtual guest, or if the frames are not in the file.
    """
    if ".xen_p2m" in places:
        raise UnsupportedFormatError(
            f"{path} is the core of a paravirtual Xen guest (.xen_p2m), whose page tables hold frames of the host; "
            "only cores of HVM and PVH guests are read; have the guest save a kdump of itself"
        )
    if ".xen_pfn" not in places:
        raise UnsupportedFormatError(f"{path} is a Xen core without .xen_pfn, or cut off; take the dump again")
    at, size = places[".xen_pfn"]
    pages_at, pages_size = places[".xen_pages"]
    count = min(size, max(0, len(source) - at)) // _PFN.itemsize
    problems = []
    if count < size // _PFN.itemsize:
        missing = counted(size // _PFN.itemsize - count, "page frame")
        problems.append(f"the file is truncated: it ends inside .xen_pfn, and the numbers of {missing} are missing")
    page = np.uint64(arch.page_size)
    count = min(count, pages_size // arch.page_size)
    pfn = source.array(_PFN, at, count).astype(np.uint64)
    kept = np.flatnonzero(pfn < np.uint64(PHYSICAL_LIMIT) // page)  # ~0: no page
    pa = pfn[kept] * page
    offset = np.uint64(pages_at) + kept.astype(np.uint64) * page
    first = run_starts(begins_range(pa, pa + page) | begins_range(offset, offset + page))
    sizes = (run_lasts(first, len(kept)) - first + 1).astype(np.uint64) * page
    segments = Segments(
        pa=pa[first], memory=sizes, held=sizes, offset=offset[first], key=np.zeros(len(first), np.uint64)
    )
    memory, more = lay_out(source, segments, "run of pages")
    details = {"writer": "Xen (xl dump-core)", "pages": f"{len(kept):,}"}
    return Image(
        path=path,
        size=len(source),
        format="elf",
        memory=memory,
        arch=arch,
        details=details,
        problems=(*problems, *more),
    )
