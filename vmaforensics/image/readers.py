"""The readers of formats, and what lies around an image: an archive, a compressed file, a stream in flattened form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vmaforensics.errors import UnsupportedFormatError
from vmaforensics.image.archive import image_in, is_archive
from vmaforensics.image.file import FIRST
from vmaforensics.image.formats.avml import open_avml
from vmaforensics.image.formats.elf import open_elf
from vmaforensics.image.formats.flattened import Dump, open_flattened
from vmaforensics.image.formats.lime import open_lime
from vmaforensics.image.formats.raw import open_raw
from vmaforensics.image.image import Image
from vmaforensics.image.kdump.reader import open_kdump
from vmaforensics.image.kdump.split import open_split
from vmaforensics.image.packed import unpack
from vmaforensics.image.packings import packing_of
from vmaforensics.image.paged import PagedFile
from vmaforensics.image.refused import raw_refusal, refusal
from vmaforensics.image.source import FileSource, Mapped, NotMappableError, map_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.progress import Progress

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


def open_files(paths: Sequence[Path], progress: Progress) -> Image:
    """What ``open_image`` gives of files that nothing was found against so far; it has the errors too."""
    files = [_source(part) for part in paths]
    packed = [packing_of(file) if isinstance(file, Mapped) and not is_archive(file) else None for file in files]
    bare: list[Mapped | PagedFile] = []
    problems: list[str] = []
    for part, file, packing in zip(paths, files, packed, strict=True):
        held = None if packing is None else unpack(part, packing, progress)
        bare.append(file if held is None else held.file)
        problems += [] if held is None else held.problems
    image = _open_sources(paths, bare, packed=any(packed))
    image.memory.let_go = image.release
    names = ", ".join(dict.fromkeys(packing.name for packing in packed if packing is not None))
    if not names:
        return image
    inside = image.details.get("container")
    return replace(
        image,
        size=sum(len(file) for file in files),
        details={**image.details, "container": f"{names}, {inside}" if inside else names},
        problems=(*problems, *image.problems),
    )


def _open_sources(paths: Sequence[Path], files: Sequence[Mapped | PagedFile], *, packed: bool) -> Image:
    """The image in these files: alone in an archive, or in one or all of them as they are or flattened.

    What was ``packed`` is looked at here for the first time.
    """
    if len(files) == 1 and isinstance(files[0], Mapped) and is_archive(files[0]):
        name, inside = image_in(paths[0], files[0])
        _refuse_packed(paths[0], inside, f"the file {name} in ")
        image = _open_file(paths[0], inside)
        return replace(image, files=(files[0],), details={"container": f"tar, file {name}", **image.details})
    if packed:
        for path, file in zip(paths, files, strict=True):
            _refuse_packed(path, file, "what is inside ")
    dumps = [_unflattened(part, file) for part, file in zip(paths, files, strict=True)]
    sources = [dump.source for dump in dumps]
    image = _open_file(paths[0], sources[0]) if len(dumps) == 1 else open_split(list(zip(paths, sources, strict=True)))
    image = replace(image, files=tuple(file for file in files if isinstance(file, Mapped)))
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


def _refuse_packed(path: Path, file: FileSource, where: str) -> None:
    """Raise :class:`UnsupportedFormatError` for a compressed file in another container: one is taken off."""
    if (packing := packing_of(file)) is not None:
        raise UnsupportedFormatError(
            f"{where}{path} is {packing.name}-compressed again, which is not read; unpack it and give the memory image"
        )


def _source(path: Path) -> Mapped | PagedFile:
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
    first = bytes(buffer[:FIRST])
    if (why := refusal(path, first) or raw_refusal(path, first, len(buffer))) is not None:
        raise UnsupportedFormatError(why)
    return open_raw(path, buffer)
