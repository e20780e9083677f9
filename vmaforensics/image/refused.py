"""What is recognised and not read: other containers, by the bytes they begin with, and what to do about each.

The signatures are those of the programs that write the files; util-linux's libblkid has most of the disks, file(1)
the archives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.arch.machines import OTHER_ELF_MACHINES, OTHER_MACHINES
from vmaforensics.arch.machines import refusal as other_machine

if TYPE_CHECKING:
    from pathlib import Path

    from vmaforensics.image.source import Bytes

_UNPACK = "unpack it with `{tool} -d < {path} > {path}.unpacked` and give the result"
_VOLATILITY = "volatility3 opens it; convert it to a raw image or an ELF core first"
_DISK = "it holds a disk, not memory; give a memory image"
_ELF64_LITTLE, _ET_CORE = b"\x7fELF\x02\x01", 4  # elf.h
_UTS_MACHINE = slice(272, 337)  # of struct disk_dump_header: behind 12 bytes, the fifth of names of 65 bytes
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
    (b"\x04\x22\x4d\x18", "an lz4-compressed file", _UNPACK.replace("{tool}", "lz4")),
    (b"\x1f\x9d", "a file that compress made", _UNPACK.replace("{tool}", "gzip")),
    (b"LZIP", "an lzip-compressed file", _UNPACK.replace("{tool}", "lzip")),
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


def refusal(path: Path, buffer: Bytes) -> str | None:
    """The sentence that refuses a file which holds no memory, or not as it is; None for one that may be a raw image."""
    start = bytes(buffer[:512])
    for magic, name, advice in _REFUSED:
        if start.startswith(magic):
            return f"{path} is {name}, which is not read; {advice.format(path=path)}"
    if bytes(buffer[4086:4096]).startswith(_SWSUSP):
        return (
            f"{path} is a Linux hibernation image or the swap area that holds one, which is not read; resume a copy of "
            "the machine and acquire its memory"
        )
    if (machine := _other_machine(start)) is not None:
        return f"{path} {other_machine(machine)}"
    return None


def text_refusal(path: Path, buffer: Bytes) -> str | None:
    """The sentence that refuses a text; None for a file that is none."""
    return f"{path} is a text file; give a memory image or a crash dump" if _is_text(bytes(buffer[: 1 << 16])) else None


def _other_machine(start: bytes) -> str | None:
    """The machine that the headers of an ELF core or of a kdump name, if it is one whose dumps are not read.

    Readers look closer; here it is told before one is loaded.
    """
    if start[:6] == _ELF64_LITTLE and int.from_bytes(start[16:18], "little") == _ET_CORE:
        return OTHER_ELF_MACHINES.get(int.from_bytes(start[18:20], "little"))
    name = start[_UTS_MACHINE].split(b"\0", 1)[0].decode("ascii", "replace")
    return name if start.startswith((b"KDUMP   ", b"DISKDUMP")) and name in OTHER_MACHINES else None


def _is_text(sample: bytes) -> bool:
    """Whether these bytes are UTF-8 without control characters; the last character may be cut off."""
    if any(c < 0x20 and c not in b"\t\n\r\f\x1b" for c in set(sample)):
        return False
    try:
        sample.decode()
    except UnicodeDecodeError as error:
        return error.end == len(sample) and error.start > 0 and len(sample) - error.start < 4
    return True
