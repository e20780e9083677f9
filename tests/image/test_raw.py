from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vmaforensics.image.formats.raw import RawMemory, Stretch
from vmaforensics.image.open import open_image
from vmaforensics.image.placed import PageState
from vmaforensics.image.source import data_in

from .build import PAGE, page
from .truth import check, pfns, states

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Opener

MIB = 1 << 20


def test_offsets_are_addresses(opened: Opener) -> None:
    data = bytes(MIB - 8192) + page(1) + page(2)
    image = opened(data)
    assert image.memory.read(MIB - 4100, 8) == data[-4100:-4092]
    assert image.memory.read(0, MIB) == data
    assert image.problems == ()
    assert states(image.memory, 258)[-4:] == "pp--"


def test_a_tail_that_is_no_whole_page_is_held_to_its_last_byte(opened: Opener) -> None:
    data = page(1) * 257 + b"tail"
    image = opened(data)
    held = dict(enumerate(data))
    check(image.memory, held, set(), len(data))
    assert image.memory.page_states(pfns(257)) == PageState.PRESENT
    assert "not a multiple of 4096" in image.memory.problems()[0]


def test_a_file_is_laid_out_anew_once_it_is_known_how_it_lies(opened: Opener) -> None:
    """Two stretches one behind the other, of which the second is cut short."""
    data = page(1) * 256 + page(2)
    memory = opened(data).memory
    assert isinstance(memory, RawMemory)
    memory.place([Stretch(0x1000, 0, MIB), Stretch(4 * MIB, MIB, 3 * PAGE)])
    assert memory.ranges.tolist() == [[0x1000, 0x1000 + MIB], [4 * MIB, 4 * MIB + 3 * PAGE]]
    assert memory.read(0x1000, PAGE) == page(1)
    assert memory.read(4 * MIB, PAGE) == page(2)
    assert memory.page_states(pfns(0, 1, 256, 257, 1024, 1025, 1026, 1027)).tolist() == [3, 0, 0, 3, 0, 2, 2, 3]
    assert memory.frame_counts().tolist() == [257, 0, 2, 0]


def test_a_file_may_be_moved_as_a_whole(opened: Opener) -> None:
    """What comes to lie below 0 is left out."""
    memory = opened(page(1) + page(2) * 256).memory
    assert isinstance(memory, RawMemory)
    memory.move(2 * PAGE)
    assert (memory.shift, memory.read(2 * PAGE, PAGE)) == (2 * PAGE, page(1))
    memory.move(-PAGE)
    assert (memory.shift, memory.read(0, PAGE)) == (-PAGE, page(2))


def test_large_holes_of_a_file_are_passed_over_by_searches(tmp_path: Path) -> None:
    path = tmp_path / "sparse.raw"
    with path.open("wb") as out:
        out.truncate(64 << 20)
        for at in (8 << 20, (8 << 20) + 65536, 40 << 20):
            out.seek(at)
            out.write(b"\1" * 4096)
    found = data_in(path, 64 << 20)
    if found == [(0, 64 << 20)]:
        pytest.skip("a file system that does not tell holes")
    image = open_image(path)
    pieces = list(image.memory.chunks(1 << 20))
    assert sum(len(piece) for _, piece in pieces) == sum(end - start for start, end in found) < 8 << 20
    assert [pa for pa, piece in pieces if piece[0] == 1] == [8 << 20, 40 << 20]
    assert image.memory.read(16 << 20, 16) == bytes(16)  # a hole is held all the same
    assert data_in(tmp_path, 7) == [(0, 7)]  # nothing that can be asked


def test_a_file_without_data_is_one_hole(tmp_path: Path) -> None:
    path = tmp_path / "empty.raw"
    with path.open("wb") as out:
        out.truncate(4 << 20)
    assert list(open_image(path).memory.chunks()) == [] or data_in(path, 4 << 20) == [(0, 4 << 20)]
