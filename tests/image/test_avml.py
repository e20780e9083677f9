"""AVML's compressed images, written here by the letter of its own writer and of snappy's framing format."""

from __future__ import annotations

import struct
from ctypes.util import find_library
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vmaforensics.errors import UnsupportedFormatError
from vmaforensics.image.formats.avml_frames import Frames, FrameSource
from vmaforensics.image.formats.segments import FlatMemory
from vmaforensics.image.open import open_image
from vmaforensics.image.source import Mapped

from .build import (
    PAGE,
    SNAPPY_IDENTIFIER,
    ZERO,
    avml,
    avml_block,
    crc32c,
    lime_header,
    page,
    snappy_frame,
)
from .truth import bytes_of, check, states

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Opener

FRAME = 65536
MANY = b"".join(page(n) for n in range(40))  # three frames: two of 64 KiB, one of 32 KiB


def test_the_sum_of_the_tests_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of the catalogues of CRCs


def test_blocks_read_as_what_was_compressed(opened: Opener) -> None:
    image = opened(avml([(0x1000, page(1)), (0x100000, MANY), (0x200000, ZERO)]))
    pages = {1: page(1), 512: ZERO} | {256 + n: page(n) for n in range(40)}
    check(image.memory, bytes_of(pages), set(), 520 * PAGE)
    assert image.format == "avml"
    assert image.details == {"compression": "snappy", "blocks": "3", "frames": "5"}
    assert image.problems == image.memory.problems() == ()
    assert states(image.memory, 3) == "-p-"


def test_frames_of_any_size_and_plain_ones_and_padding_are_read(opened: Opener) -> None:
    data = page(1) + page(2) + page(3)
    cuts = [0, 1, 700, 5000, 5001, len(data)]
    chunks = b"\xfe\x03\x00\x00abc"
    for number, (low, high) in enumerate(pairwise(cuts)):
        chunks += snappy_frame(data[low:high], kind=number % 2) + SNAPPY_IDENTIFIER * (number % 2)
    image = opened(avml_block(0x1000, len(data), chunks))
    check(image.memory, bytes_of({1: page(1), 2: page(2), 3: page(3)}), set(), 5 * PAGE)
    assert image.problems == ()


def test_blocks_that_are_no_whole_pages_are_held_to_the_byte(opened: Opener) -> None:
    image = opened(avml([(0x1800, MANY[:0x2345]), (0x1800 + 0x2345, MANY[0x2345:0x5000])]))
    check(image.memory, {0x1800 + at: octet for at, octet in enumerate(MANY[:0x5000])}, set(), 8 * PAGE)


@pytest.mark.parametrize("slots", [1, 2])
def test_a_cache_smaller_than_what_is_asked_for_lets_go_of_the_oldest(opened: Opener, slots: int) -> None:
    image = opened(avml([(0x1000, MANY)]))
    assert isinstance(image.memory, FlatMemory)
    source = image.memory._source
    assert isinstance(source, FrameSource)
    image.memory._source = FrameSource(
        source._file, Frames(source._offsets, source._sizes, source._lengths), cache_bytes=slots * FRAME
    )
    check(image.memory, bytes_of({1 + n: page(n) for n in range(40)}), set(), 42 * PAGE)


@pytest.mark.parametrize("damage", ["crc", "data", "expands", "kind"])
def test_a_damaged_frame_is_absent_and_counted(opened: Opener, damage: str) -> None:
    frames = [snappy_frame(MANY[:FRAME]), snappy_frame(MANY[FRAME : 2 * FRAME]), snappy_frame(MANY[2 * FRAME :])]
    if damage == "crc":
        frames[1] = snappy_frame(MANY[FRAME : 2 * FRAME], crc=0x12345678)
    elif damage == "data":
        frames[1] = frames[1][:2000] + bytes(40) + frames[1][2040:]
    elif damage == "kind":
        frames[1] = b"\x01" + snappy_frame(MANY[FRAME : 2 * FRAME], kind=1, crc=1)[1:]
    else:
        # Says 64 KiB, and its first literal alone is larger than its data.
        frames[1] = snappy_frame(b"", packed=b"\x80\x80\x04\xfc\xff\xff\xff\x7f" + bytes(50))
    image = opened(avml_block(0x1000, len(MANY), b"".join(frames)))
    assert image.problems == image.memory.problems() == ()
    held = {1 + n: page(n) for n in (*range(16), *range(32, 40))}
    check(image.memory, bytes_of(held), set(range(17 * PAGE, 33 * PAGE)), 42 * PAGE)
    assert states(image.memory, 42) == "-" + "p" * 16 + "a" * 16 + "p" * 8 + "-"
    at = 32 + 10 + len(frames[0])
    (problem,) = image.memory.problems()
    assert "1 frame with 65,536 bytes absent: damaged, by their CRC or by their data" in problem
    assert f"first: at file offset {at:#x}" in problem


