"""Flattened streams: the file that `makedumpfile -R` would make of them, without making it."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmaforensics.errors import UnsupportedFormatError
from vmaforensics.image.formats.flattened import Flattened, open_flattened
from vmaforensics.image.open import open_image
from vmaforensics.image.source import Mapped, map_file, take

from .build import NOTES, PAGE, ZERO, Kdump, Load, elf, flat_stream, flatten, page
from .truth import bytes_of, check, states

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Opener

PAGES: dict[int, bytes | None] = {1: page(1), 2: None, 3: ZERO, 4: page(4), 70: page(70), 130: page(130)}
FILTERED = {2 * PAGE + at for at in range(PAGE)}


@pytest.mark.parametrize("record", [16, 100, 1000, 4096, 65536])
@pytest.mark.parametrize("codec", ["raw", "zlib", "lzo", "snappy", "zstd"])
def test_a_kdump_reads_the_same_in_records_of_any_size(opened: Opener, record: int, codec: str) -> None:
    image = opened(flatten(Kdump(pages=PAGES, codec=codec).build(), record))
    check(image.memory, bytes_of(PAGES), FILTERED, 131 * PAGE)
    assert states(image.memory, 6) == "-pazp-"
    assert image.problems == ()


@pytest.mark.parametrize("record", [7, 100, 1000, 65536])
def test_an_elf_core_reads_the_same_in_records_of_any_size(opened: Opener, record: int) -> None:
    loads = [Load(pa=0x1000, data=page(1), memsz=2 * PAGE), Load(pa=0x8000, data=page(8) + page(9))]
    plain, image = (opened(data) for data in (elf(loads, NOTES), flatten(elf(loads, NOTES), record)))
    check(image.memory, bytes_of({1: page(1), 8: page(8), 9: page(9)}), FILTERED, 10 * PAGE)
    assert (image.vmcoreinfo, image.cpus, image.notes) == (plain.vmcoreinfo, plain.cpus, plain.notes)


def test_what_no_record_fills_is_zero(opened: Opener) -> None:
    """As it is in the file that `makedumpfile -R` makes, which seeks over it."""
    data = elf([Load(pa=0x1000, data=page(1) + ZERO + page(3))])
    at = data.index(page(1)) + PAGE
    image = opened(flat_stream([(at + PAGE - 5, bytes(5) + data[at + PAGE :]), (0, data[: at + 9])]))
    check(image.memory, bytes_of({1: page(1), 2: ZERO, 3: page(3)}), set(), 4 * PAGE)
    assert image.problems == ()


def test_in_a_stream_cut_off_what_no_record_fills_is_absent(opened: Opener) -> None:
    data = elf([Load(pa=0x1000, data=page(1) + page(2) + page(3))])
    at = data.index(page(2))
    image = opened(flat_stream([(at + PAGE, page(3)), (0, data[:at])], end=False))
    check(image.memory, bytes_of({1: page(1), 3: page(3)}), set(range(2 * PAGE, 3 * PAGE)), 4 * PAGE)
    assert states(image.memory, 5) == "-pap-"
    assert "flattened stream is truncated" in image.problems[0]
    raw = Kdump(pages={n: page(n) for n in range(1, 9)}, codec="raw")
    whole = raw.build()
    image = opened(flat_stream([(0, whole[: -2 * PAGE]), (len(whole) - PAGE, whole[-PAGE:])], end=False))
    assert image.memory.gather(np.arange(1, 9, dtype=np.uint64) << np.uint64(12), 8)[1].tolist() == [True] * 6 + [
        False,
        True,
    ]


def test_of_records_that_overlap_the_later_one_is_read(opened: Opener) -> None:
    data = elf([Load(pa=0x1000, data=page(1) + page(2))])
    at = data.index(page(1))
    image = opened(flat_stream([(0, data), (at + 100, b"later"), (at + 98, b"last")]))
    there = page(1)[:98] + b"last" + b"ter" + page(1)[105:]
    check(image.memory, bytes_of({1: there, 2: page(2)}), set(), 3 * PAGE)
    assert "3 records of the flattened stream overlap" in image.problems[0]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 120)), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 419), st.integers(1, 100)), min_size=1, max_size=12),
    st.booleans(),
)
def test_any_records_make_the_bytes_that_writing_them_in_turn_makes(
    tmp_path_factory: pytest.TempPathFactory, places: list[tuple[int, int]], asked: list[tuple[int, int]], end: bool
) -> None:
    records = [(at, bytes([number + 1]) * size) for number, (at, size) in enumerate(places)]
    truth = bytearray(max(at + len(data) for at, data in records))
    for at, data in records:
        truth[at : at + len(data)] = data
    path = tmp_path_factory.mktemp("flat") / "stream"
    path.write_bytes(flat_stream(records, end=end))
    source, _, _ = open_flattened(path, Mapped(map_file(path)))
    assert bytes(source[:]) == truth
    for at, size in asked:
        assert bytes(source[at : at + size]) == truth[at : at + size]
        if at + size > len(truth):
            continue
        buffer, where, ok = source.fetch(np.array([at, 0], np.int64), size)
        filled = all(octet for octet in truth[at : at + size])
        assert ok[0] == (end or filled)
        if ok[0]:
            assert take(buffer, where[:1], size).tobytes() == truth[at : at + size]
        for rows, held, starts in source.spans(np.array([at], np.int64), np.array([size], np.int64)):
            for row, start in zip(rows.tolist(), starts.tolist(), strict=True):
                assert row == 0
                assert bytes(held[start : start + size]) == truth[at : at + size]
        found = bytearray(len(truth))
        for low, piece in source.pieces(at, size, 17):
            assert 0 < len(piece) <= 17
            found[low : low + len(piece)] = piece.tobytes()
        assert found[at : at + size] == truth[at : at + size]


@pytest.mark.parametrize(
    ("tail", "why"),
    [
        (b"", "without an end record"),
        (b"abc", "without an end record"),
        ((5).to_bytes(8, "big") + bytes(8), "0 bytes for offset 5"),
        ((-7).to_bytes(8, "big", signed=True) + (1).to_bytes(8, "big") + b"x", "offset -7"),
        ((2**63 - 1).to_bytes(8, "big") * 2, "bytes for offset"),
        ((0).to_bytes(8, "big") + (2**40).to_bytes(8, "big"), "inside the 1,099,511,627,776 bytes"),
    ],
)
def test_what_breaks_the_stream_off_is_named(opened: Opener, tail: bytes, why: str) -> None:
    data = Kdump(pages=PAGES).build()
    image = opened(flatten(data, end=False) + tail)
    check(image.memory, bytes_of(PAGES), FILTERED, 131 * PAGE)
    assert why in image.problems[0]


def refused(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(UnsupportedFormatError) as caught:
        open_image(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_streams_that_cannot_be_believed_are_refused(tmp_path: Path) -> None:
    good = flatten(Kdump(pages=PAGES).build())
    assert "before its first record" in refused(tmp_path / "a", good[:4100])
    assert "type (file offset 16) is 2" in refused(tmp_path / "b", good[:23] + b"\2" + good[24:])
    assert "without a record" in refused(tmp_path / "c", flat_stream([]))
    tiny = flat_stream([(at, b"x") for at in range(1 << 17)])
    assert "records in a flattened stream of 2,232,336 bytes" in refused(tmp_path / "d", tiny)


def test_a_table_that_is_mostly_hole_takes_no_memory(tmp_path: Path) -> None:
    """bitmap_blocks of 8 TiB, and one byte of a record so far out that the file has room for them."""
    data = bytearray(Kdump(pages=PAGES).build())
    data[436:440] = (1 << 31).to_bytes(4, "little")
    text = refused(tmp_path / "a", flat_stream([(0, bytes(data)), (1 << 60, b"x")]))
    assert "no record of the flattened stream fills" in text


def test_a_hole_that_an_elf_core_claims_as_memory_is_not_walked(opened: Opener) -> None:
    data = elf([Load(pa=0, data=page(1), filesz=1 << 50)])
    memory = opened(flat_stream([(0, data), (1 << 61, b"x")])).memory
    assert sum(len(piece) for _, piece in memory.chunks()) == PAGE
    assert memory.read(1 << 45, 100) == bytes(100)


def test_pages_wanted_out_of_tiny_records_stay_within_memory(opened: Opener) -> None:
    data = elf([Load(pa=0, data=b"".join(page(n) for n in range(64)))])
    image = opened(flatten(data, 9))
    got, ok = image.memory.gather(np.arange(64, dtype=np.uint64) << np.uint64(12), PAGE)
    assert ok.all()
    assert got.tobytes() == b"".join(page(n) for n in range(64))


@pytest.mark.skipif(shutil.which("makedumpfile") is None, reason="makedumpfile is not installed")
def test_makedumpfile_makes_the_same_file_of_the_stream(tmp_path: Path) -> None:
    for number, data in enumerate((Kdump(pages=PAGES).build(), elf([Load(pa=0x1000, data=page(1))], NOTES))):
        stream, out = tmp_path / f"stream{number}", tmp_path / f"out{number}"
        # A hole, and a record over another, as well.
        hole = data[:4200] + bytes(50) + data[4250:]
        records = [(4250, hole[4250:]), (10, b"overwritten"), (0, hole[:4200])]
        stream.write_bytes(flat_stream(records))
        with stream.open("rb") as source:
            subprocess.run(["makedumpfile", "-R", str(out)], stdin=source, check=True, capture_output=True)
        inside, _, _ = open_flattened(stream, Mapped(map_file(stream)))
        assert isinstance(inside, Flattened)
        assert bytes(inside[:]) == out.read_bytes() == hole
