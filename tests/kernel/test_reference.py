"""The file that a kernel was booted from: how it may be packed, and what is refused with one sentence."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from typing import TYPE_CHECKING

import cramjam
import pytest
import zstandard

from vmaforensics.arch.known import DEFAULT
from vmaforensics.errors import ExitCode, SymbolFileError
from vmaforensics.kernel.reference import read_reference, require_same_build

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXT = 0xFFFF_FFFF_8100_0000
CODE = bytes(range(256)) * 16
ID = bytes(range(20))


def vmlinux() -> bytes:
    """An ELF file with code and a build id (System V ABI, chapter 4)."""
    note = struct.pack("<III", 4, 20, 3) + b"GNU\0" + ID
    names = b"\0.text\0.notes\0.shstrtab\0"
    bodies = [CODE, note, names]
    offsets = [64, 64 + len(CODE), 64 + len(CODE) + len(note)]
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, TEXT, 0, offsets[2] + len(names), 0, 64, 0, 0, 64, 4, 3)
    rows = [(0, 0, 0, 0), (1, 1, 6, TEXT), (7, 7, 2, TEXT + 0x10_0000), (14, 3, 0, 0)]
    sections = struct.pack("<IIQQQQIIQQ", *[0] * 10)
    for (name, kind, flags, address), offset, body in zip(rows[1:], offsets, bodies, strict=True):
        sections += struct.pack("<IIQQQQIIQQ", name, kind, flags, address, offset, len(body), 0, 0, 1, 0)
    return header + b"".join(bodies) + sections


def boot_image(packed: bytes) -> bytes:
    """A bzImage with one sector of set-up (Documentation/arch/x86/boot.rst)."""
    head = bytearray(1024)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", head, 0x248, 0x40, len(packed))
    return bytes(head) + bytes(0x40) + packed + bytes(64)


def lz4(raw: bytes) -> bytes:
    """The old form of LZ4 files, as `lz4 -l` writes it, with the size that the kernel's build puts behind it."""
    block = bytes(cramjam.lz4.compress_block(raw, store_size=False))
    return b"\x02\x21\x4c\x18" + struct.pack("<I", len(block)) + block + struct.pack("<I", len(raw))


@pytest.mark.parametrize(
    "pack",
    [
        gzip.compress,
        bz2.compress,
        lambda raw: lzma.compress(raw, check=lzma.CHECK_CRC32) + struct.pack("<I", len(raw)),
        lambda raw: lzma.compress(raw, format=lzma.FORMAT_ALONE),
        lambda raw: zstandard.compress(raw) + struct.pack("<I", len(raw)),
        lz4,
    ],
    ids=["gzip", "bzip2", "xz", "lzma", "zstd", "lz4"],
)
def test_a_boot_image_gives_what_its_kernel_gives(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    plain, packed = tmp_path / "vmlinux", tmp_path / "vmlinuz"
    plain.write_bytes(vmlinux())
    packed.write_bytes(boot_image(pack(vmlinux())))
    for path in (plain, packed):
        found = read_reference(path, DEFAULT)
        assert (found.build_id, found.code) == (ID.hex(), (".text",))
        assert found.read(TEXT + 16, 4) == CODE[16:20]
        assert found.read(TEXT + len(CODE) - 2, 4) is None


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"hello", "is no kernel"),
        (boot_image(b"\0" * 64), "packed in a way that is not known"),
        (boot_image(gzip.compress(vmlinux())[:-800]), "is no kernel|cannot be unpacked|cannot be read"),
        (boot_image(gzip.compress(b"no kernel")), "is no kernel"),
        (vmlinux()[:200], "cannot be read"),
    ],
)
def test_what_is_no_kernel_is_refused_with_a_sentence(tmp_path: Path, raw: bytes, says: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(raw)
    with pytest.raises(SymbolFileError, match=says) as refused:
        read_reference(path, DEFAULT)
    assert refused.value.exit_code is ExitCode.SYMBOLS_MISSING
    assert str(path) in str(refused.value)


def test_a_file_of_another_build_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux())
    reference = read_reference(path, DEFAULT)
    require_same_build(reference, ID.hex())
    for other in ("00" * 20, None):
        with pytest.raises(SymbolFileError, match="build id"):
            require_same_build(reference, other)
