"""Images that a program compressed as a whole: what they unpack to, in a temporary file without a name.

Memory is read at any place in any order, and a compressed stream only from its beginning on. So it is unpacked once;
the file is gone when the run ends, however it ends, and what is zero takes no room in it.
"""

from __future__ import annotations

import bz2
import lzma
import mmap
import os
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import zstandard

from vmaforensics.errors import ImageUnreadableError, UnsupportedFormatError
from vmaforensics.image.file import unreadable
from vmaforensics.image.lz4_frames import Lz4Decoder
from vmaforensics.image.source import Mapped
from vmaforensics.words.amounts import amount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmaforensics.image.packings import Packing
    from vmaforensics.progress import Progress

_STEP = 1 << 13  # bytes given to an unpacker at once: no format makes more than some hundred MiB of them
_LARGEST_DICTIONARY = 1 << 30  # bytes; xz -9 asks for 64 MiB
_WRITTEN_AT_ONCE = 1 << 22
_UNIT = 1 << 16  # bytes that are left out together if they are zero
_HOLE = 1 << 20  # bytes; of smaller ones no account is kept
_LEFT_FREE = 256 << 20  # bytes of the file system that are left to others
_TOLD_EVERY = 1 << 24  # bytes
_BROKEN = (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError, ValueError)


class _Decoder(Protocol):
    """What unpacks one stream; that of each of the libraries is one."""

    def decompress(self, data: bytes, /) -> bytes: ...

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...


_DECODERS: dict[str, Callable[[], _Decoder]] = {
    "gzip": lambda: zlib.decompressobj(wbits=31),
    "zlib": zlib.decompressobj,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LARGEST_DICTIONARY),
    "lzma": lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_LARGEST_DICTIONARY),
    "bzip2": bz2.BZ2Decompressor,
    "zstd": lambda: zstandard.ZstdDecompressor().decompressobj(),
    "lz4": Lz4Decoder,
}


class Unpacked(NamedTuple):
    """What a compressed file held."""

    file: Mapped
    problems: list[str]  # of a stream that is damaged or cut off


def unpack(path: Path, packing: Packing, progress: Progress) -> Unpacked:
    """What the compressed file at ``path`` unpacks to, as far as it goes.

    The temporary file is made in $TMPDIR, or where there is no such variable in /var/tmp. ``progress`` hears how much
    of ``path`` is done. Raises :class:`UnsupportedFormatError` where nothing can be unpacked, and
    :class:`ImageUnreadableError` where there is no room.
    """
    folder, problems = _folder(), list[str]()
    try:
        with tempfile.TemporaryFile(dir=folder, prefix="vmaforensics-") as stream:
            spool = _Spool(stream.fileno())
            for piece in _pieces(path, packing, progress, problems):
                spool.add(piece)
            spool.end()
            if not spool.size:
                why = problems[0] if problems else "it holds nothing"
                raise UnsupportedFormatError(
                    f"{path} is a {packing.name}-compressed file that cannot be unpacked ({why}); copy it again"
                )
            mapping = mmap.mmap(stream.fileno(), spool.size, access=mmap.ACCESS_READ)
    except (OSError, _NoRoomError) as error:
        why = str(error) if isinstance(error, _NoRoomError) else error.strerror or str(error)
        raise ImageUnreadableError(
            f"{path} is a {packing.name}-compressed file and cannot be unpacked in {folder} ({why}); set TMPDIR to a "
            f"folder with more room, or unpack it with `{packing.command(path)}` and give the result"
        ) from error
    told = [f"the {packing.name} stream {why}; it was unpacked up to there: {amount(spool.size)}" for why in problems]
    return Unpacked(Mapped(np.frombuffer(mapping, np.uint8), data=spool.data), told)


def _folder() -> str:
    """Where there is room for large files that nobody needs later (file-hierarchy(7))."""
    large = Path("/var/tmp")
    return tempfile.gettempdir() if "TMPDIR" in os.environ or not os.access(large, os.W_OK) else str(large)


def _pieces(path: Path, packing: Packing, progress: Progress, problems: list[str]) -> Iterator[bytes]:
    """What the streams in a file unpack to, one behind the other: gzip, xz and zstd files may be several joined."""
    decoder: _Decoder | None = None
    at, begun, told = 0, False, 0
    for data in _read(path):
        at += len(data)
        if at - told >= _TOLD_EVERY:
            told = at
            progress("unpack", at, path.stat().st_size)
        while data:
            if decoder is None:
                data = data.lstrip(b"\0") if begun else data  # tapes and xz fill up with zeros
                if not data:
                    break
                decoder, fresh = _DECODERS[packing.name](), begun
                begun = True
            try:
                piece = decoder.decompress(data)
                data, over = (decoder.unused_data, True) if decoder.eof else (b"", False)
            except _BROKEN as error:
                where = f"{at - len(data):#x} ({str(error) or type(error).__name__})"
                problems.append(f"is followed by something else at {where}" if fresh else f"is damaged at {where}")
                return
            fresh = fresh and not piece
            decoder = None if over else decoder
            if piece:
                yield piece
    if decoder is not None:
        problems.append(f"is cut off: the file ends inside of it, at {at:#x}")


def _read(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            while data := stream.read(_STEP):
                yield data
    except OSError as error:
        raise unreadable(path, error) from error


class _NoRoomError(Exception):
    """The file system is as good as full."""


class _Spool:
    """A file that is written from its beginning to its end, without its zeros."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._waiting: list[bytes] = []
        self._length = 0  # bytes that wait
        self._written = _LEFT_FREE  # bytes since the room was looked at
        self.size = 0
        self.data: list[tuple[int, int]] = []  # [start, end) of what is no large hole, ascending

    def add(self, piece: bytes) -> None:
        """Put ``piece`` at the end."""
        self._waiting.append(piece)
        self._length += len(piece)
        if self._length >= _WRITTEN_AT_ONCE:
            block = b"".join(self._waiting)
            whole = len(block) // _UNIT * _UNIT
            self._write(memoryview(block)[:whole])
            self._waiting, self._length = [block[whole:]], len(block) - whole

    def end(self) -> None:
        """Write what waits."""
        rest = b"".join(self._waiting)
        size = self.size + len(rest)
        self._write(memoryview(rest.ljust(-(-len(rest) // _UNIT) * _UNIT, b"\0")))
        self.size = size
        os.truncate(self._file, size)
        self.data = [(start, min(end, size)) for start, end in self.data]

    def _write(self, block: memoryview) -> None:
        used = np.frombuffer(block, "<u8").reshape(-1, _UNIT // 8).any(axis=1)
        edges = np.flatnonzero(np.diff(used, prepend=False, append=False)) * _UNIT
        for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            self._require_room(end - start)
            _write_all(self._file, block[start:end], self.size + start)
            if self.data and self.size + start - self.data[-1][1] < _HOLE:
                self.data[-1] = (self.data[-1][0], self.size + end)
            else:
                self.data.append((self.size + start, self.size + end))
        self.size += len(block)

    def _require_room(self, size: int) -> None:
        self._written += size
        if self._written >= _LEFT_FREE // 4:
            self._written = 0
            about = os.fstatvfs(self._file)
            if about.f_bavail * about.f_frsize < _LEFT_FREE:
                raise _NoRoomError(f"its first {amount(self.size)} leave less than {amount(_LEFT_FREE)} there")


def _write_all(file: int, data: memoryview, at: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(file, data[done:], at + done)
