"""Images compressed as a whole. What makes the files is the library of each format, or the format's description."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import tempfile
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zstandard

from vmaforensics.errors import ImageUnreadableError, UnsupportedFormatError
from vmaforensics.image import packed
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


@pytest.mark.parametrize("name", PACKERS)
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