@pytest.mark.parametrize(
    ("chunk", "why"),
    [
        (b"\x02\x05\x00\x00abcde", "type 0x2"),
        (b"\x7f\x00\x00\x00" + bytes(9), "type 0x7f"),
        (b"\xff\x06\x00\x00sNaPpy", "type 0xff"),
        (snappy_frame(b"", packed=b"\x81\x80\x04" + bytes(50)), "unpacks to 65,537"),
        (snappy_frame(b"", packed=b"\xff\xff\xff\xff\x0f" + bytes(50)), "says it unpacks to"),
        (snappy_frame(b"", packed=b"\x00"), "unpacks to 0"),
        (snappy_frame(bytes(65537), kind=1), "unpacks to 65,537"),
        (b"\x00\x02\x00\x00" + bytes(20), "a frame of 2 bytes"),
    ],
)
def test_after_a_chunk_that_cannot_be_believed_the_next_block_is_looked_for(
    opened: Opener, chunk: bytes, why: str
) -> None:
    first = snappy_frame(MANY[:FRAME])
    broken = avml_block(0x1000, len(MANY), first + chunk + b"AVML\x02\0\0\0" + page(3))
    image = opened(broken + avml([(0x100000, page(7))]))
    held = {1 + n: page(n) for n in range(16)} | {256: page(7)}
    check(image.memory, bytes_of(held), set(range(17 * PAGE, 41 * PAGE)), 258 * PAGE)
    assert len(image.problems) == 1
    assert why in image.problems[0]
    assert "98,304 bytes of RAM from 0x11000 on are missing" in image.problems[0]
    # With no block behind it, what is left of the file is said to be lost.
    image = opened(broken)
    check(image.memory, bytes_of({1 + n: page(n) for n in range(16)}), set(range(17 * PAGE, 41 * PAGE)), 50 * PAGE)
    assert "bytes of the file" in image.problems[0]


def test_a_block_that_unpacks_to_more_than_it_says_is_cut(opened: Opener) -> None:
    image = opened(avml_block(0x1000, PAGE, snappy_frame(page(1) + page(2))) + avml([(0x8000, page(8))]))
    check(image.memory, bytes_of({1: page(1), 8: page(8)}), set(), 10 * PAGE)
    assert "unpacks to 8,192 bytes, but its header says 4,096" in image.problems[0]


def test_a_length_that_does_not_fit_is_reported(opened: Opener) -> None:
    image = opened(avml_block(0x1000, PAGE, snappy_frame(page(1)), length=7) + avml([(0x8000, page(8))]))
    check(image.memory, bytes_of({1: page(1), 8: page(8)}), set(), 10 * PAGE)
    assert "the length behind it is 7" in image.problems[0]


@pytest.mark.parametrize(
    ("junk", "why"),
    [
        (bytes(64), "magic"),
        (b"abc", "3 bytes are left"),
        (lime_header(0x9000, 0x9FFF, magic=0x4C4D5641, version=3) + page(9), "version is 3"),
        (lime_header(0x9000, 0x8000, magic=0x4C4D5641, version=2) + page(9), "below its start"),
        (lime_header(0, 2**64 - 1, magic=0x4C4D5641, version=2) + page(9), "longer than any memory"),
    ],
)
def test_junk_ends_the_chain_at_a_named_offset(opened: Opener, junk: bytes, why: str) -> None:
    good = avml([(0x1000, page(1))])
    image = opened(good + junk)
    check(image.memory, bytes_of({1: page(1)}), set(), 2 * PAGE)
    assert f"file offset {len(good):#x}" in image.problems[0]
    assert why in image.problems[0]


