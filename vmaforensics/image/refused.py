"""What is recognised and not read: other containers, by the bytes they begin with, and what to do about each.

The signatures are those of the programs that write the files; util-linux's libblkid has most of the disks, file(1)
the archives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.arch.machines import OTHER_MACHINES
from vmaforensics.arch.machines import refusal as other_machine
from vmaforensics.image import elf_header
from vmaforensics.image.elf_header import elf_refusal
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from pathlib import Path

_UNPACK = "unpack it with `{tool} -d < {path} > {path}.unpacked` and give the result"
_DISK = "it holds a disk, not memory; give a memory image"
_VMWARE = (
    "give the .vmem file that lies beside it, or where there is none convert it with vmss2core or volatility3's "
    "layerwriter"
)
_NO_MEMORY = "give a memory image or a crash dump"
_XEN = "use `xl dump-core DOMAIN FILE` instead"
_PROCESS = "it has processes of one container, not the machine's memory; give a memory image"
_UTS_MACHINE = slice(272, 337)  # of struct disk_dump_header: behind 12 bytes, the fifth of names of 65 bytes
_SWSUSP = (b"S1SUSPEND", b"LINHIB0001")  # signature in the last ten bytes of a page (kernel/power/swap.c)
_QCOW2 = b"QFI\xfb"
_FLATTENED, _FIRST_RECORD = (
    b"makedumpfile\0\0\0\0",
    slice(1 << 12, (1 << 12) + 16),
)  # behind its header: offset and size
SMALLEST_RAW = 1 << 20  # bytes; no Linux machine has less memory

_REFUSED: tuple[tuple[bytes, str, str], ...] = (
    (b"QEVM", "a QEMU migration stream", "use the QEMU monitor's `dump-guest-memory FILE` instead"),
    (b"LibvirtQemud", "a libvirt save file", "use `virsh dump --memory-only DOMAIN FILE` instead"),
    (b"libvirt-xml", "a libvirt save file of a Xen guest", _XEN),
    (b"\xd0\xbe\xd2\xbe", "a VMware snapshot or suspend file", _VMWARE),
    (b"\xd1\xba\xd1\xba", "a VMware snapshot or suspend file", _VMWARE),
    (b"\xd2\xbe\xd2\xbe", "a VMware snapshot or suspend file", _VMWARE),
    (b"\xd3\xbe\xd3\xbe", "a VMware snapshot or suspend file", _VMWARE),
    (
        b"\xed\x23\x8f\x61\x73\x01\x19\xa8",
        "an LKCD dump",
        "convert it to an ELF core with crash or makedumpfile",
    ),
    (b"\xa8\x19\x01\x73\x61\x8f\x23", "the dump of another machine (s390x)", "open it with crash built for it"),
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
    (b"LinuxGuestRecord", "a Xen save file", _XEN),
    (b"Xen saved domain", "a Xen save file", _XEN),
    (b"VMA\0\0\0\0\1", "a Proxmox backup (.vma)", "it holds disks; take `dump-guest-memory FILE` in the VM's monitor"),
    (
        b"\0\0\x64\x86\x84\x19\x10\x07",
        "the state of a Firecracker snapshot",
        "give the file with the guest's memory that was written beside it (mem_file_path)",
    ),
    (b"gVisorSF", "a gVisor checkpoint", "its kernel is not Linux; give an image of the machine that it ran on"),
    (b"\x19\x43\x56\x54", "a CRIU image", _PROCESS),
    (b"\x40\x59\x10\x55", "a CRIU image", _PROCESS),
    (b"PAGEDU64", "a Windows crash dump", "give the image of a Linux machine"),
    (b"PAGEDUMP", "a Windows crash dump", "give the image of a Linux machine"),
    (b"MDMP", "a Windows minidump", "give the image of a Linux machine"),
    (b"hibr", "a Windows hibernation file", "give the image of a Linux machine"),
    (b"HIBR", "a Windows hibernation file", "give the image of a Linux machine"),
    (
        b"EVF\x09\x0d\x0a\xff\x00",
        "an EWF (EnCase) container",
        "export the raw image with `ewfexport -t OUT -f raw {path}` and give OUT.raw",
    ),
    (
        b"EVF2\r\n\x81\0",
        "an EWF (EnCase) container",
        "export the raw image with `ewfexport -t OUT -f raw {path}` and give OUT.raw",
    ),
    (b"AFF10\r\n\0", "an AFF container", "export the raw image with `affcat {path} > OUT` and give OUT"),
    (b"ADSEGMENTEDFILE", "an AD1 container", "export the memory image with FTK Imager and give that"),
    (b"\x1f\x9d", "a file that compress made", _UNPACK.replace("{tool}", "gzip")),
    (b"LZIP", "an lzip-compressed file", _UNPACK.replace("{tool}", "lzip")),
    (b"\x89LZO\0\r\n\x1a\n", "an lzop-compressed file", _UNPACK.replace("{tool}", "lzop")),
    (b"\x02\x21\x4c\x18", "an lz4 file of the old form", _UNPACK.replace("{tool}", "lz4")),
    (b"\xff\x06\x00\x00sNaPpY", "a snappy-compressed file", "unpack it first and give the result"),
    (
        b"PK\x03\x04",
        "a zip archive (or AFF4 container)",
        "unpack it with `unzip {path}`, or export the image of an AFF4 container with aff4imager, and give that",
    ),
    (
        b"7z\xbc\xaf\x27\x1c",
        "a 7-Zip archive",
        "unpack it with `7z x {path}` and give the memory image inside",
    ),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it first and give the memory image inside"),
    (b"0707", "a cpio archive", "unpack it with `cpio -id < {path}` and give the memory image inside"),
    (b"KDMV", "a VMware disk image", _DISK),
    (b"COWD", "a VMware disk image", _DISK),
    (b"vhdxfile", "a Hyper-V disk image", _DISK),
    (b"conectix", "a VHD disk image", _DISK),
    (b"<<< ", "a VirtualBox disk image", _DISK),
    (b"QED\0", "a QED disk image", _DISK),
    (b"LUKS\xba\xbe", "a LUKS disk, encrypted", _DISK),
    (b"XFSB", "an XFS file system", _DISK),
    (b"hsqs", "a squashfs file system", _DISK),
    (b"\x89PNG\r\n\x1a\n", "a picture (PNG)", _NO_MEMORY),
    (b"\xff\xd8\xff", "a picture (JPEG)", _NO_MEMORY),
    (b"%PDF-", "a PDF document", _NO_MEMORY),
    (b"SQLite format 3\0", "an SQLite database", _NO_MEMORY),
    (b"\xd4\xc3\xb2\xa1", "a capture of network packets", _NO_MEMORY),
    (b"\x4d\x3c\xb2\xa1", "a capture of network packets", _NO_MEMORY),
    (b"\x0a\x0d\x0d\x0a", "a capture of network packets", _NO_MEMORY),
)
# What lies further in than at the beginning, as ((offset, bytes), …)
_REFUSED_WITHIN: tuple[tuple[tuple[tuple[int, bytes], ...], str, str], ...] = (
    (((510, b"\x55\xaa"), (514, b"HdrS")), "a Linux kernel (bzImage)", "give an image of the memory it ran in"),
    (((512, b"EFI PART"),), "a disk image (GPT)", _DISK),
    (((0x438, b"\x53\xef"), (0x44D, b"\0\0\0")), "an ext file system", _DISK),
    (((0x8001, b"CD001"),), "an ISO 9660 file system", _DISK),
)


def refusal(path: Path, start: bytes) -> str | None:
    """The sentence that refuses a file which holds no memory, or not as it is; None for one that may be a raw image.

    ``start`` is its first 64 KiB, or all of it.
    """
    for magic, name, advice in _REFUSED:
        if start.startswith(magic):
            return f"{path} is {name}, which is not read; {advice.format(path=path)}"
    for places, name, advice in _REFUSED_WITHIN:
        if all(start.startswith(magic, at) for at, magic in places):
            return f"{path} is {name}, which is not read; {advice}"
    if start.startswith(_QCOW2):
        return f"{path} is a qcow2 disk image, which is not read; {_qcow2_advice(start)}"
    if _has_partitions(start):
        return f"{path} is a disk image (MBR), which is not read; {_DISK}"
    if start[4086:4096].startswith(_SWSUSP):
        return (
            f"{path} is a Linux hibernation image or the swap area that holds one, which is not read; resume a copy of "
            "the machine and acquire its memory"
        )
    inside = start
    if start.startswith(_FLATTENED) and not any(start[_FIRST_RECORD][:8]):
        inside = start[_FIRST_RECORD.stop :]
    if inside.startswith(elf_header.MAGIC):
        return elf_refusal(path, inside)
    if (machine := _other_machine(inside)) is not None:
        return f"{path} {other_machine(machine)}"
    return None


def raw_refusal(path: Path, start: bytes, size: int) -> str | None:
    """The sentence that refuses a file of ``size`` bytes without a header as a raw image: a text, or too little.

    ``start`` is as in :func:`refusal`.
    """
    if _is_text(start):
        return f"{path} is a text file; give a memory image or a crash dump"
    if size < SMALLEST_RAW:
        return (
            f"{path} has no header of a known format, and its {counted(size, 'byte')} are too few for a raw image "
            "(1 MiB at least); give a memory image or a crash dump"
        )
    return None


def _qcow2_advice(start: bytes) -> str:
    """A qcow2 file has the memory of a machine, too, in snapshots that were made while it ran (``nb_snapshots``)."""
    if not int.from_bytes(start[60:64], "big"):
        return _DISK
    return (
        "it holds a disk, and its snapshots (`qemu-img snapshot -l`) may hold memory: start a copy of the machine with "
        "`-loadvm NAME -S` and give what `dump-guest-memory FILE` writes in its monitor"
    )


def _has_partitions(start: bytes) -> bool:
    """Does it begin with a table of partitions (MBR) that can be believed? All of its entries have to fit."""
    if start[510:512] != b"\x55\xaa":
        return False
    entries = [start[at : at + 16] for at in range(446, 510, 16)]
    used = [entry for entry in entries if any(entry)]
    fit = [
        entry[0] in (0, 0x80) and entry[4] and any(entry[8:12]) and any(entry[12:16])
        for entry in used  # status, type, first sector, number of sectors
    ]
    return bool(used) and all(fit)


def _other_machine(start: bytes) -> str | None:
    """The machine that the header of a kdump names, if it is one whose dumps are not read.

    The reader looks closer; here it is told before it is loaded.
    """
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
