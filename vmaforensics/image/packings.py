"""Which compressed files are unpacked, by the bytes they begin with (RFC 1950, 1952, 8878; xz, LZ4 frames)."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.image.source import Bytes

# First byte of a zlib stream: deflate, with a window of 256 bytes to 32 KiB
_ZLIB_METHODS = range(0x08, 0x79, 0x10)


class Packing(NamedTuple):
    """A way in which a file is compressed as a whole."""

    name: str
    tool: str  # what unpacks it, from stdin to stdout

    def command(self, path: Path) -> str:
        """What a person types to unpack ``path``."""
        return f"{self.tool} < {path} > {path}.unpacked"


_PACKINGS = (
    (b"\x1f\x8b\x08", Packing("gzip", "gzip -d")),
    (b"\xfd7zXZ\0", Packing("xz", "xz -d")),
    (b"\x28\xb5\x2f\xfd", Packing("zstd", "zstd -d --long=31")),
    (b"\x50\x2a\x4d\x18", Packing("zstd", "zstd -d --long=31")),  # a skippable frame, as pzstd begins with
    (b"\x5d\0\0\x80\0", Packing("lzma", "xz --format=lzma -d")),
    (b"\x04\x22\x4d\x18", Packing("lz4", "lz4 -d")),
    (b"BZh", Packing("bzip2", "bzip2 -d")),
)
_ZLIB = Packing(  # what LiME writes with compress=1; no program of its own unpacks it
    "zlib",
    'python3 -c "import sys, zlib; d = zlib.decompressobj(); [sys.stdout.buffer.write(d.decompress(c)) for c in '
    "iter(lambda: sys.stdin.buffer.read(1 << 20), b'')]\"",
)


def packing_of(file: Bytes) -> Packing | None:
    """How the file with these first bytes is compressed; None for one that is not, or in a way that is not unpacked."""
    start = bytes(file[:4096])
    for magic, packing in _PACKINGS:
        if start.startswith(magic):
            return packing
    return _ZLIB if _is_zlib(start) else None


def _is_zlib(start: bytes) -> bool:
    """Whether a zlib stream begins with these bytes.

    The first two are a check, which one word of any memory in a thousand passes, so some of it has to unpack too.
    """
    if len(start) < 3 or start[0] not in _ZLIB_METHODS or int.from_bytes(start[:2], "big") % 31 or start[1] & 0x20:
        return False
    try:
        return bool(zlib.decompressobj().decompress(start, 16))
    except zlib.error:
        return False
