"""Frames of LZ4, unpacked as they come (lz4_Frame_format.md 1.6.x). Their checksums are not looked at.

The library unpacks a block alone. A block may refer to what is before it in the frame, up to 65,535 bytes back; then
that is put before it, as a sequence of the block format itself.
"""

from __future__ import annotations

import cramjam

MAGIC = b"\x04\x22\x4d\x18"
_VERSION, _VERSION_BITS = 0x40, 0xC0
_INDEPENDENT, _BLOCK_CHECKSUM, _CONTENT_SIZE, _CONTENT_CHECKSUM, _DICTIONARY = 0x20, 0x10, 0x08, 0x04, 0x01
_LARGEST_BLOCKS = {4: 1 << 16, 5: 1 << 18, 6: 1 << 20, 7: 1 << 22}  # bytes, by bits 4 to 6 of the BD byte
_PLAIN = 1 << 31  # of a block's size: it is not compressed
_REACH = 65_535  # bytes
_COPIED = 4  # bytes of the shortest match


class Lz4Decoder:
    """One frame. ``decompress`` raises ValueError where it is damaged."""

    def __init__(self) -> None:
        self.eof = False
        self.unused_data = b""
        self._waiting = bytearray()
        self._flags: int | None = None  # the FLG byte, once the header is read
        self._largest = 0
        self._before = b""  # what blocks to come may refer to

    def decompress(self, data: bytes, /) -> bytes:
        """What can be unpacked now that ``data`` has come, too."""
        self._waiting += data
        if self._flags is None and not self._read_header():
            return b""
        assert self._flags is not None
        found = []
        while not self.eof and len(self._waiting) >= 4:
            word = int.from_bytes(self._waiting[:4], "little")
            size = word % _PLAIN
            behind = 4 if self._flags & (_BLOCK_CHECKSUM if word else _CONTENT_CHECKSUM) else 0
            if size > self._largest:
                raise ValueError(f"a block of {size:,} bytes")
            if len(self._waiting) < 4 + size + behind:
                break
            block = bytes(self._waiting[4 : 4 + size])
            del self._waiting[: 4 + size + behind]
            if word == 0:
                self.eof, self.unused_data = True, bytes(self._waiting)
            else:
                found.append(block if word & _PLAIN else self._unpacked(block))
                if not self._flags & _INDEPENDENT:
                    self._before = (self._before + found[-1])[-_REACH:]
        return b"".join(found)

    def _read_header(self) -> bool:
        """Read the header of the frame; False if it has not come yet."""
        head = self._waiting
        if len(head) < 6:
            return False
        flags, largest = head[4], _LARGEST_BLOCKS.get(head[5] >> 4)
        if head[:4] != MAGIC or flags & _VERSION_BITS != _VERSION or largest is None:
            raise ValueError("no frame header")
        if flags & _DICTIONARY:
            raise ValueError("it needs a dictionary")
        size = 6 + (8 if flags & _CONTENT_SIZE else 0) + 1
        if len(head) < size:
            return False
        self._flags, self._largest = flags, largest
        del head[:size]
        return True

    def _unpacked(self, block: bytes) -> bytes:
        lead = _sequence_of(self._before) if len(self._before) > _COPIED else b""
        made = len(self._before) + _COPIED if lead else 0
        whole = bytearray(made + self._largest)
        try:
            size: int = cramjam.lz4.decompress_block_into(lead + block, whole)
        except cramjam.DecompressionError as error:
            raise ValueError(str(error)) from error
        return bytes(whole[made:size])


def _sequence_of(text: bytes) -> bytes:
    """A sequence of the block format that unpacks to the last four bytes of ``text``, then ``text``: literals, and a
    match that copies the first four to the end."""
    literals = text[-_COPIED:] + text[:-_COPIED]
    more = len(literals) - 15
    length = b"\xf0" + b"\xff" * (more // 255) + bytes([more % 255]) if more >= 0 else bytes([len(literals) << 4])
    return length + literals + len(text).to_bytes(2, "little")
