"""Headers of kdump-compressed files and of diskdump, their ancestor (makedumpfile, diskdump_mod.h).

Block 0 holds ``struct disk_dump_header``, block 1 ``struct kdump_sub_header``; then come the two bitmaps
and the page descriptors. Offsets and sizes in the headers are checked here once, so that what
:class:`KdumpHeader` says of the file's layout lies inside the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import construct as c

from vmaforensics.arch.known import ARCHITECTURES
from vmaforensics.arch.machines import OTHER_MACHINES
from vmaforensics.errors import UnsupportedFormatError
from vmaforensics.image.source import ascii_text
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.image.source import Bytes

UTSNAME = ("sysname", "nodename", "release", "version", "machine", "domainname")

MAIN_HEADER = c.Struct(
    "signature" / c.Bytes(8),
    "header_version" / c.Int32sl,
    "utsname" / c.Bytes(6 * 65),
    c.Padding(6),
    "tv_sec" / c.Int64sl,
    "tv_usec" / c.Int64sl,
    "status" / c.Int32ul,
    "block_size" / c.Int32sl,
    "sub_hdr_size" / c.Int32sl,  # in blocks, like bitmap_blocks
    "bitmap_blocks" / c.Int32ul,
    "max_mapnr" / c.Int32ul,
    "total_ram_blocks" / c.Int32ul,  # this and the next two are 0 in real files
    "device_blocks" / c.Int32ul,
    "written_blocks" / c.Int32ul,
    "current_cpu" / c.Int32ul,
    "nr_cpus" / c.Int32sl,
)

SUB_HEADER = c.Struct(
    "phys_base" / c.Int64sl,  # QEMU writes a wrong one; NUMBER(phys_base) of VMCOREINFO is right
    "dump_level" / c.Int32sl,
    "split" / c.Int32sl,
    "start_pfn" / c.Int64ul,
    "end_pfn" / c.Int64ul,
    "offset_vmcoreinfo" / c.Int64ul,
    "size_vmcoreinfo" / c.Int64ul,
    "offset_note" / c.Int64ul,
    "size_note" / c.Int64ul,
    "offset_eraseinfo" / c.Int64ul,
    "size_eraseinfo" / c.Int64ul,
    "start_pfn_64" / c.Int64ul,
    "end_pfn_64" / c.Int64ul,
    "max_mapnr_64" / c.Int64ul,
)

_NAME_SIZE = 65  # __NEW_UTS_LEN + 1
_MOST_SHIFT = 32  # bytes

STATUS_INCOMPLETE = 0x8
_LAST_VERSION = 6
STATUS_NO_VMEMMAP = 0x10
LARGEST_BLOCK = 1 << 18  # no Linux has larger pages; 1 << 20 is 4096 read in the wrong byte order
PAGE_LIMIT = 1 << 40  # page frames below the physical address 2**52
_STATUS_AT, _BLOCK_SIZE_AT, _SUB_SIZE_AT, _BITMAP_BLOCKS_AT = 424, 428, 432, 436


@dataclass(frozen=True, slots=True, kw_only=True)
class KdumpHeader:
    """What the headers say. ``(offset, size)`` pairs are in bytes, inside the file, and ``None`` if this
    version of the header has none; ``window`` is the page frames ``[first, end)`` of a split file."""

    version: int
    utsname: dict[str, str]
    timestamp: int
    status: int
    block_size: int
    max_mapnr: int
    bitmap_at: int
    bitmap_size: int  # of one bitmap
    bitmaps: int  # 1: it lists dumped pages; 2: RAM, then dumped pages
    descriptors_at: int
    dump_level: int | None
    window: tuple[int, int] | None
    vmcoreinfo: tuple[int, int] | None
    notes: tuple[int, int] | None
    eraseinfo: tuple[int, int] | None


def read_header(path: Path, file: Bytes) -> tuple[KdumpHeader, list[str]]:
    """The headers of the kdump file of the bytes ``file``, and a sentence for each area that lies outside it.

    Raises :class:`UnsupportedFormatError` if the layout cannot be believed.
    """

    def broken(what: str) -> UnsupportedFormatError:
        return UnsupportedFormatError(f"{path}: the kdump header cannot be believed: {what}; take the dump again")

    if len(file) < MAIN_HEADER.sizeof():
        raise broken(f"the file has {counted(len(file), 'byte')}, the header alone {MAIN_HEADER.sizeof()}")
    main: Any = MAIN_HEADER.parse(bytes(file[: MAIN_HEADER.sizeof()]))
    block = main.block_size
    if not _is_block_size(block):
        _refuse_other_layouts(path, file)
        raise broken(f"block_size (file offset {_BLOCK_SIZE_AT}) is {block}, expected 4096 or a larger power of two")
    if main.sub_hdr_size < 0 or (1 + main.sub_hdr_size) * block > len(file):
        raise broken(
            f"sub_hdr_size (file offset {_SUB_SIZE_AT}) is {main.sub_hdr_size} blocks, which the file of "
            f"{counted(len(file), 'byte')} cannot hold"
        )
    if not 0 <= main.header_version <= 99:
        raise broken(f"header_version (file offset 8) is {main.header_version}, expected 0 to {_LAST_VERSION}")
    # diskdump kept registers in its sub header; only kdump's has a version.
    version = main.header_version if main.signature == b"KDUMP   " else -1
    sub: Any = None
    if version >= 0 and main.sub_hdr_size > 0:
        sub = SUB_HEADER.parse(bytes(file[block : block + SUB_HEADER.sizeof()]))
    elif version >= 0:
        raise broken(f"sub_hdr_size (file offset {_SUB_SIZE_AT}) is 0, but a kdump file has a sub header")
    wide = version >= 6
    max_mapnr = sub.max_mapnr_64 if wide else main.max_mapnr
    where = f"max_mapnr_64 (file offset {block + 96})" if wide else "max_mapnr (file offset 440)"
    bitmap_at = (1 + main.sub_hdr_size) * block
    total = main.bitmap_blocks * block
    if bitmap_at + total > len(file):
        raise broken(
            f"bitmap_blocks (file offset {_BITMAP_BLOCKS_AT}) is {main.bitmap_blocks:,}, so the bitmaps "
            f"reach from file offset {bitmap_at:#x} to {bitmap_at + total:#x}, past the end of the file "
            f"at {len(file):#x}"
        )
    if not 0 < max_mapnr <= min(total * 8, PAGE_LIMIT):
        raise broken(
            f"{where} is {max_mapnr:,} page frames, but bitmap_blocks (file offset {_BITMAP_BLOCKS_AT}) "
            f"is {main.bitmap_blocks:,}, room for {total * 8:,}"
        )
    # As crash's dump_is_partial(): two bitmaps if there is room for two.
    bitmaps = 2 if main.bitmap_blocks >= 2 * -(-max_mapnr // (8 * block)) else 1
    window = None
    if version >= 2 and sub.split:
        window = (sub.start_pfn_64, sub.end_pfn_64) if wide else (sub.start_pfn, sub.end_pfn)
        if window[0] > window[1]:
            raise broken(
                "the page frames of this part of a split dump (file offset "
                f"{block + (80 if wide else 16)}) begin at {window[0]:#x} and end at {window[1]:#x}"
            )
    problems: list[str] = []
    if main.header_version > _LAST_VERSION:
        problems.append(
            f"header_version (file offset 8) is {main.header_version}; the last that is known is {_LAST_VERSION}, and "
            "the header is read as one of that"
        )
    areas = {
        name: _area(sub, name, at + block, len(file), problems) if version >= since else None
        for name, since, at in (("vmcoreinfo", 3, 32), ("note", 4, 48), ("eraseinfo", 5, 64))
    }
    header = KdumpHeader(
        version=main.header_version,
        utsname=_utsname(main.utsname, problems),
        timestamp=main.tv_sec,
        status=main.status,
        block_size=block,
        max_mapnr=max_mapnr,
        bitmap_at=bitmap_at,
        bitmap_size=total // bitmaps,
        bitmaps=bitmaps,
        descriptors_at=bitmap_at + total,
        dump_level=sub.dump_level if version >= 1 else None,
        window=window,
        vmcoreinfo=areas["vmcoreinfo"],
        notes=areas["note"],
        eraseinfo=areas["eraseinfo"],
    )
    return header, problems


def _utsname(raw: bytes, problems: list[str]) -> dict[str, str]:
    """The names, each in 65 bytes.

    A makedumpfile that is older than the kernel copies them from a wrong place: from 5.11 on ``name`` is no longer the
    second member of ``uts_namespace``. The name of the machine shows by how much.
    """
    padded = bytes(_MOST_SHIFT) + raw + bytes(_MOST_SHIFT)

    def name(number: int, shift: int) -> str:
        at = _MOST_SHIFT + number * _NAME_SIZE + shift
        return ascii_text(padded[at : at + _NAME_SIZE])

    machine = UTSNAME.index("machine")
    known = {arch.machine for arch in ARCHITECTURES} | OTHER_MACHINES
    shifts = sorted(range(-_MOST_SHIFT, _MOST_SHIFT + 1), key=abs)
    shift = next((shift for shift in shifts if name(machine, shift) in known), 0)
    if shift:
        problems.append(
            f"the names of the system (file offset 12) lie {abs(shift)} bytes {'behind' if shift > 0 else 'before'} "
            "their place, as a makedumpfile older than the kernel writes them; they are read from there"
        )
    return {key: name(number, shift) for number, key in enumerate(UTSNAME)}


def _area(sub: Any, name: str, at: int, end: int, problems: list[str]) -> tuple[int, int] | None:  # noqa: ANN401
    """``offset_NAME`` and ``size_NAME`` of the sub header, cut to the file; at file offset ``at``."""
    offset, size = sub[f"offset_{name}"], sub[f"size_{name}"]
    if offset == 0 or size == 0:
        return None
    if offset >= end or offset + size > end:
        problems.append(
            f"offset_{name} and size_{name} (file offset {at}) say {offset:#x} and {size:#x}, past the "
            f"end of the file at {end:#x}; what lies beyond is missing"
        )
    return (offset, min(size, end - offset)) if offset < end else None


def _is_block_size(size: int) -> bool:
    return 4096 <= size <= LARGEST_BLOCK and size & (size - 1) == 0


def _refuse_other_layouts(path: Path, file: Bytes) -> None:
    """Name a dump of a 32-bit or big-endian machine, whose block_size lies or reads differently."""
    for at, order, what in (
        (_BLOCK_SIZE_AT, "big", "big-endian"),
        (_BLOCK_SIZE_AT - 12, "little", "32-bit"),
        (_BLOCK_SIZE_AT - 12, "big", "32-bit big-endian"),
    ):
        if _is_block_size(int.from_bytes(file[at : at + 4], "big" if order == "big" else "little")):
            raise UnsupportedFormatError(
                f"{path} is the kdump file of a {what} machine (block_size at file offset {at}); only "
                "64-bit little-endian machines are read"
            )
