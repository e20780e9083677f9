"""AVML's compressed images: version 2 of its format, blocks of RAM as streams of snappy frames.

A block is a 32-byte header as LiME's, with another magic; a snappy framed stream (google/snappy,
framing_format.txt) of the block's bytes; and the stream's length as a little-endian u64 (AVML, image.rs and
io/snappy.rs). The length comes last, so opening walks the frames' headers, of which there is one per 64 KiB. A block of
zeros is left out; AVML 0.16 and 0.17 wrote its header all the same, and no stream behind it.
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import UnsupportedFormatError
from vmaforensics.image.formats.avml_frames import IDENTIFIER, LARGEST_FRAME, Frames, FrameSource
from vmaforensics.image.formats.lime import HEADER, gaps_of_zeros, ranges_of
from vmaforensics.image.formats.segments import PHYSICAL_LIMIT, Segments, lay_out
from vmaforensics.image.image import Image
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.image.source import FileSource

MAGIC = 0x4C4D5641
VERSION = 2
_LENGTH = struct.Struct("<Q")
_CRC = 4
_COMPRESSED, _PLAIN, _PADDING, _IDENTIFIER = 0x00, 0x01, 0x80, 0xFF  # types of chunks; padding: 0x80 and up
# Bytes searched at once for a block: few at first, for it may be near, and twice as many each time.
_SEARCHED_FIRST, _SEARCHED_AT_ONCE = 1 << 12, 1 << 24
_TOLD = 64  # blocks of which it is told what is wrong


def open_avml(path: Path, file: FileSource) -> Image:
    """Open a compressed AVML image. Frames that are damaged are found when they are read, by their CRC.

    Raises :class:`UnsupportedFormatError` if not even the first block can be believed.
    """
    walk = _Walk(path, file)
    at = 0
    while at < len(file) and not walk.stop:
        at = walk.block(at)
    frames = walk.frames()
    if len(frames.offsets) == 0:
        raise UnsupportedFormatError(
            f"{path} begins like an AVML image, but has no block that can be believed "
            f"({walk.stop or walk.problems[0]}); acquire the image again"
        )
    source = FrameSource(file, frames)
    memory, problems = lay_out(source, Segments.of_rows(walk.blocks), "AVML block", zeros=ranges_of(walk.zeros))
    if walk.untold:
        problems.append(f"something is wrong with {counted(walk.untold, 'more AVML block')}")
    if walk.stop:
        problems.append(
            f"the chain of AVML blocks breaks off at file offset {at:#x} ({walk.stop}); the "
            f"{counted(len(file) - at, 'byte')} from there on were not read"
        )
    gaps = gaps_of_zeros(walk.blocks, walk.zeros)
    if gaps:
        problems.append(
            f"{counted(len(gaps), 'gap')} of {sum(gaps) >> 20:,} MiB in all may be RAM that AVML left out "
            "because it was all zeros; it is read as not RAM"
        )
    blocks = len(walk.blocks) + len(walk.zeros)
    details = {"compression": "snappy", "blocks": f"{blocks:,}", "frames": f"{source.count:,}"}
    if walk.zeros:
        details["blocks of zeros"] = f"{len(walk.zeros):,}"
    return Image(
        path=path,
        size=len(file),
        format="avml",
        memory=memory,
        details=details,
        problems=(*walk.problems, *problems),
    )


class _Walk:
    """The blocks and frames met so far."""

    def __init__(self, path: Path, file: FileSource) -> None:
        self._path, self._file = path, file
        self._most = 65536 + len(file) // 128  # 64 KiB of zeros make a frame of 3 KiB
        self._offsets, self._sizes, self._lengths = array("q"), array("q"), array("q")
        self._total = 0  # bytes in the frames so far
        self.blocks: list[tuple[int, int, int, int, int]] = []  # see Segments; offsets count the frames' bytes
        self.zeros: list[tuple[int, int]] = []  # [start, end) of blocks without a stream
        self.problems: list[str] = []
        self.untold = 0
        self.stop = ""  # why the walk ended early

    def frames(self) -> Frames:
        """All frames met."""
        return Frames(*(np.array(column, np.int64) for column in (self._offsets, self._sizes, self._lengths)))

    def block(self, at: int) -> int:
        """Read the block at file offset ``at``; returns where the next one begins, or ``at`` and sets ``stop``."""
        head = self._file[at : at + HEADER.size]
        if len(head) < HEADER.size:
            self.stop = f"{counted(len(head), 'byte')} are left, too few for a 32-byte block header"
            return at
        magic, version, start, end = HEADER.unpack(head)
        if magic != MAGIC:
            self.stop = f"the magic number is {magic:#010x}, expected {MAGIC:#x}"
        elif version != VERSION:
            self.stop = f"the version is {version}, expected {VERSION}"
        elif end < start:
            self.stop = f"the block ends at {end:#x}, below its start {start:#x}"
        elif end - start >= PHYSICAL_LIMIT:
            self.stop = f"the block {start:#x} to {end:#x} is longer than any memory"
        if self.stop:
            return at
        stream = at + HEADER.size
        for length in (0, _LENGTH.size):
            if self._is_header(stream + length, end + 1) and not any(self._file[stream : stream + length]):
                self.zeros.append((start, end + 1))
                return stream + length
        before, length = self._total, end + 1 - start
        after, why = self._stream(stream, length)
        got = self._total - before
        self.blocks.append((start, length, min(got, length), before, 0))
        if not why and got > length:
            self._tell(
                f"the AVML block at file offset {at:#x} unpacks to {got:,} bytes, but its header says {length:,}; the "
                "surplus is not read"
            )
        if not why:
            said = _LENGTH.unpack(self._file[after : after + 8])[0] if after + 8 <= len(self._file) else None
            if said != after - stream:
                self._tell(
                    f"the AVML block at file offset {at:#x} is {after - stream:,} bytes long, but the length behind it "
                    f"is {'cut off' if said is None else f'{said:,}'}"
                )
            return min(after + 8, len(self._file))
        following = self._search(stream, after)
        rest = len(self._file) - after if following is None else 0
        self._tell(
            f"the AVML block at file offset {at:#x} is damaged or cut off at {after:#x} ({why}); "
            f"{counted(length - got, 'byte')} of RAM from {start + got:#x} on are missing"
            + (f", and so is whatever is in the last {counted(rest, 'byte')} of the file" if rest else "")
        )
        return len(self._file) if following is None else following

    def _tell(self, problem: str) -> None:
        if len(self.problems) < _TOLD:
            self.problems.append(problem)
        else:
            self.untold += 1

    def _is_header(self, at: int, end: int) -> bool:
        """Whether at file offset ``at`` a block from physical address ``end`` on, or a later one, begins."""
        head = self._file[at : at + HEADER.size]
        if len(head) < HEADER.size:
            return False
        magic, version, start, last = HEADER.unpack(head)
        return bool(magic == MAGIC and version == VERSION and end <= start <= last)

    def _stream(self, at: int, length: int) -> tuple[int, str]:
        """Note the frames of a stream that makes ``length`` bytes; returns where it ends or breaks off, and why."""
        file = self._file
        got = 0
        if bytes(file[at : at + len(IDENTIFIER)]) != IDENTIFIER:
            return at, "no snappy stream begins there"
        at += len(IDENTIFIER)
        while got < length:
            head = bytes(file[at : at + 4 + _CRC + 3])  # type, size; CRC; the first bytes of what is compressed
            if len(head) < 4 + _CRC:
                return at, "the file ends"
            kind, size = head[0], int.from_bytes(head[1:4], "little")
            if at + 4 + size > len(file):
                return at, "the file ends inside a frame" if kind <= _PLAIN else "the file ends"
            if kind == _COMPRESSED:
                unpacked = _varint(head[4 + _CRC :])
            elif kind == _PLAIN:
                unpacked = size - _CRC
            elif kind >= _PADDING and (kind != _IDENTIFIER or bytes(file[at : at + 10]) == IDENTIFIER):
                at += 4 + size
                continue
            else:
                return at, f"a chunk has type {kind:#x}, which is none of a snappy stream"
            if size <= _CRC or not 0 < unpacked <= LARGEST_FRAME:
                return at, f"a frame of {size:,} bytes says it unpacks to {unpacked:,}, not to 1 to {LARGEST_FRAME:,}"
            self._offsets.append(at)
            self._sizes.append(4 + size)
            self._lengths.append(unpacked)
            if len(self._offsets) > self._most:
                raise UnsupportedFormatError(
                    f"{self._path} has more than {self._most:,} snappy frames in {counted(len(file), 'byte')}, which "
                    "no program writes; the file is damaged, acquire the image again"
                )
            got += unpacked
            self._total += unpacked
            at += 4 + size
        return at, ""

    def _search(self, stream: int, at: int) -> int | None:
        """Where the block behind a damaged one begins: its header follows a word that says how far it is from
        ``stream``, where the damaged one's stream begins."""
        magic = HEADER.pack(MAGIC, VERSION, 0, 0)[:8]
        low, step = at, _SEARCHED_FIRST
        while low < len(self._file):
            data = bytes(self._file[low : low + step + len(magic) - 1])
            hit = data.find(magic)
            while hit >= 0:
                length = low + hit - 8 - stream
                if length >= 0 and _LENGTH.unpack(self._file[stream + length : stream + length + 8])[0] == length:
                    return low + hit
                hit = data.find(magic, hit + 1)
            low, step = low + step, min(2 * step, _SEARCHED_AT_ONCE)
        return None


def _varint(data: bytes) -> int:
    """The little-endian base-128 number that ``data`` begins with; a large one if it does not end in it."""
    value = 0
    for place, octet in enumerate(data):
        value |= (octet & 0x7F) << 7 * place
        if octet < 0x80:
            return value
    return 1 << 32
