from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from vmaforensics.errors import UnsupportedFormatError

from .build import PAGE, lime, lime_header, page
from .truth import bytes_of, check, states

if TYPE_CHECKING:
    from .conftest import Opener


def test_ranges_end_inclusively_and_gaps_are_not_ram(opened: Opener) -> None:
    image = opened(lime([(0x1000, page(1) + page(2)), (0x9000, page(9))]))
    check(image.memory, bytes_of({1: page(1), 2: page(2), 9: page(9)}), set(), 10 * PAGE)
    assert states(image.memory, 11) == "-pp------p-"
    assert image.details == {"ranges": "2"}
    assert image.problems == ()


def test_ranges_that_are_no_whole_pages_are_held_to_the_byte(opened: Opener) -> None:
    image = opened(lime([(0, page(1, 0xC00)), (0x2000, page(2))]))
    check(image.memory, dict(enumerate(page(1, 0xC00))) | bytes_of({2: page(2)}), set(), 3 * PAGE)
    assert states(image.memory, 3) == "p-p"


def test_ranges_out_of_order_are_sorted(opened: Opener) -> None:
    image = opened(lime([(0x5000, page(5)), (0x1000, page(1))]))
    check(image.memory, bytes_of({1: page(1), 5: page(5)}), set(), 6 * PAGE)


def test_overlapping_ranges_are_read_from_the_lower_and_said_to_overlap(opened: Opener) -> None:
    image = opened(lime([(0x2000, page(2) + page(3)), (0x1000, page(4) + page(5))]))
    check(image.memory, bytes_of({1: page(4), 2: page(5), 3: page(3)}), set(), 4 * PAGE)
    assert "overlap" in image.problems[0]


def test_a_truncated_last_range_is_absent_from_there_on(opened: Opener) -> None:
    image = opened(lime([(0x1000, page(1)), (0x4000, page(4) + page(5))])[: -PAGE - 10])
    held = bytes_of({1: page(1)}) | {0x4000 + at: octet for at, octet in enumerate(page(4)[:-10])}
    check(image.memory, held, set(range(0x4000, 0x6000)), 6 * PAGE)
    assert states(image.memory, 6) == "-p--aa"
    assert "truncated" in image.problems[0]
    assert "4,106 bytes" in image.problems[0]


@pytest.mark.parametrize(
    ("junk", "why"),
    [
        (bytes(64), "magic"),
        (b"abc", "3 bytes are left"),
        (lime_header(0x9000, 0x9FFF, version=2) + page(9), "version is 2"),
        (lime_header(0x9000, 0x8000) + page(9), "below its start"),
        (lime_header(0, 2**64 - 1) + page(9), "longer than any memory"),
    ],
)
def test_junk_ends_the_chain_at_a_named_offset(opened: Opener, junk: bytes, why: str) -> None:
    good = lime([(0x1000, page(1))])
    image = opened(good + junk)
    check(image.memory, bytes_of({1: page(1)}), set(), 2 * PAGE)
    assert f"file offset {len(good):#x}" in image.problems[0]
    assert why in image.problems[0]


@pytest.mark.parametrize("start", [lime_header(0, 0, version=3), lime_header(5, 4), b"EMiL"])
def test_a_first_header_that_cannot_be_believed_is_refused(opened: Opener, start: bytes) -> None:
    with pytest.raises(UnsupportedFormatError, match="LiME"):
        opened(start)


def test_gaps_that_avml_may_have_left_out_are_reported(opened: Opener) -> None:
    block = bytes(16 << 20)
    image = opened(lime([(0, block), (16 << 20, block), (48 << 20, page(1)), (0x3800000, page(2))]))
    assert "1 gap of 16 MiB in all may be RAM that AVML left out" in image.problems[0]


FILL = b"LEMON FAIL READ " * (PAGE // 16)


@pytest.mark.parametrize("text", [b"LEMON FAIL READ ", b"QUALCOMM SECURE ", b"TENSOR PROTECTED"])
def test_pages_of_lemons_filler_are_absent(opened: Opener, text: bytes) -> None:
    fill = text * (PAGE // 16)
    data = page(1) + fill + page(3) + fill + fill + page(6)
    image = opened(lime([(0x1000, data), (0x10000, fill)]))
    filler = {n * PAGE + at for n in (2, 4, 5, 16) for at in range(PAGE)}
    check(image.memory, bytes_of({1: page(1), 3: page(3), 6: page(6)}), filler, 18 * PAGE)
    assert states(image.memory, 17) == "-papaap---------a"
    assert image.problems == ()
    assert "4 pages absent: LEMON could not read them" in image.memory.problems()[0]
    assert "first: page frame 0x2" in image.memory.problems()[0]


def test_a_page_that_holds_lemons_text_among_other_things_is_memory(opened: Opener) -> None:
    pages = {1: FILL[:-1] + b"!", 2: FILL[:16] + page(2)[16:], 3: page(3)[:-16] + FILL[:16], 4: FILL[1:] + b"L"}
    image = opened(lime([(0x1000, b"".join(pages.values()))]))
    check(image.memory, bytes_of(pages), set(), 6 * PAGE)
    assert image.memory.problems() == ()


def test_a_filled_last_page_of_a_range_may_be_cut(opened: Opener) -> None:
    image = opened(lime([(0x1000, page(1) + FILL[:0xC00])]))
    check(image.memory, bytes_of({1: page(1)}), set(range(0x2000, 0x2C00)), 4 * PAGE)


def test_a_header_followed_by_the_next_is_a_range_of_zeros(opened: Opener) -> None:
    """As AVML 0.16 and 0.17 wrote a block that holds nothing but zeros."""
    empty = lime_header(0x2000, 0x4FFF)
    image = opened(lime([(0x1000, page(1))]) + empty + lime([(0x5000, page(5)), (0x9000, page(9))]))
    assert states(image.memory, 10) == "-pzzzp---p"
    data, ok = image.memory.gather(np.array([0x2000, 0x4FF8, 0x4FFC, 0x5000], np.uint64), 8)
    assert ok.all()
    assert not data[:2].any()
    assert bytes(data[2]) == bytes(4) + page(5)[:4]
    assert bytes(data[3]) == page(5)[:8]
    assert image.details == {"ranges": "4", "ranges of zeros": "1"}
    assert image.memory.frame_counts().tolist() == [3, 3, 0, 0]
    assert image.problems == ()


def test_memory_that_begins_with_a_header_is_memory(opened: Opener) -> None:
    """An image file in the page cache: its headers are data where the chain goes on behind them."""
    inner = (lime_header(0x9000, 0x9FFF) + page(1))[:PAGE]
    image = opened(lime([(0x1000, inner), (0x5000, page(5))]))
    check(image.memory, bytes_of({1: inner, 5: page(5)}), set(), 6 * PAGE)
    assert image.problems == ()
