"""Zeros up to the end of a range of a LiME file."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import WHOLE, Sample

from vmaforensics.image.formats.lemon import LemonMemory
from vmaforensics.image.open import open_image
from vmaforensics.image.placed import PageState
from vmaforensics.kernel.find import find_kernel
from vmaforensics.views.pages.unacquired import drop_unacquired, zeros_from

if TYPE_CHECKING:
    from pathlib import Path

PAGE = 4096


def lime(path: Path, ranges: list[tuple[int, bytes]]) -> LemonMemory:
    path.write_bytes(
        b"".join(struct.pack("<IIQQ8x", 0x4C694D45, 1, pa, pa + len(data) - 1) + data for pa, data in ranges)
    )
    memory = open_image(path).memory
    assert isinstance(memory, LemonMemory)
    return memory


def test_zeros_are_counted_back_from_the_end_of_a_range(tmp_path: Path) -> None:
    full = b"x" * PAGE
    memory = lime(tmp_path / "a", [(0x1000, full + bytes(PAGE) + full + bytes(3 * PAGE)), (0x9000, full)])
    assert zeros_from(memory, 0x1000, 0x7000) == 0x4000
    assert zeros_from(memory, 0x9000, 0xA000) == 0xA000


def test_what_is_dropped_is_ram_that_is_not_in_the_dump(tmp_path: Path) -> None:
    memory = lime(tmp_path / "a", [(0x1000, b"x" * 6 * PAGE), (0x9000, b"y" * PAGE)])
    memory.drop(0x4000, 0x7000)
    states = memory.page_states(np.arange(0, 11, dtype=np.uint64)).tolist()
    present, absent, none = PageState.PRESENT, PageState.ABSENT, PageState.NOT_RAM
    assert states == [none, *[present] * 3, *[absent] * 3, none, none, present, none]
    assert memory.gather(np.array([0x3FF8, 0x4000, 0x9000], np.uint64), 8)[1].tolist() == [True, False, True]


@pytest.mark.parametrize("zeros", [0, 100 << 20])
def test_what_the_kernel_had_in_the_zeros_was_not_acquired(whole_kernel: Sample, tmp_path: Path, zeros: int) -> None:
    """A whole guest as a LiME file, with and without the last 100 MiB of its RAM; it has slabs everywhere."""
    if whole_kernel not in WHOLE:
        pytest.skip("an excerpt has no pages of its own behind the end")
    memory = whole_kernel.analysis.image.memory
    start, end = 0x100000, int(memory.ranges[0, 1])
    path = tmp_path / "guest.lime"
    with path.open("wb") as stream:
        stream.write(struct.pack("<IIQQ8x", 0x4C694D45, 1, start, end - 1))
        for pa, piece in memory.chunks():
            low, high = max(pa, start), min(pa + len(piece), end - zeros)
            if low < high:
                stream.seek(32 + low - start)
                stream.write(piece[low - pa : high - pa].tobytes())
        stream.truncate(32 + end - start)
    kernel = find_kernel(open_image(path))
    before = list(kernel.identity.problems)
    drop_unacquired(kernel)
    said = [text for text in kernel.identity.problems if text not in before]
    assert [("were not acquired" in text) for text in said] == [True] * (zeros > 0)
