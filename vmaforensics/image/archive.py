"""An image in a tar archive that is not compressed: its bytes lie in one piece, so that nothing has to be unpacked.

Headers are those of POSIX.1 (ustar, pax) and of GNU tar.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from vmaforensics.errors import UnsupportedFormatError
from vmaforensics.image.file import FIRST, MAGICS
from vmaforensics.image.refused import refusal
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vmaforensics.image.source import Bytes, Mapped

_BLOCK = 512
_MAGIC, _MAGIC_AT = b"ustar", 257
_NAME, _SIZE, _TYPE = slice(0, 100), slice(124, 136), slice(156, 157)
_FILE, _SPARSE, _EXTENDED = (b"0", b"\0", b"7"), b"S", b"x"
_LARGEST_HEADER = 1 << 16  # bytes of an extended header that are looked at
_PAX_SIZE, _PAX_HOLES = re.compile(rb"(?:^|\n)\d+ size=(\d{1,18})\n"), b" GNU.sparse."
_MOST = 4096  # members that are looked at
_LARGE = 1 << 20  # bytes; less is no image of a machine


class _Member(NamedTuple):
    name: str
    start: int
    size: int
    whole: bool  # its holes are not left out


def is_archive(file: Bytes) -> bool:
    """Does a file begin as a tar archive does?"""
    return bytes(file[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)]) == _MAGIC


def image_in(path: Path, file: Mapped) -> tuple[str, Mapped]:
    """Name and bytes of the image in the archive at ``path``, which is ``file``: of several large files the only one
    that begins as an image does, as in the collections that triage tools make.

    Raises :class:`UnsupportedFormatError` where there is none, or several, or one whose holes are left out.
    """
    found = [member for member in _members(file) if member.size >= _LARGE]
    starts = [bytes(file[member.start : member.start + FIRST]) for member in found]
    images = [
        member
        for member, start in zip(found, starts, strict=True)
        if start.startswith(MAGICS) and refusal(path, start) is None
    ]
    found = images if len(images) == 1 else found
    if len(found) != 1:
        listed = ": " + ", ".join(member.name for member in found[:8]) if found else ""
        raise UnsupportedFormatError(
            f"{path} is a tar archive with {len(found)} files of 1 MiB or more{listed}; unpack it with "
            f"`tar -xf {path}` and give the memory image inside"
        )
    (member,) = found
    if not member.whole:
        raise UnsupportedFormatError(
            f"{path} is a tar archive in which the holes of {member.name} are left out; unpack it with "
            f"`tar -xf {path}` and give the result"
        )
    return member.name, file.part(member.start, member.size)


def _members(file: Mapped) -> Iterator[_Member]:
    """The files of an archive, up to its end or to what is no header."""
    at, size_told, whole = 0, None, True
    for _ in range(_MOST):
        header = bytes(file[at : at + _BLOCK])
        size = _number(header[_SIZE])
        if len(header) < _BLOCK or header[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] != _MAGIC or size is None:
            return
        kind, at = header[_TYPE], at + _BLOCK
        if kind == _EXTENDED:
            told = bytes(file[at : at + min(size, _LARGEST_HEADER)])
            hit = _PAX_SIZE.search(told)
            size_told, whole = int(hit[1]) if hit else None, _PAX_HOLES not in told
        else:
            size = size if size_told is None else size_told
            if kind in _FILE or kind == _SPARSE:
                name = header[_NAME].split(b"\0", 1)[0].decode("utf-8", "replace")
                yield _Member(printable(name), at, size, whole and kind != _SPARSE)
                size_told, whole = None, True
        at += -(-size // _BLOCK) * _BLOCK


def _number(field: bytes) -> int | None:
    """A number of a header: octal digits, or binary where they would not do."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[4:], "big")
    digits = field.strip(b" \0")
    return int(digits, 8) if re.fullmatch(rb"[0-7]{1,12}", digits) else None
