"""Opens an image: looks at the first bytes and picks the reader.

A file whose first bytes say nothing is a raw image, so whatever is recognised and not read is refused by
name here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vmaforensics.errors import ImageUnreadableError, UnsupportedFormatError
from vmaforensics.image.formats.avml import open_avml
from vmaforensics.image.formats.elf import open_elf
from vmaforensics.image.formats.flattened import Dump, open_flattened
from vmaforensics.image.formats.lime import open_lime
from vmaforensics.image.formats.raw import open_raw
from vmaforensics.image.image import Image
from vmaforensics.image.kdump.reader import open_kdump
from vmaforensics.image.kdump.split import open_split
from vmaforensics.image.source import FileSource, Mapped, map_file
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

_UNPACK = "unpack it with `{tool} -d < {path} > {path}.unpacked` and give the result"
_VOLATILITY = "volatility3 opens it; convert it to a raw image or an ELF core first"
_DISK = "it holds a disk, not memory; give a memory image"

_REFUSED: tuple[tuple[bytes, str, str], ...] = (
    (b"QEVM", "a QEMU migration stream", "use the QEMU monitor's `dump-guest-memory FILE` instead"),
    (b"LibvirtQemud", "a libvirt save file", "use `virsh dump --memory-only DOMAIN FILE` instead"),
    (b"\xd0\xbe\xd2\xbe", "a VMware snapshot or suspend file", _VOLATILITY),
    (b"\xd1\xba\xd1\xba", "a VMware snapshot or suspend file", _VOLATILITY),
    (b"\xd2\xbe\xd2\xbe", "a VMware snapshot or suspend file", _VOLATILITY),
    (b"\xd3\xbe\xd3\xbe", "a VMware snapshot or suspend file", _VOLATILITY),
    (
        b"\xed\x23\x8f\x61\x73\x01\x19\xa8",
        "an LKCD dump",
        "convert it to an ELF core with crash or makedumpfile",
    ),
    (b"sadump\0\0", "a sadump dump", "convert it with `makedumpfile -E -x VMLINUX {path} OUT` and give OUT"),
    (b"PAGEDU64", "a Windows crash dump", "give the image of a Linux machine"),
    (b"PAGEDUMP", "a Windows crash dump", "give the image of a Linux machine"),
    (b"MDMP", "a Windows minidump", "give the image of a Linux machine"),
    (b"hibr", "a Windows hibernation file", "give the image of a Linux machine"),
    (b"HIBR", "a Windows hibernation file", "give the image of a Linux machine"),
    (
        b"EVF\x09\x0d\x0a\xff\x00",
        "an EWF (EnCase) container",
        "export the raw image with `ewfexport` and give that",
    ),
    (b"\x1f\x8b", "a gzip-compressed file", _UNPACK.replace("{tool}", "gzip")),
    (b"\xfd7zXZ\0", "an xz-compressed file", _UNPACK.replace("{tool}", "xz")),
    (b"\x28\xb5\x2f\xfd", "a zstd-compressed file", _UNPACK.replace("{tool}", "zstd")),
    (b"\x04\x22\x4d\x18", "an lz4-compressed file", _UNPACK.replace("{tool}", "lz4")),
    (b"BZh", "a bzip2-compressed file", _UNPACK.replace("{tool}", "bzip2")),
    (b"\x89LZO\0\r\n\x1a\n", "an lzop-compressed file", _UNPACK.replace("{tool}", "lzop")),
    (b"\xff\x06\x00\x00sNaPpY", "a snappy-compressed file", "unpack it first and give the result"),
    (b"PK\x03\x04", "a zip archive (or AFF4 container)", "unpack it first and give the memory image inside"),
    (
        b"7z\xbc\xaf\x27\x1c",
        "a 7-Zip archive",
        "unpack it with `7z x {path}` and give the memory image inside",
    ),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it first and give the memory image inside"),
    (b"QFI\xfb", "a qcow2 disk image", _DISK),
    (b"KDMV", "a VMware disk image", _DISK),
    (b"vhdxfile", "a Hyper-V disk image", _DISK),
    (b"conectix", "a VHD disk image", _DISK),
)


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
    mapped = [Mapped(map_file(part)) for part in paths]
    dumps = [_unflattened(part, file) for part, file in zip(paths, mapped, strict=True)]
    sources = [dump.source for dump in dumps]
    image = _open_file(paths[0], sources[0]) if len(dumps) == 1 else open_split(list(zip(paths, sources, strict=True)))
    image = replace(image, files=tuple(mapped))
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


def _unflattened(path: Path, file: Mapped) -> Dump:
    return open_flattened(path, file) if file[:16] == _FLATTENED else Dump(file, "", [])


def _open_file(path: Path, buffer: FileSource) -> Image:
    """Open an image of one file."""
    start = bytes(buffer[:64])
    flattened = not isinstance(buffer, Mapped)
    for magic, reader in _DUMPS if flattened else _READERS:
        if start.startswith(magic):
            return reader(path, buffer)
    if flattened:
        raise UnsupportedFormatError(
            f"{path} is a flattened makedumpfile stream of a file that is neither a kdump nor an ELF core (its first "
            f"bytes are {start[:8].hex(' ')}); take the dump again"
        )
    for magic, name, advice in _REFUSED:
        if start.startswith(magic):
            raise UnsupportedFormatError(f"{path} is {name}, which is not read; {advice.format(path=path)}")
    if start[257:262] == b"ustar" or bytes(buffer[257:262]) == b"ustar":
        raise UnsupportedFormatError(f"{path} is a tar archive; unpack it and give the memory image inside")
    if _is_text(bytes(buffer[: 1 << 16])):
        raise UnsupportedFormatError(f"{path} is a text file; give a memory image or a crash dump")
    if len(buffer) < SMALLEST_RAW:
        raise UnsupportedFormatError(
            f"{path} has no header of a known format, and its {counted(len(buffer), 'byte')} are too few "
            "for a raw image (1 MiB at least); give a memory image or a crash dump"
        )
    return open_raw(path, buffer)


def _is_text(sample: bytes) -> bool:
    """Whether these bytes are UTF-8 without control characters; the last character may be cut off."""
    if any(c < 0x20 and c not in b"\t\n\r\f\x1b" for c in set(sample)):
        return False
    try:
        sample.decode()
    except UnicodeDecodeError as error:
        return error.end == len(sample) and error.start > 0 and len(sample) - error.start < 4
    return True
