"""What is recognised and not read: other containers, by the bytes they begin with, and what to do about each.

The signatures are those of the programs that write the files; util-linux's libblkid has most of the disks, file(1)
the archives.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.image.source import FileSource

_UNPACK = "unpack it with `{tool} -d < {path} > {path}.unpacked` and give the result"
_VOLATILITY = "volatility3 opens it; convert it to a raw image or an ELF core first"
_DISK = "it holds a disk, not memory; give a memory image"
_ZLIB = (
    'unpack it with `python3 -c "import sys, zlib; d = zlib.decompressobj(); [sys.stdout.buffer.write('
    "d.decompress(c)) for c in iter(lambda: sys.stdin.buffer.read(1 << 20), b'')]\" < {path} > {path}.unpacked` "
    "and give the result"
)
# First byte of a zlib stream: deflate, with a window of 256 bytes to 32 KiB (RFC 1950)
_ZLIB_METHODS = range(0x08, 0x79, 0x10)
_SWSUSP = (b"S1SUSPEND", b"LINHIB0001")  # signature in the last ten bytes of a page (kernel/power/swap.c)

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
    (
        b"ZDMP",
        "a compressed DumpIt image (.zdmp)",
        "unpack it with the program that DumpIt comes with and give the result",
    ),
    (
        b"\x14\x20\x28\x01",
        "a Hyper-V saved state (.vmrs, .vmcx)",
        "convert it to a raw image with a tool that uses Hyper-V's VmSavedStateDumpProvider and give that",
    ),
    (
        b"\x7fVirtualBox SavedState ",
        "a VirtualBox saved state (.sav)",
        "use `VBoxManage debugvm VM dumpvmcore --filename FILE` while the machine runs or is paused, and give FILE",
    ),
    (b"LinuxGuestRecord", "a Xen save file", "use `xl dump-core DOMAIN FILE` instead"),
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
    (b"\x1f\x9d", "a file that compress made", _UNPACK.replace("{tool}", "gzip")),
    (b"LZIP", "an lzip-compressed file", _UNPACK.replace("{tool}", "lzip")),
    (b"\x5d\0\0\x80\0", "an lzma-compressed file", _UNPACK.replace("{tool}", "xz --format=lzma")),
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


def refusal(path: Path, buffer: FileSource) -> str | None:
    """The sentence that refuses a file which holds no memory, or not as it is; None for one that may be a raw image."""
    start = bytes(buffer[:512])
    for magic, name, advice in _REFUSED:
        if start.startswith(magic):
            return f"{path} is {name}, which is not read; {advice.format(path=path)}"
    if (inside := _zlib_start(bytes(buffer[:4096]))) is not None:
        what = "a LiME image acquired with compress=1" if inside.startswith(b"EMiL") else "a zlib-compressed file"
        return f"{path} is {what}, which is not read; {_ZLIB.format(path=path)}"
    if bytes(buffer[4086:4096]).startswith(_SWSUSP):
        return (
            f"{path} is a Linux hibernation image or the swap area that holds one, which is not read; resume a copy of "
            "the machine and acquire its memory"
        )
    if _is_text(bytes(buffer[: 1 << 16])):
        return f"{path} is a text file; give a memory image or a crash dump"
    return None


def _zlib_start(start: bytes) -> bytes | None:
    """What a zlib stream that begins with these bytes begins with; None if none does.

    The first two bytes are a check (RFC 1950), which one word of any memory in a thousand passes, so some of it has
    to unpack too.
    """
    if len(start) < 3 or start[0] not in _ZLIB_METHODS or int.from_bytes(start[:2], "big") % 31 or start[1] & 0x20:
        return None
    try:
        inside = zlib.decompressobj().decompress(start, 16)
    except zlib.error:
        return None
    return inside or None


def _is_text(sample: bytes) -> bool:
    """Whether these bytes are UTF-8 without control characters; the last character may be cut off."""
    if any(c < 0x20 and c not in b"\t\n\r\f\x1b" for c in set(sample)):
        return False
    try:
        sample.decode()
    except UnicodeDecodeError as error:
        return error.end == len(sample) and error.start > 0 and len(sample) - error.start < 4
    return True
