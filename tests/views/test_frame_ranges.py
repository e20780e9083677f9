"""Free blocks are left out where the kernel's own lists prove them, and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from handmade import LINUX, Machine, circular_list
from support import RESTING

from vmaforensics.image.open import open_image
from vmaforensics.kernel.find import find_kernel
from vmaforensics.views.pages.frame_kinds import FrameKind, classify_frames
from vmaforensics.views.pages.frame_ranges import batches, described, free_runs
from vmaforensics.views.pages.page_types import PageReader
from vmaforensics.views.pages.vmemmap import vmemmap_pages

if TYPE_CHECKING:
    from support import Sample

    from vmaforensics.kernel.kernel import Kernel

STRUCTS = LINUX | {
    "page": "flags:u64 compound_head@8:u64 lru@8:list_head buddy_list@8:list_head mapping:* index:u64 private:u64 "
    "page_type:u32 _refcount@52:atomic_t memcg_data@56:u64",
    "free_area": "free_list:list_head[3] nr_free:u64",
    "zone": "per_cpu_pageset:*per_cpu_pages free_area:free_area[11]",
    "per_cpu_pages": "lists:list_head[12]",
    "pglist_data": "node_zones:zone[2]",
}
CONSTANTS = {"PGTY_buddy": 0xF0, "PG_head": 6}
BLOCK, BLOCKS = 1 << 10, 32  # frames of a block; blocks of RAM, 128 MiB of it
FREE = range(4, BLOCKS)


class FreeMachine(Machine):
    """128 MiB of RAM whose blocks from the fifth on are free and on a list; the struct pages are in the image alone."""

    def __init__(self) -> None:
        super().__init__(STRUCTS, CONSTANTS, pages=1024)
        self.pages = self.room(BLOCK * BLOCKS * 64, 4096)
        self.symbols["vmemmap_base"] = self.room(8)
        self.word(self.symbols["vmemmap_base"], self.pages)
        self.zone = self.symbols["contig_page_data"] = self.put("pglist_data")
        for block in range(BLOCKS):
            self.set("page", self.page(block), "page_type", 0xF0 << 24 if block in FREE else 0xFFFFFFFF)
            self.set("page", self.page(block), "private", 10)
        self.head = self.zone + 8 + 10 * 56 + 16  # free_area[10].free_list[1] of the first zone
        self.link(*FREE)

    def page(self, block: int) -> int:
        """Address of the first struct page of a block."""
        return self.pages + block * BLOCK * 64

    def link(self, *blocks: int) -> None:
        """Put these blocks on the list."""
        circular_list(self, self.head, *(self.page(block) + 8 for block in blocks))

    def kernel(self) -> Kernel:
        kernel = super().kernel()
        kernel.memory.ranges = np.array([[0, BLOCK * BLOCKS << 12]], np.uint64)
        return kernel

    def found(self) -> list[list[int]]:
        """First and last block of each run, behind the last."""
        runs: list[list[int]] = (free_runs(self.kernel()) // np.uint64(BLOCK)).tolist()
        return runs


def test_blocks_of_a_list_are_a_run_whatever_their_order_on_it() -> None:
    machine = FreeMachine()
    assert machine.found() == [[4, 32]]
    machine.link(*reversed(FREE))
    assert machine.found() == [[4, 32]]
    kernel = machine.kernel()
    assert list(batches(kernel, described(PageReader(kernel)))) == [(0, 4 * BLOCK)]
    kinds = classify_frames(kernel)
    assert kinds.all_of(FrameKind.FREE).tolist() == list(range(4 * BLOCK, BLOCKS * BLOCK))
    assert kinds.count(FrameKind.FREE) == (BLOCKS - 4) * BLOCK
    assert len(kinds.kinds) == kinds.count(FrameKind.KERNEL) == 4 * BLOCK
    frames = np.array([4 * BLOCK - 1, 4 * BLOCK, BLOCKS * BLOCK - 1, BLOCKS * BLOCK], np.uint64)
    assert kinds.of(frames).tolist() == [FrameKind.KERNEL, FrameKind.FREE, FrameKind.FREE, FrameKind.UNKNOWN]


def test_a_block_that_no_list_proves_is_none() -> None:
    machine = FreeMachine()
    alone = machine.page(10) + 8
    circular_list(machine, alone)  # it says that it is free, and its neighbours lead to it; it leads nowhere
    assert machine.found() == [[11, 32]]  # 4 to 9 are less than is worth it
    circular_list(machine, *(machine.page(block) + 8 for block in FREE))  # a ring of their own, without a head
    assert machine.found() == []


@pytest.mark.parametrize(("member", "value"), [("private", 9), ("page_type", 0xFFFFFFFF)])
def test_a_block_whose_first_page_says_otherwise_is_none(member: str, value: int) -> None:
    machine = FreeMachine()
    machine.set("page", machine.page(15), member, value)
    assert machine.found() == [[16, 32]]


def test_a_kernel_without_such_lists_has_no_runs() -> None:
    machine = FreeMachine()
    del machine.symbols["contig_page_data"]
    assert machine.found() == []
    machine = FreeMachine()
    machine.types = type(machine.types)({**STRUCTS, "zone": "per_cpu_pageset:*per_cpu_pages"}, CONSTANTS)
    assert machine.found() == []


def test_pieces_of_vmemmap_are_left_out_where_all_of_their_frames_are() -> None:
    kernel = FreeMachine().kernel()
    reader = PageReader(kernel)
    free = np.array([[64, 100], [130, 4 * BLOCK + 64]], np.uint64)
    given = [piece.first for piece in vmemmap_pages(kernel, int(reader.base), reader.size, free)]
    every = [piece.first for piece in vmemmap_pages(kernel, int(reader.base), reader.size)]
    left_out = np.setdiff1d(np.concatenate(every), np.concatenate(given)).tolist()
    assert left_out == list(range(192, 4 * BLOCK + 64, 64))


@pytest.mark.parametrize("sample", RESTING, ids=lambda sample: sample.image_path.parent.name)
def test_frames_are_of_the_same_kinds_when_every_struct_page_is_read(sample: Sample) -> None:
    kernel = find_kernel(open_image(sample.image_path))
    kinds = classify_frames(kernel)
    kernel.forget()
    kernel._shared[free_runs] = np.zeros((0, 2), np.uint64)
    every = classify_frames(kernel)
    assert not len(every.free)
    frames = every.pfns(np.arange(len(every.kinds)))
    assert np.array_equal(kinds.of(frames), every.kinds)
