from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from vmaforensics.errors import MemoryReadError
from vmaforensics.image.joined import join

from .build import PAGE, Kdump, Load, elf, page
from .truth import pfns

if TYPE_CHECKING:
    from .conftest import Opener


def test_no_rows_and_no_bytes_are_fine(opened: Opener) -> None:
    memory = opened(elf([Load(pa=0, data=page(1))])).memory
    data, ok = memory.gather(pfns(), 8)
    assert data.shape == (0, 8)
    assert ok.shape == (0,)
    data, ok = memory.gather(pfns(5, 1 << 60), 0)
    assert data.shape == (2, 0)
    assert memory.read(0, 0) == b""


def test_rows_do_not_wrap_past_the_last_address(opened: Opener) -> None:
    memory = opened(elf([Load(pa=0, data=page(1))])).memory
    data, ok = memory.gather(pfns(2**64 - 8, 2**64 - 1, 2**64 - PAGE, 0), 16)
    assert ok.tolist() == [False, False, False, True]
    assert not data[:3].any()


@pytest.mark.parametrize(("pa", "size"), [(-1, 8), (2**64, 8), (2**64 - 4, 8), (2**64 - PAGE, 2 * PAGE)])
def test_addresses_that_do_not_exist_are_errors(opened: Opener, pa: int, size: int) -> None:
    memory = opened(elf([Load(pa=0, data=page(1))])).memory
    with pytest.raises(MemoryReadError):
        memory.read(pa, size)


def test_a_gather_of_more_rows_than_a_batch_is_whole(opened: Opener) -> None:
    pages = {n: page(n) for n in range(40)}
    whole = b"".join(pages.values())
    rows = np.random.default_rng(1).integers(0, len(whole) - 8, 200_000).astype(np.uint64)
    expected = np.frombuffer(whole, np.uint8)[rows[:, None].astype(np.int64) + np.arange(8)]
    for image in (opened(elf([Load(pa=0, data=whole)])), opened(Kdump(pages=pages).build())):
        data, ok = image.memory.gather(rows, 8)
        assert ok.all()
        np.testing.assert_array_equal(data, expected)


def test_groups_of_pages_are_joined_as_they_lie_in_memory(opened: Opener) -> None:
    """Scattered, one behind the other, overlapping, partly or wholly missing; in one batch and in many."""
    pages = {n: page(n + 1) for n in range(200)} | {n: bytes(PAGE) for n in range(200, 300)}
    lacking = np.uint64(1 << 40)
    frames = np.array([3, 4, 5, 9, 7, *range(20, 90), *range(200, 300), 1 << 28, 1 << 28, 2, 1 << 28], np.uint64)
    bounds = np.array([[0, 3], [2, 5], [5, 75], [71, 80], [75, 175], [175, 177], [176, 179]])
    held = [pages.get(int(pfn)) for pfn in frames]
    memories = [opened(elf([Load(pa=0, data=b"".join(pages.values()))])).memory]
    memories.append(opened(Kdump(pages=pages).build()).memory)
    for memory in memories:
        for batch in (memory.batch, 40):
            memory.batch = batch
            pas = np.where(frames < 1 << 28, frames * np.uint64(PAGE), lacking)
            joined = list(join(memory, pas, PAGE, bounds))
            for (raw, lacks, zero), (start, stop) in zip(joined, bounds.tolist(), strict=True):
                wanted = held[start:stop]
                assert lacks == wanted.count(None)
                assert raw == (b"" if lacks == stop - start else b"".join(one or bytes(PAGE) for one in wanted))
                assert not zero or not any(raw)
    memory = memories[0]
    memory.batch = 1 << 16
    zeros = [zero for _, _, zero in join(memory, pas, PAGE, bounds)]
    assert zeros == [False] * 4 + [True] + [False] * 2


def test_a_trace_records_every_page_asked_for(opened: Opener) -> None:
    memory = opened(elf([Load(pa=0x1000, data=page(1) * 8)])).memory
    memory.read(0x1000, 8)
    assert memory.traced().tolist() == []
    memory.start_trace()
    assert memory.traced().tolist() == []
    memory.gather(pfns(0x2FFC, 0x5000, 0x5008, 0x100), 8)
    memory.read(0x7000, 8)
    list(memory.chunks())
    memory.page_states(pfns(8))
    assert memory.traced().tolist() == [0, 2, 3, 5, 7]
    memory.start_trace()
    assert memory.traced().tolist() == []


def test_searches_may_be_left_out_of_a_trace(opened: Opener) -> None:
    memory = opened(elf([Load(pa=0x1000, data=page(1) * 8)])).memory
    memory.start_trace()
    with memory.untraced():
        memory.read(0x1000, 8 * PAGE)
    memory.touch(0x2FFF, 2)
    assert memory.traced().tolist() == [2, 3]


def test_what_a_search_has_passed_is_let_go_of(opened: Opener) -> None:
    memory = opened(elf([Load(pa=0, data=page(1) + page(2)), Load(pa=4 * PAGE, data=page(3))])).memory
    passed: list[None] = []
    memory.let_go = lambda: passed.append(None)
    pieces = [(pa, bytes(piece)) for pa, piece in memory.scan(PAGE)]
    assert len(passed) == len(pieces)
    assert b"".join(piece for _, piece in pieces) == page(1) + page(2) + page(3)
