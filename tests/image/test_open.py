from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from vmaforensics.errors import ExitCode, ImageUnreadableError, UnsupportedFormatError
from vmaforensics.image.open import open_image

from .build import Kdump, Load, avml, elf, flat_stream, flatten, lime, page

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Opener

ELF = b"\x7fELF"
MIB = 1 << 20


def refusal(path: Path) -> str:
    with pytest.raises(UnsupportedFormatError) as caught:
        open_image(path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_picks_the_reader_by_the_first_bytes(opened: Opener) -> None:
    assert opened(elf([Load(pa=0, data=page(1))])).format == "elf"
    assert opened(lime([(0, page(1))])).format == "lime"
    assert opened(avml([(0, page(1))])).format == "avml"
    assert opened(Kdump(pages={0: page(1)}).build()).format == "kdump"
    assert opened(Kdump(pages={0: page(1)}, signature=b"DISKDUMP").build()).format == "kdump"
    assert opened(bytes(MIB)).format == "raw"


def test_a_flattened_stream_is_of_the_format_inside(opened: Opener) -> None:
    for data in (elf([Load(pa=0, data=page(1))]), Kdump(pages={0: page(1)}).build()):
        image = opened(flatten(data))
        assert image.format == opened(data).format
        assert image.details["container"].startswith("flattened, ")
        assert image.size == len(flatten(data))


@pytest.mark.parametrize("inside", [lime([(0, page(1))]), bytes(MIB), flatten(page(1)), b"QEVM".ljust(MIB, b"\0")])
def test_a_flattened_stream_of_anything_else_is_refused(tmp_path: Path, inside: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(flat_stream([(0, inside)]))
    assert "neither a kdump nor an ELF core" in refusal(path)


def test_several_files_have_to_be_the_parts_of_a_kdump(tmp_path: Path) -> None:
    for name, data in (("a", bytes(MIB)), ("b", lime([(0, page(1))])), ("c", Kdump(pages={0: page(1)}).build())):
        (tmp_path / name).write_bytes(data)
    for names, why in (("ab", "a is not a kdump file"), ("cb", "c is a whole kdump"), ("cc", "c is a whole kdump")):
        with pytest.raises(UnsupportedFormatError, match=why) as caught:
            open_image([tmp_path / name for name in names])
        assert "\n" not in str(caught.value)
    assert open_image([tmp_path / "c"]).format == "kdump"
    with pytest.raises(ImageUnreadableError, match="no image was given"):
        open_image([])
    with pytest.raises(ImageUnreadableError, match="no such file"):
        open_image([tmp_path / "c", tmp_path / "d"])


def test_opens_paths_and_strings(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(MIB))
    assert open_image(str(path)).path == path
    assert open_image(path).size == MIB


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("none")
    for name, what in (
        ("none", "no such file"),
        ("empty", "is empty"),
        (".", "is a directory"),
        ("fifo", "not a regular file"),
        ("empty/below", "image"),
        ("loop", "link that leads to no file"),
        ("dangling", "link that leads to no file"),
        ("nul\0", "nul"),
    ):
        with pytest.raises(ImageUnreadableError, match=what) as caught:
            open_image(tmp_path / name)
        assert caught.value.exit_code == ExitCode.IMAGE_UNREADABLE


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(bytes(MIB))
    path.chmod(0)
    with pytest.raises(ImageUnreadableError, match="Permission denied"):
        open_image(path)


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"AVML\x02\0\0\0", "AVML"),
        (b"QEVM\0\0\0\x03", "QEMU"),
        (b"LibvirtQemudSave", "libvirt"),
        (b"\xd1\xba\xd1\xba", "VMware"),
        (b"\xed\x23\x8f\x61\x73\x01\x19\xa8", "LKCD"),
        (b"\x02\x21\x4c\x18", "lz4"),
        (b"QFI\xfb", "qcow2"),
        (bytes(257) + b"ustar\0", "tar"),
        (b"ZDMP\x01\0\0\0", "DumpIt"),
        (b"\x14\x20\x28\x01", "Hyper-V"),
        (b"\x7fVirtualBox SavedState V2.0\n", "VirtualBox"),
        (b"LinuxGuestRecord", "Xen"),
        (b"\x1f\x9d\x90", "compress made"),
        (elf([Load(pa=0, data=page(1))], machine=183), "another machine (AARCH64)"),
        (bytes(4086) + b"S1SUSPEND\0", "hibernation"),
        (ELF + b"\1\1" + bytes(10) + b"\4\0\3\0" + bytes(200), "another machine (386, 32-bit)"),
        (ELF + b"\2\2" + bytes(10) + b"\0\4\0\x16" + bytes(200), "another machine (S390, big-endian)"),
        (ELF + b"\1\1" + bytes(10) + b"\4\0\x3e\0" + bytes(200), "an ELF core that is 32-bit"),
        (ELF + b"\3\1" + bytes(200), "the ELF header is damaged"),
        (flatten(elf([Load(pa=0, data=page(1))], machine=183)), "another machine (AARCH64)"),
        (b"\xa8\x19\x01\x73\x61\x8f\x23\xfd", "another machine (s390x)"),
        (b"Xen saved domain, xl format\n \0 \r", "a Xen save file"),
        (b"libvirt-xml\n \0 \r", "a libvirt save file of a Xen guest"),
        (b"VMA\0\0\0\0\1", "a Proxmox backup"),
        ((0x0710_1984_8664_0000).to_bytes(8, "little"), "the state of a Firecracker snapshot"),
        (b"gVisorSF", "a gVisor checkpoint"),
        ((0x54564319).to_bytes(4, "little"), "a CRIU image"),
        (b"EVF2\r\n\x81\0", "EnCase"),
        (b"AFF10\r\n\0", "an AFF container"),
        (b"ADSEGMENTEDFILE\0", "an AD1 container"),
        (b"070701", "a cpio archive"),
        (b"QFI\xfb" + bytes(60), "it holds a disk, not memory"),
        (b"QFI\xfb" + bytes(59) + b"\1", "its snapshots (`qemu-img snapshot -l`) may hold memory"),
        (bytes(510) + b"\x55\xaa\0\0HdrS", "a Linux kernel (bzImage)"),
        (bytes(510) + b"\x55\xaaEFI PART", "a disk image (GPT)"),
        (bytes(446) + b"\x80\1\1\0\x83\xfe\xff\xff\0\x08\0\0\0\0\x10\0" + bytes(48) + b"\x55\xaa", "(MBR)"),
        (bytes(0x438) + b"\x53\xef\1\0" + bytes(16) + b"\1\0\0\0", "an ext file system"),
        (bytes(0x8001) + b"CD001", "an ISO 9660 file system"),
        (b"\x89PNG\r\n\x1a\n", "a picture (PNG)"),
        (b"%PDF-1.7\n", "a PDF document"),
        (elf([Load(pa=0, data=page(1))], kind=2), "ET_EXEC"),
        (elf([Load(pa=0, data=page(1))], kind=3), "ET_DYN"),
    ],
)
def test_known_containers_are_refused_by_name(tmp_path: Path, start: bytes, name: str) -> None:
    path = tmp_path / "image"
    for data in (start, start.ljust(2 * MIB, b"\0")):
        path.write_bytes(data)
        assert name in refusal(path)


def test_text_and_scraps_are_no_images(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_text("größer als ein MiB\n" * 100_000)
    assert "text file" in refusal(path)
    path.write_bytes(b"short")
    assert "text file" in refusal(path)
    path.write_bytes(bytes(range(256)) * 100)
    assert "too few for a raw image" in refusal(path)


def test_opening_does_not_read_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)  # would take minutes
    assert open_image(path).memory.ranges.tolist() == [[0, 1 << 40]]
