"""Small image files, written with ``struct`` alone: what the readers know about formats is not used here."""

from __future__ import annotations

import random
import struct
import zlib
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import cramjam
import lzallright
import zstandard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

PAGE = 4096
ZERO = bytes(PAGE)

# flags of a page descriptor, and the function that makes them true
CODECS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "raw": (0, lambda page: page),
    "zlib": (1, zlib.compress),
    "lzo": (2, lambda page: bytes(lzallright.LZOCompressor().compress(page))),
    "snappy": (4, lambda page: bytes(cramjam.snappy.compress_raw(page))),
    "zstd": (0x20, lambda page: zstandard.ZstdCompressor().compress(page)),
}


def page(seed: int, size: int = PAGE) -> bytes:
    """Bytes that compress, differ from page to page, and hold no zero."""
    rng = random.Random(seed)
    words = [bytes(rng.choices(range(1, 256), k=8)) for _ in range(16)]
    return b"".join(rng.choices(words, k=size // 8 + 1))[:size]


def note(name: bytes, kind: int, desc: bytes) -> bytes:
    padded = name + b"\0"
    out = struct.pack("<III", len(padded), len(desc), kind)
    return out + padded + bytes(-len(padded) % 4) + desc + bytes(-len(desc) % 4)


def prstatus(pid: int, rip: int, rsp: int) -> bytes:
    desc = bytearray(336)
    struct.pack_into("<I", desc, 32, pid)
    struct.pack_into("<Q", desc, 112 + 16 * 8, rip)
    struct.pack_into("<Q", desc, 112 + 19 * 8, rsp)
    return note(b"CORE", 1, bytes(desc))


def qemu_state(cr3: int, cr4: int, rip: int = 0, rsp: int = 0) -> bytes:
    desc = bytearray(struct.pack("<II", 1, 440) + bytes(432))
    struct.pack_into("<Q", desc, 56, rsp)
    struct.pack_into("<Q", desc, 136, rip)
    struct.pack_into("<Q", desc, 392, 0x80050033)  # CR0: paging, protection
    struct.pack_into("<QQ", desc, 416, cr3, cr4)
    return note(b"QEMU", 0, bytes(desc))


VMCOREINFO = b"OSRELEASE=6.1.0-test\nNUMBER(phys_base)=-174063616\nKERNELOFFSET=1000000\n"
NOTES = (
    prstatus(260, 0xFFFFFFFF81000010, 0xFFFFC90000001000)
    + prstatus(0, 0xFFFFFFFF81000020, 0xFFFFC90000002000)
    + qemu_state(0x1234000, 0x750EF0, 0xFFFFFFFF81000010, 0xFFFFC90000001000)
    + qemu_state(0x5678000, 0x750EE0, 0xFFFFFFFF81000020, 0xFFFFC90000002000)
    + note(b"VMCOREINFO", 0, VMCOREINFO)
)


@dataclass(frozen=True, kw_only=True)
class Load:
    """A PT_LOAD segment; ``memsz`` beyond the data is what makedumpfile filtered out."""

    pa: int
    data: bytes
    memsz: int | None = None
    va: int | None = None
    filesz: int | None = None
    offset: int | None = None  # instead of where the data was put


def elf(
    loads: Iterable[Load],
    notes: bytes = b"",
    *,
    phoff: int = 64,
    ehsize: int = 64,
    phentsize: int = 56,
    kind: int = 4,
    machine: int = 62,
    flags: int = 0,
    align: int = 1,
    extended: bool = False,
    ident: bytes = b"\x7fELF\x02\x01\x01",
) -> bytes:
    """An ELF64 core; with ``extended`` the number of headers is in section 0, as with 65,535 or more."""
    loads = list(loads)
    count = len(loads) + bool(notes)
    body = bytearray(phoff + count * 56)
    headers = []
    if notes:
        headers.append(struct.pack("<IIQQQQQQ", 4, 0, len(body), 0, 0, len(notes), len(notes), 0))
        body += notes
    for load in loads:
        body += bytes(-len(body) % align)
        filesz = len(load.data) if load.filesz is None else load.filesz
        memsz = filesz if load.memsz is None else load.memsz
        at = len(body) if load.offset is None else load.offset
        va = load.pa if load.va is None else load.va
        headers.append(struct.pack("<IIQQQQQQ", 1, 7, at, va, load.pa, filesz, memsz, 0))
        body += load.data
    body[phoff : phoff + count * 56] = b"".join(headers)
    shoff = 64 if extended else 0
    if extended:
        struct.pack_into("<IIQQQQIIQQ", body, 64, 0, 0, 0, 0, 0, 0, 0, count, 0, 0)
    header = ident.ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH",
        kind,
        machine,
        1,
        0,
        phoff,
        shoff,
        flags,
        ehsize,
        phentsize,
        0xFFFF if extended else count,
        64 if extended else 0,
        int(extended),
        0,
    )
    body[:64] = header
    return bytes(body)


def lime(blocks: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(lime_header(pa, pa + len(data) - 1) + data for pa, data in blocks)


def lime_header(start: int, end: int, magic: int = 0x4C694D45, version: int = 1) -> bytes:
    return struct.pack("<IIQQ8x", magic, version, start, end)


def flatten(data: bytes, record: int = 1000, seed: int = 1, end: bool = True) -> bytes:
    """``data`` as makedumpfile's flattened stream, in records of ``record`` bytes, out of order."""
    offsets = list(range(0, len(data), record))
    random.Random(seed).shuffle(offsets)
    return flat_stream([(at, data[at : at + record]) for at in offsets], end=end)


def flat_stream(records: Iterable[tuple[int, bytes]], end: bool = True) -> bytes:
    out = struct.pack(">16sqq", b"makedumpfile", 1, 1).ljust(4096, b"\0")
    out += b"".join(struct.pack(">qq", at, len(data)) + data for at, data in records)
    return out + (struct.pack(">qq", -1, -1) if end else b"")


def avml(blocks: Iterable[tuple[int, bytes]]) -> bytes:
    """AVML's format, version 2, as its image.rs and io/snappy.rs write it."""
    out = b""
    for pa, data in blocks:
        stream = bytes(cramjam.snappy.compress(data))
        out += lime_header(pa, pa + len(data) - 1, magic=0x4C4D5641, version=2) + stream
        out += struct.pack("<Q", len(stream))
    return out


def crc32c(data: bytes) -> int:
    """Castagnoli's, bit by bit (RFC 3720, B.4)."""
    value = 0xFFFFFFFF
    for octet in data:
        value ^= octet
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def snappy_frame(data: bytes, kind: int = 0, crc: int | None = None, packed: bytes | None = None) -> bytes:
    """A chunk of a snappy stream by the letter of framing_format.txt."""
    value = crc32c(data) if crc is None else crc
    masked = ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF
    if packed is None:
        packed = bytes(cramjam.snappy.compress_raw(data)) if kind == 0 else data
    return bytes([kind]) + (len(packed) + 4).to_bytes(3, "little") + struct.pack("<I", masked) + packed


SNAPPY_IDENTIFIER = b"\xff\x06\x00\x00sNaPpY"


def avml_block(pa: int, size: int, chunks: bytes, length: int | None = None) -> bytes:
    stream = SNAPPY_IDENTIFIER + chunks
    out = lime_header(pa, pa + size - 1, magic=0x4C4D5641, version=2) + stream
    return out + struct.pack("<Q", len(stream) if length is None else length)


def split(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """A kdump file of header version 6 and blocks of 4096 as ``makedumpfile --split`` would divide it before the
    page frames ``cuts``."""
    sub_blocks, bitmap_blocks = struct.unpack_from("<iI", data, 432)
    bitmap_at = (1 + sub_blocks) * PAGE
    table_at = bitmap_at + bitmap_blocks * PAGE
    half = bitmap_blocks * PAGE // 2
    bits = int.from_bytes(data[bitmap_at + half : table_at], "little")
    held = [pfn for pfn in range(bits.bit_length()) if bits >> pfn & 1]
    rows = dict(zip(held, struct.iter_unpack("<QIIQ", data[table_at : table_at + 24 * len(held)]), strict=True))
    edges = [0, *cuts, struct.unpack_from("<Q", data, PAGE + 96)[0]]
    parts = []
    for low, high in pairwise(edges):
        mine = {pfn: row for pfn, row in rows.items() if low <= pfn < high}
        places: dict[int, int] = {}
        body, table = bytearray(), b""
        for at, size in sorted({row[:2] for row in mine.values()}):  # the page of zeros comes first
            places[at] = table_at + 24 * len(mine) + len(body)
            body += data[at : at + size]
        for at, size, flags, page_flags in mine.values():
            table += struct.pack("<QIIQ", places[at], size, flags, page_flags)
        head = bytearray(data[:table_at])
        struct.pack_into("<i", head, PAGE + 12, 1)
        struct.pack_into("<QQ", head, PAGE + 16, low, high)
        struct.pack_into("<QQ", head, PAGE + 80, low, high)
        parts.append(bytes(head) + table + bytes(body))
    return parts


@dataclass(kw_only=True)
class Kdump:
    """A kdump file to be. ``pages`` maps a page frame to its contents, or to None where it was filtered."""

    pages: Mapping[int, bytes | None]
    codec: str | Mapping[int, str] = "zlib"
    version: int = 6
    block: int = PAGE
    signature: bytes = b"KDUMP   "
    max_mapnr: int | None = None
    one_bitmap: bool = False
    notes: bytes = NOTES
    vmcoreinfo: bytes = VMCOREINFO
    eraseinfo: bytes = b""
    split: tuple[int, int] | None = None
    zero_last: bool = False  # put the shared zero page behind the others
    status: int = 0
    time: int = 0
    machine: bytes = b"x86_64"
    main: dict[int, bytes] = field(default_factory=dict)  # bytes to put into the finished file, by offset
    edges: list[int] = field(default_factory=list)  # out: where the structures of the file begin
    descriptors_at: int = 0  # out

    def build(self) -> bytes:
        block = self.block
        held = sorted(pfn for pfn, data in self.pages.items() if data is not None)
        top = max(self.pages) + 1 if self.max_mapnr is None else self.max_mapnr
        area = self.notes
        notes_at = block + 104
        blocks = -(-(104 + len(area) + len(self.eraseinfo)) // block)
        per_map = -(-top // (8 * block))
        first, second = bytearray(per_map * block), bytearray(per_map * block)
        for pfn in self.pages:
            first[pfn // 8] |= 1 << pfn % 8
        for pfn in held:
            second[pfn // 8] |= 1 << pfn % 8
        maps = bytes(second) if self.one_bitmap else bytes(first + second)
        text_at = notes_at + area.index(self.vmcoreinfo) if self.vmcoreinfo and self.vmcoreinfo in area else 0
        here = [pfn for pfn in held if self.split is None or self.split[0] <= pfn < self.split[1]]
        self.descriptors_at = (1 + blocks) * block + len(maps)
        data_at = self.descriptors_at + 24 * len(here)
        table, data = self._pages(here, data_at)
        header = struct.pack("<8si", self.signature, self.version)
        for name in (b"Linux", b"guest", b"6.1.0-test", b"#1 SMP", self.machine, b"(none)"):
            header += name.ljust(65, b"\0")
        header += bytes(6) + struct.pack(
            "<qqIiiIIIIIIi",
            self.time,
            0,
            self.status,
            block,
            blocks,
            len(maps) // block,
            min(top, 2**32 - 1),
            0,
            0,
            0,
            0,
            2,
        )
        low, high = self.split or (0, 0)
        sub = struct.pack("<qii", -0x174063616, 31, int(self.split is not None))
        sub += struct.pack("<QQ", low, high)
        sub += struct.pack("<QQ", text_at, len(self.vmcoreinfo) if text_at else 0)
        sub += struct.pack("<QQ", notes_at if area else 0, len(area))
        sub += struct.pack("<QQ", notes_at + len(area) if self.eraseinfo else 0, len(self.eraseinfo))
        sub += struct.pack("<QQQ", low, high, top)
        # Fields a version does not have are filled with what must not be read.
        known = {0: 8, 1: 12, 2: 32, 3: 48, 4: 64, 5: 80, 6: 104}[min(self.version, 6)]
        sub = sub[:known] + b"\xee" * (104 - known)
        out = bytearray(header.ljust(block, b"\0"))
        out += (sub + area + self.eraseinfo).ljust(blocks * block, b"\0") + maps + table + data
        for at, value in self.main.items():
            out[at : at + len(value)] = value
        self.edges = [
            8,
            464,
            block,
            block + 104,
            notes_at + len(area),
            (1 + blocks) * block,
            (1 + blocks) * block + per_map * block,
            self.descriptors_at,
            data_at,
            len(out),
        ]
        return bytes(out)

    def _pages(self, here: list[int], at: int) -> tuple[bytes, bytes]:
        """Descriptors and data. Zero pages share one page of zeros, uncompressed."""
        zero = bytes(self.block)
        packed = {}
        for pfn in here:
            contents = self.pages[pfn]
            assert contents is not None
            if contents != zero:
                name = self.codec if isinstance(self.codec, str) else self.codec.get(pfn, "raw")
                flags, compress = CODECS[name]
                packed[pfn] = (flags, compress(contents))
                assert not flags or len(packed[pfn][1]) < self.block
        zeros = zero if any(self.pages[pfn] == zero for pfn in here) else b""
        data = bytearray() if self.zero_last else bytearray(zeros)
        zero_at = at + sum(len(bytes_) for _, bytes_ in packed.values()) if self.zero_last else at
        table = b""
        for pfn in here:
            if pfn in packed:
                flags, bytes_ = packed[pfn]
                table += struct.pack("<QIIQ", at + len(data), len(bytes_), flags, 0)
                data += bytes_
            else:
                table += struct.pack("<QIIQ", zero_at, self.block, 0, 0)
        return table, bytes(data + zeros if self.zero_last else data)
