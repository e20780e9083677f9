"""Opens an image: looks at the first bytes and picks the reader.

A file whose first bytes say nothing is a raw image, so whatever is recognised and not read is refused by name
(:mod:`vmaforensics.image.refused`). What can be refused by its first bytes is, before any reader is loaded.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from vmaforensics.errors import ImageUnreadableError, UnsupportedFormatError
from vmaforensics.image.archive import is_archive
from vmaforensics.image.file import MAGICS, first_bytes, require_file
from vmaforensics.image.packings import packing_of
from vmaforensics.image.refused import raw_refusal, refusal
from vmaforensics.progress import unheard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.image.image import Image
    from vmaforensics.progress import Progress

_JSON = re.compile(rb"(?:\xef\xbb\xbf)?\s*\{")


def open_image(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], progress: Progress = unheard) -> Image:
    """Open a memory image or crash dump of any format this package reads; of a split kdump, give all parts.

    It takes milliseconds: headers are read, memory is not. Only what a program compressed as a whole (gzip, xz, zstd…)
    is unpacked first, into a temporary file; ``progress`` hears of that. Raises :class:`ImageUnreadableError` if there
    is no such file to read, and :class:`UnsupportedFormatError` if it is not an image of a format we read or if its
    headers cannot be believed; both say what to do.

    >>> image = open_image("guest.elf")
    >>> data, ok = image.memory.gather(np.array([0x1000, 0x2000], np.uint64), 8)
    """
    paths = [Path(path)] if isinstance(path, str | os.PathLike) else [Path(part) for part in path]
    if not paths:
        raise ImageUnreadableError("no image was given; give the path of a memory image")
    for part in paths:
        look_at(part)
    from vmaforensics.image.readers import open_files

    return open_files(paths, progress)


def look_at(path: Path) -> None:
    """Raise what :func:`open_image` would, if the first bytes of ``path`` show it: in no time, nothing else is loaded.

    What begins as JSON does passes: where an image is expected, some commands take a saved report.
    """
    require_file(path)
    start = first_bytes(path)
    if is_archive(start):
        return
    why = refusal(path, start)
    if why is None and not start.startswith(MAGICS) and packing_of(start) is None and not _JSON.match(start):
        why = raw_refusal(path, start, path.stat().st_size)
    if why is not None:
        raise UnsupportedFormatError(why)


def is_packed(path: Path) -> bool:
    """Whether a file is unpacked when it is opened. False where it cannot be read."""
    try:
        return path.is_file() and packing_of(first_bytes(path)) is not None
    except (ImageUnreadableError, OSError, ValueError):
        return False


def begins_as_image(path: Path) -> bool:
    """Whether a file has the first bytes of a format this package reads. False where it cannot be read, and of raw
    memory, which has no header."""
    try:
        return first_bytes(path, 64).startswith(MAGICS)
    except ImageUnreadableError:
        return False
