"""Files that cannot be mapped: sparse copies of /proc/kcore, whose segments lie terabytes apart."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vmaforensics.image.open import open_image
from vmaforensics.image.paged import BLOCK, PagedFile
from vmaforensics.image.source import NotMappableError

from .build import PAGE, page
from .truth import bytes_of, check, states

if TYPE_CHECKING:
    from pathlib import Path


def kcore(path: Path, far: int) -> None:
    """As fs/proc/kcore.c lays it out: RAM in the direct map, vmalloc without a physical address, holes between."""
    segments = [
        (0xFFFF888000001000, 0x1000, far, page(1) + page(2)),
        (0xFFFFC90000000000, 2**64 - 1, far // 2, page(7)),
    ]
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, len(segments), 0, 0, 0)
    for va, pa, at, data in segments:
        header += struct.pack("<IIQQQQQQ", 1, 7, at, va, pa, len(data), len(data), PAGE)
    with path.open("wb") as stream:
        stream.write(header)
        for _, _, at, data in segments:
            stream.seek(at)
            stream.write(data)


def test_a_sparse_copy_of_kcore_is_read(tmp_path: Path) -> None:
    """ext4 has files of up to 16 TiB; the address space of a process ends at 128 TiB, so the copy is not mapped whole
    everywhere, and where it is, the answers are the same."""
    path = tmp_path / "kcore"
    try:
        kcore(path, 1 << 43)
    except OSError:
        pytest.skip("the file system has no files of 8 TiB")
    image = open_image(path)
    check(image.memory, bytes_of({1: page(1), 2: page(2)}), set(), 3 * PAGE)
    assert image.details["segments without a physical address"] == "1 (skipped)"


@pytest.mark.parametrize("slots", [2, 3, 64])
def test_blocks_that_are_read_say_what_the_file_says(tmp_path: Path, slots: int) -> None:
    path = tmp_path / "file"
    data = np.random.default_rng(slots).integers(0, 256, 9 * BLOCK + 100, np.uint8)
    path.write_bytes(data.tobytes())
    file = PagedFile(path, len(data), cache_bytes=slots * BLOCK)
    rng = np.random.default_rng(1)
    for size in (1, 8, 257, PAGE):
        for count in (1, 40):
            offsets = rng.integers(0, len(data) - size, count)
            buffer, places, ok = file.fetch(offsets, size)
            assert ok.all()
            for at, place in zip(offsets.tolist(), places.tolist(), strict=True):
                assert np.array_equal(buffer[place : place + size], data[at : at + size])
    assert bytes(file[5 : BLOCK + 7]) == data[5 : BLOCK + 7].tobytes()
    whole = b"".join(piece.tobytes() for _, piece in file.pieces(0, len(data), 10_000))
    assert whole == data.tobytes()
    assert file.problems() == ()


def test_what_the_file_does_not_hold_is_absent(tmp_path: Path) -> None:
    """It has shrunk since its size was asked for, as /proc/kcore refuses some of what its headers promise."""
    path = tmp_path / "file"
    path.write_bytes(page(1))
    file = PagedFile(path, 2 * PAGE)
    _, _, ok = file.fetch(np.array([0, PAGE - 8, PAGE - 4, PAGE]), 8)
    assert ok.tolist() == [True, True, False, False]


def test_an_image_of_such_a_file_has_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise NotMappableError(str(path))

    monkeypatch.setattr("vmaforensics.image.readers.map_file", refuse)
    path = tmp_path / "kcore"
    kcore(path, 1 << 20)
    assert states(open_image(path).memory, 4) == "-pp-"