def test_images_without_a_block_to_believe_are_refused(tmp_path: Path) -> None:
    head = lime_header(0, PAGE - 1, magic=0x4C4D5641, version=2)
    frames = SNAPPY_IDENTIFIER + snappy_frame(b"x" * 4) * 80_000
    for number, (data, why) in enumerate(
        (
            (b"AVML\2\0\0\0", "8 bytes are left"),
            (lime_header(0, PAGE - 1, magic=0x4C4D5641, version=1), "version is 1"),
            (head, "no snappy stream"),
            (head + SNAPPY_IDENTIFIER, "the file ends"),
            (head + page(1), "no snappy stream"),
            (lime_header(0, 2**40, magic=0x4C4D5641, version=2) + frames, "snappy frames in"),
        )
    ):
        path = tmp_path / str(number)
        path.write_bytes(data)
        with pytest.raises(UnsupportedFormatError, match=why) as caught:
            open_image(path)
        assert "\n" not in str(caught.value)


def test_gaps_that_may_be_zeros_are_reported(opened: Opener) -> None:
    block = b"\1" + bytes((16 << 20) - 1)
    image = opened(avml([(0, block), (16 << 20, block), (48 << 20, page(1))]))
    assert "1 gap of 16 MiB in all may be RAM that AVML left out" in image.problems[0]


def test_volatility3_reads_the_same_bytes(tmp_path: Path) -> None:
    """An outside reader; it takes libsnappy, and sees one block after the other."""
    contexts = pytest.importorskip("volatility3.framework.contexts")
    physical = pytest.importorskip("volatility3.framework.layers.physical")
    if find_library("snappy") is None:
        pytest.skip("libsnappy is not installed")
    from volatility3.framework.layers import avml as theirs

    path = tmp_path / "image.avml"
    path.write_bytes(avml([(0x1000, MANY), (0x100000, MANY[::-1]), (0x4000000, page(1))]))
    memory = open_image(path).memory
    context = contexts.Context()
    context.config["file.location"] = path.as_uri()
    context.add_layer(physical.FileLayer(context, "file", "file"))
    context.config["avml.base_layer"] = "file"
    layer = theirs.AVMLLayer(context, "avml", "avml")
    seen = 0
    for start, end in memory.ranges.tolist():
        assert layer.read(start, end - start) == memory.read(start, end - start)
        seen += end - start
    assert seen == 2 * len(MANY) + PAGE


def test_the_length_of_the_stream_is_what_avml_writes() -> None:
    """convert_block in its image.rs: header, frames, and 8 bytes it seeks over."""
    data = avml([(0x1000, page(1))])
    assert struct.unpack("<Q", data[-8:])[0] == len(data) - 32 - 8
    np.testing.assert_array_equal(np.frombuffer(data[:8], "<u4"), [0x4C4D5641, 2])


@pytest.mark.parametrize("length", [b"", bytes(8)])
def test_a_header_followed_by_the_next_is_a_block_of_zeros(opened: Opener, length: bytes) -> None:
    """As AVML 0.16 and 0.17 wrote a block that holds nothing but zeros."""
    empty = lime_header(0x2000, 0x4FFF, magic=0x4C4D5641, version=2) + length
    image = opened(avml([(0x1000, page(1))]) + empty + avml([(0x5000, page(5))]))
    assert states(image.memory, 6) == "-pzzzp"
    assert image.details["blocks of zeros"] == "1"
    assert image.problems == ()


def test_looking_behind_damaged_blocks_reads_the_file_about_once(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are damaged; and what is told of them is bounded too."""
    noise = np.random.default_rng(1).bytes(FRAME)
    chunks = snappy_frame(noise) + b"\x40\x00\x00\x00"  # no type of a chunk
    count = 100
    data = b"".join(avml_block(number * 2 * FRAME, 2 * FRAME, chunks) for number in range(count))
    data += avml([(count * 2 * FRAME, page(7))])
    taken = []
    read = Mapped.__getitem__

    def counting(self: Mapped, part: slice) -> memoryview:
        found = read(self, part)
        taken.append(len(found))
        return found

    monkeypatch.setattr(Mapped, "__getitem__", counting)
    image = opened(data)
    assert len(taken) > count
    assert sum(taken) < 2 * len(data)
    assert image.memory.read(count * 2 * FRAME, PAGE) == page(7)
    assert image.memory.read(99 * 2 * FRAME, FRAME) == noise
    assert sum("is damaged or cut off at" in problem for problem in image.problems) == 64
    assert "something is wrong with 36 more AVML blocks" in image.problems
