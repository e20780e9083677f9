"""Opens an image: looks at the first bytes and picks the reader.

A file whose first bytes say nothing is a raw image, so whatever is recognised and not read is refused by
name here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vmaforensics.errors import UnsupportedFormatError
from vmaforensics.image.elf import open_elf
from vmaforensics.image.kdump import open_kdump
from vmaforensics.image.lime import open_lime
from vmaforensics.image.raw import open_raw
from vmaforensics.image.source import map_file, plural

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from vmaforensics.image.image import Image

SMALLEST_RAW = 1 << 20  # bytes; no Linux machine has less memory

_READERS: tuple[tuple[bytes, Callable[[Path, NDArray[np.uint8]], Image]], ...] = (
    (b"\x7fELF", open_elf),
    (b"EMiL", open_lime),
    (b"KDUMP   ", open_kdump),
    (b"DISKDUMP", open_kdump),
)

_UNPACK = "unpack it with `{tool} -d < {path} > {path}.unpacked` and give the result"
_VOLATILITY = "volatility3 opens it; convert it to a raw image or an ELF core first"
_DISK = "it holds a disk, not memory; give a memory image"

_REFUSED: tuple[tuple[bytes, str, str], ...] = (
    (
        b"makedumpfile\0\0\0\0",
        "a flattened makedumpfile stream",
        "make a dump file of it with `makedumpfile -R {path}.kdump < {path}` and give that",
    ),
    (b"AVML", "a compressed AVML image", "convert it with `avml-convert {path} {path}.lime` and give that"),
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


def open_image(path: str | os.PathLike[str]) -> Image:
    """Open a memory image or crash dump of any format this package reads.

    It takes milliseconds: headers are read, memory is not. Raises :class:`ImageUnreadableError` if there is
    no such file to read, and :class:`UnsupportedFormatError` if it is not an image of a format we read or if
    its headers cannot be believed; both say what to do.

    >>> image = open_image("guest.elf")
    >>> data, ok = image.memory.gather(np.array([0x1000, 0x2000], np.uint64), 8)
    """
    path = Path(path)
    buffer = map_file(path)
    start = bytes(buffer[:64])
    for magic, reader in _READERS:
        if start.startswith(magic):
            return reader(path, buffer)
    for magic, name, advice in _REFUSED:
        if start.startswith(magic):
            raise UnsupportedFormatError(f"{path} is {name}, which is not read; {advice.format(path=path)}")
    if start[257:262] == b"ustar" or bytes(buffer[257:262]) == b"ustar":
        raise UnsupportedFormatError(f"{path} is a tar archive; unpack it and give the memory image inside")
    if _is_text(bytes(buffer[: 1 << 16])):
        raise UnsupportedFormatError(f"{path} is a text file; give a memory image or a crash dump")
    if len(buffer) < SMALLEST_RAW:
        raise UnsupportedFormatError(
            f"{path} has no header of a known format, and its {plural(len(buffer), 'byte')} are too few "
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
