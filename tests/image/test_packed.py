"""Images compressed as a whole. What makes the files is the library of each format, or the format's description."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from typing import TYPE_CHECKING

import cramjam
import numpy as np
import pytest
import zstandard

from vmaforensics.errors import ImageUnreadableError, UnsupportedFormatError
from vmaforensics.image import packed
from vmaforensics.image.lz4_frames import Lz4Decoder
from vmaforensics.image.open import is_packed, look_at, open_image

from .build import Kdump, elf, flatten, lime, page
from .build import Load as Segment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Opener

MIB = 1 << 20


def _limes_zlib(data: bytes) -> bytes:
    """As LiME's deflate.c packs: a window of 2 KiB (WBITS 11), so that the stream begins with 38 8d."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 11)
    whole = packer.compress(data) + packer.flush()
    assert whole[0] == 0x38
    return whole


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "zstd": zstandard.compress,
    "zlib": _limes_zlib,
    "lz4": lambda data: bytes(cramjam.lz4.compress(data)),
}
# Pages far from each other: between them there are zeros that are left out of the temporary file
MEMORY = b"".join(
    [bytes(MIB), *(page(n) for n in range(20)), bytes(5 * MIB + 100), page(20), bytes(3 * MIB), page(21)[:1234]]
)


@pytest.mark.parametrize("name", PACKERS)
def test_a_compressed_image_is_the_image_inside(opened: Opener, name: str) -> None:
    image = opened(PACKERS[name](lime([(0x1000, MEMORY)])))
    assert image.format == "lime"
    assert image.details["container"] == name
    assert image.memory.ranges.tolist() == [[0x1000, 0x1000 + len(MEMORY)]]
    assert image.memory.read(0x1000, len(MEMORY)) == MEMORY
    assert image.problems == ()


@pytest.mark.parametrize("name", PACKERS)
def test_searches_pass_over_its_zeros(opened: Opener, name: str) -> None:
    image = opened(PACKERS[name](MEMORY))
    assert image.format == "raw"
    seen = np.zeros(len(MEMORY), np.uint8)
    for at, piece in image.memory.chunks():
        seen[at : at + len(piece)] = piece
    assert seen.tobytes() == MEMORY
    assert sum(len(piece) for _, piece in image.memory.chunks()) < len(MEMORY) // 2


@pytest.mark.parametrize("name", ["gzip", "xz", "bzip2", "zstd"])
def test_streams_one_behind_the_other_are_one(opened: Opener, name: str) -> None:
    cut = 3 * MIB + 77
    parts = [PACKERS[name](MEMORY[:cut]), PACKERS[name](MEMORY[cut:])]
    image = opened(b"".join(parts) + bytes(1 << 15))  # xz pads with zeros, and tapes do
    assert image.memory.read(0, len(MEMORY)) == MEMORY
    assert image.problems == ()


def test_a_skippable_frame_of_zstd_is_skipped(opened: Opener) -> None:
    skippable = b"\x50\x2a\x4d\x18" + (8).to_bytes(4, "little") + bytes(8)  # RFC 8878, 3.1.2; pzstd begins so
    assert opened(skippable + zstandard.compress(MEMORY)).memory.read(0, len(MEMORY)) == MEMORY


