"""The file under an image: mapped, never copied; and what its bytes look like as text."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import ImageUnreadableError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def map_file(path: Path) -> NDArray[np.uint8]:
    """The bytes of a regular file as a read-only one-dimensional uint8 array, mapped, not read.

    The mapping lives as long as an array that views it. Raises :class:`ImageUnreadableError` if ``path``
    is missing, not a regular file, empty, or may not be read.
    """
    try:
        # Before opening it: opening a fifo for reading would wait for a writer.
        if not path.exists():
            raise ImageUnreadableError(f"{path}: no such file; give the path of a memory image")
        if path.is_dir():
            raise ImageUnreadableError(f"{path} is a directory; give the path of a memory image file")
        if not path.is_file():
            raise ImageUnreadableError(f"{path} is not a regular file; copy the memory into a file first")
        with path.open("rb") as stream:
            if path.stat().st_size == 0:
                raise ImageUnreadableError(f"{path} is empty; give a memory image")
            mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ImageUnreadableError(f"{path} cannot be read: {why}; check the path and its permissions") from error
    return np.frombuffer(mapping, dtype=np.uint8)


def printable(data: bytes, limit: int = 256) -> str:
    """A header string for people: up to the first NUL, at most ``limit`` bytes, anything that is not
    printable ASCII as ``\\xNN``."""
    text = data.split(b"\0", 1)[0][:limit]
    return "".join(chr(c) if 0x20 <= c < 0x7F else f"\\x{c:02x}" for c in text)


def plural(count: int, noun: str) -> str:
    """``1 page``, ``2,000 pages``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
