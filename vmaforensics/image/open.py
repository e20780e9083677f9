"""Opens an image: looks at the first bytes and picks the reader.

A file whose first bytes say nothing is a raw image, so whatever is recognised and not read is refused by name
(:mod:`vmaforensics.image.refused`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vmaforensics.errors import ImageUnreadableError, UnsupportedFormatError
from vmaforensics.image.archive import image_in, is_archive
from vmaforensics.image.formats.avml import open_avml
from vmaforensics.image.formats.elf import open_elf
from vmaforensics.image.formats.flattened import Dump, open_flattened
from vmaforensics.image.formats.lime import open_lime
from vmaforensics.image.formats.raw import open_raw
from vmaforensics.image.image import Image
from vmaforensics.image.kdump.reader import open_kdump
from vmaforensics.image.kdump.split import open_split
from vmaforensics.image.paged import PagedFile
from vmaforensics.image.refused import refusal
from vmaforensics.image.source import FileSource, Mapped, NotMappableError, map_file
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

SMALLEST_RAW = 1 << 20  # bytes; no Linux machine has less memory

_Reader = Callable[[Path, FileSource], Image]

# What makedumpfile and QEMU write, as a file or as a flattened stream
_DUMPS: tuple[tuple[bytes, _Reader], ...] = (
    (b"\x7fELF", open_elf),
    (b"KDUMP   ", open_kdump),
    (b"DISKDUMP", open_kdump),
)
_READERS: tuple[tuple[bytes, _Reader], ...] = (
    *_DUMPS,
    (b"EMiL", open_lime),
    (b"AVML", open_avml),
)
_FLATTENED = b"makedumpfile\0\0\0\0"


def open_image(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Image:
    """Open a memory image or crash dump of any format this package reads; of a split kdump, give all parts.

    It takes milliseconds: headers are read, memory is not. Raises :class:`ImageUnreadableError` if there is
    no such file to read, and :class:`UnsupportedFormatError` if it is not an image of a format we read or if
    its headers cannot be believed; both say what to do.

    >>> image = open_image("guest.elf")
    >>> data, ok = image.memory.gather(np.array([0x1000, 0x2000], np.uint64), 8)
    """
    paths = [Path(path)] if isinstance(path, str | os.PathLike) else [Path(part) for part in path]
    if not paths:
        raise ImageUnreadableError("no image was given; give the path of a memory image")
    files = [_source(part) for part in paths]
    if len(files) == 1 and isinstance(files[0], Mapped) and is_archive(files[0]):
        name, inside = image_in(paths[0], files[0])
        image = _open_file(paths[0], inside)
        return replace(image, files=(files[0],), details={"container": f"tar, file {name}", **image.details})
    dumps = [_unflattened(part, file) for part, file in zip(paths, files, strict=True)]
    sources = [dump.source for dump in dumps]
    image = _open_file(paths[0], sources[0]) if len(dumps) == 1 else open_split(list(zip(paths, sources, strict=True)))
    image = replace(image, files=tuple(file for file in files if isinstance(file, Mapped)))
    image.memory.let_go = image.release
    flattened = [dump for dump in dumps if dump.stream]
    if not flattened:
        return image
    words = ", ".join(dict.fromkeys(dump.stream for dump in flattened))
    return replace(
        image,
        size=sum(part.stat().st_size for part in paths),
        details={"container": f"flattened, {words}", **image.details},
        problems=(*(text for dump in flattened for text in dump.problems), *image.problems),
    )


def begins_as_image(path: Path) -> bool:
    """Whether a file has the first bytes of a format this package reads. False where it cannot be read, and of raw
    memory, which has no header."""
    try:
        with path.open("rb") as stream:
            start = stream.read(64)
    except OSError:
        return False
    return start.startswith((_FLATTENED, *(magic for magic, _ in _READERS)))


def _source(path: Path) -> FileSource:
    """The bytes of a file: mapped, or read when they are asked for if it cannot be mapped."""
    try:
        return Mapped(map_file(path), path)
    except NotMappableError:
        return PagedFile(path, path.stat().st_size)


def _unflattened(path: Path, file: FileSource) -> Dump:
    if not isinstance(file, Mapped) or file[:16] != _FLATTENED:
        return Dump(file, "", [])
    return open_flattened(path, file)


def _open_file(path: Path, buffer: FileSource) -> Image:
    """Open an image of one file."""
    start = bytes(buffer[:64])
    flattened = not isinstance(buffer, Mapped | PagedFile)
    for magic, reader in _DUMPS if flattened else _READERS:
        if start.startswith(magic):
            return reader(path, buffer)
    if flattened:
        raise UnsupportedFormatError(
            f"{path} is a flattened makedumpfile stream of a file that is neither a kdump nor an ELF core (its first "
            f"bytes are {start[:8].hex(' ')}); take the dump again"
        )
    if (why := refusal(path, buffer)) is not None:
        raise UnsupportedFormatError(why)
    if len(buffer) < SMALLEST_RAW:
        raise UnsupportedFormatError(
            f"{path} has no header of a known format, and its {counted(len(buffer), 'byte')} are too few "
            "for a raw image (1 MiB at least); give a memory image or a crash dump"
        )
    return open_raw(path, buffer)