@pytest.mark.parametrize("name", PACKERS)
def test_a_stream_that_is_cut_off_is_read_as_far_as_it_goes(opened: Opener, name: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, 4 * MIB, np.uint8).tobytes()
    whole = PACKERS[name](noise)
    image = opened(whole[: len(whole) * 3 // 4])
    assert image.size > 2 * MIB
    held = int(image.memory.ranges[0, 1])
    assert 2 * MIB <= held < len(noise)
    assert image.memory.read(0, held) == noise[:held]
    assert f"the {name} stream is cut off: the file ends inside of it" in image.problems[0]


@pytest.mark.parametrize(
    "name", [name for name in PACKERS if name != "lz4"]
)  # the checksums of which are not looked at
def test_a_damaged_stream_is_read_up_to_the_damage(opened: Opener, name: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, 4 * MIB, np.uint8).tobytes()
    whole = bytearray(PACKERS[name](noise))
    at = len(whole) * 3 // 4
    whole[at : at + 4096] = bytes(4096)
    try:
        image = opened(bytes(whole))
    except UnsupportedFormatError as error:  # xz may notice when the only block ends
        pytest.fail(str(error))
    held = int(image.memory.ranges[0, 1])
    assert MIB <= held <= len(noise)
    assert image.memory.read(0, MIB) == noise[:MIB]
    assert f"the {name} stream is" in image.problems[0]


def test_what_follows_a_stream_is_told_of(opened: Opener) -> None:
    image = opened(gzip.compress(MEMORY) + b"signature of the case")
    assert image.memory.read(0, len(MEMORY)) == MEMORY
    assert "the gzip stream is followed by something else" in image.problems[0]


def test_archives_streams_and_parts_may_be_inside(opened: Opener) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("ram.lime")
        data = lime([(0, MEMORY)])
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    image = opened(gzip.compress(buffer.getvalue()))
    assert image.details["container"] == "gzip, tar, file ram.lime"
    assert image.memory.read(0, len(MEMORY)) == MEMORY
    image = opened(zstandard.compress(flatten(elf([Segment(pa=0, data=page(1))]))))
    assert image.details["container"].startswith("zstd, flattened")
    assert image.memory.read(0, 4096) == page(1)
    image = opened(lzma.compress(Kdump(pages={1: page(1)}).build()))
    assert image.format == "kdump"
    assert image.memory.read(4096, 4096) == page(1)


def test_what_is_inside_is_refused_as_it_would_be_itself(tmp_path: Path) -> None:
    path = tmp_path / "image.gz"
    for inside, says in (
        (b"QFI\xfb" + bytes(2 * MIB), "qcow2"),
        (b"text, for all that\n" * 100_000, "text file"),
        (gzip.compress(MEMORY), "gzip-compressed again"),
        (bytes(1000), "too few for a raw image"),
        (b"", "cannot be unpacked"),
    ):
        path.write_bytes(gzip.compress(inside))
        look_at(path)
        with pytest.raises(UnsupportedFormatError, match=says):
            open_image(path)


def test_a_stream_of_which_nothing_can_be_unpacked_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.gz"
    path.write_bytes(gzip.compress(MEMORY)[:10] + b"\xff" * 5000)
    with pytest.raises(UnsupportedFormatError, match=r"gzip-compressed file that cannot be unpacked \(is damaged"):
        open_image(path)


def test_the_temporary_file_is_where_it_is_told_to_be_and_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, folder = tmp_path / "image.zst", tmp_path / "scratch"
    path.write_bytes(zstandard.compress(MEMORY))
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    used: list[object] = []
    made = tempfile.TemporaryFile

    def noted(**options: object) -> object:
        used.append(options["dir"])
        return made(**options)  # type: ignore[call-overload]

    monkeypatch.setattr(tempfile, "TemporaryFile", noted)
    image = open_image(path)
    assert used == [str(folder)]
    assert list(folder.iterdir()) == []
    assert image.memory.read(0, len(MEMORY)) == MEMORY


def test_a_full_file_system_is_one_sentence_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image.zst"
    path.write_bytes(zstandard.compress(MEMORY))
    monkeypatch.setattr(packed, "_LEFT_FREE", 1 << 62)  # no file system has as much
    with pytest.raises(ImageUnreadableError, match="set TMPDIR to a folder with more room, or unpack it with `zstd -d"):
        open_image(path)


def test_unpacking_says_how_far_it_is(tmp_path: Path) -> None:
    path = tmp_path / "image.gz"
    noise = np.random.default_rng(1).integers(0, 256, 40 * MIB, np.uint8).tobytes()
    path.write_bytes(gzip.compress(noise, 0))
    heard: list[tuple[str, int, int]] = []
    open_image(path, lambda stage, done=0, total=0, /: heard.append((stage, done, total)))
    assert len(heard) == 2  # one per 16 MiB
    assert {(stage, total) for stage, _, total in heard} == {("unpack", path.stat().st_size)}
    assert is_packed(path)
    assert not is_packed(tmp_path)


def frame(flags: int, *blocks: bytes) -> bytes:
    """An LZ4 frame of blocks of up to 64 KiB, as lz4_Frame_format.md has it; those that begin with ! are plain."""
    head = b"\x04\x22\x4d\x18" + bytes([0x40 | flags, 0x40]) + (bytes(8) if flags & 8 else b"") + b"?"
    check = bytes(4) if flags & 0x10 else b""
    sized = [
        (
            (len(block) - 1 | 1 << 31).to_bytes(4, "little") + block[1:]
            if block[:1] == b"!"
            else len(block).to_bytes(4, "little") + block
        )
        + check
        for block in blocks
    ]
    return head + b"".join(sized) + bytes(4) + (bytes(4) if flags & 4 else b"")


def lz4(data: bytes, step: int) -> tuple[bytes, bool, bytes]:
    decoder, found = Lz4Decoder(), b""
    for at in range(0, len(data), step):
        found += decoder.decompress(data[at : at + step])
    return found, decoder.eof, decoder.unused_data


@pytest.mark.parametrize("flags", [0x20, 0x30, 0x2C, 0x24, 0x3C])
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_frames_of_lz4_with_whatever_their_flags_announce(flags: int, step: int) -> None:
    # Three literals and a match of six bytes, three back; then the five literals that end a block at least.
    packed = frame(flags, b"!plain", b"\x32abc\x03\x00\x50vwxyz")
    assert lz4(packed, step) == (b"plainabcabcabcvwxyz", True, b"")
    assert lz4(packed + b"behind", 1000) == (b"plainabcabcabcvwxyz", True, b"behind")


@pytest.mark.parametrize("before", [5, 20, 300, 65_535])
def test_a_block_of_lz4_may_copy_what_is_in_blocks_before_it(before: int) -> None:
    text = bytes(number % 251 for number in range(before))
    # A match of five bytes from the beginning of what is before; then five literals.
    packed = frame(0, b"!" + text, b"\x01" + before.to_bytes(2, "little") + b"\x50vwxyz")
    assert lz4(packed, 8192)[0] == text + text[:5] + b"vwxyz"


@pytest.mark.parametrize(
    "packed",
    [
        frame(1, b"!text"),  # a dictionary
        frame(0x20, b"\xf0\xff"),  # literals that are not there
        frame(0x20, b"\x11-\x09\x00\x50vwxyz"),  # a match before the beginning
        frame(0x20, b"!" + bytes((1 << 16) + 1)),  # larger than the header allows
        b"\x04\x22\x4d\x18\x00\x40?",  # no version
    ],
)
def test_frames_of_lz4_that_are_damaged_are_told(packed: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        lz4(packed, 8192)


@pytest.mark.parametrize("options", ["-B4 -BD", "-B7 -BD -9", "-B5 -BX --content-size", "-B4 -BI --no-frame-crc"])
def test_what_the_lz4_program_packs_is_unpacked(opened: Opener, options: str) -> None:
    if shutil.which("lz4") is None:
        pytest.skip("no lz4")
    packed = subprocess.run(["lz4", "-c", *options.split()], input=MEMORY, capture_output=True, check=True).stdout
    assert opened(packed).memory.read(0, len(MEMORY)) == MEMORY
