"""Owners of frames, code that has none, anonymous pages without a mapping, and reserved pages, made by hand.

A machine of 64 frames: the kernel's page tables at frames 1 to 6, its struct pages from frame 8 on, everything mapped
by the direct map; frame 30 is mapped in vmalloc space too, frame 31 there and executable.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from handmade import BASE, CONSTANTS, LINUX, Machine
from tamper.frame_edits import FULL

from vmaforensics.errors import KernelNotFoundError
from vmaforensics.views.descriptors.holders import HeldFrames
from vmaforensics.views.frames import owners as owners_of_frames
from vmaforensics.views.frames.buffers import find_buffer_code
from vmaforensics.views.frames.frames import pages_cleared
from vmaforensics.views.frames.owners import account_for
from vmaforensics.views.frames.pointers import find_pointers, variable_frames
from vmaforensics.views.frames.reserved import count_reserved
from vmaforensics.views.frames.stacks import stack_frames
from vmaforensics.views.frames.unmapped import find_unmapped
from vmaforensics.views.frames.unowned import find_code, looks_random, unowned_frames
from vmaforensics.views.pages.frame_kinds import FrameKind, classify_frames
from vmaforensics.views.pages.page_types import PageReader

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

PAGE = 4096
STRUCTS = LINUX | {
    "page": "flags:u64 compound_head:* mapping:* index:u64 private:u64 rest:u64 page_type:u32 _refcount@52:atomic_t "
    "lru@8:list_head last@56:u64",
    "per_cpu_pages": "count:i32 lists@16:list_head[3]",
    "zone": "per_cpu_pageset:* zone_start_pfn:u64 spanned_pages:u64 managed_pages:atomic64_t",
    "pglist_data": "node_zones:zone[2]",
    "folio_batch": "nr:u8 folios@8:*[15]",
    "cpu_fbatches": "lru_add:folio_batch",
}
FLAGS = {"PG_lru": 5, "PG_reserved": 13, "PG_head": 6, "PG_swapcache": 10, "PG_swapbacked": 17}
TYPES = {"PGTY_buddy": 0xF0, "PGTY_offline": 0xF1, "PGTY_table": 0xF2, "PGTY_hugetlb": 0xF4, "PGTY_slab": 0xF5}
PRESENT, NX, LARGE = 0x63, 1 << 63, 1 << 7
RESERVED = 1 << 13
VMEMMAP = 8  # frame


class Frames:
    """The machine; frames that nothing is said of are allocated and unmarked."""

    def __init__(self, **constants: int) -> None:
        self.machine = Machine(STRUCTS, FLAGS | TYPES | constants)
        self.machine.room(16 * PAGE - PAGE, PAGE)  # page tables and struct pages
        variables = self.machine.room(64)
        self.machine.word(variables, BASE + VMEMMAP * PAGE)
        lists = self.machine.put("per_cpu_pages")
        for place in range(3):
            head = self.machine.at("per_cpu_pages", lists, "lists") + 16 * place
            self.machine.word(head, head)
            self.machine.word(head + 8, head)
        self.node = self.machine.put("pglist_data")
        self.machine.set("zone", self.node, "per_cpu_pageset", lists)
        self.machine.set("zone", self.node, "spanned_pages", 64)
        self.machine.symbols |= {"vmemmap_base": variables, "contig_page_data": self.node}
        for pfn in range(64):
            self.mark(pfn, page_type=0xFFFFFFFF, refcount=1)
        # Top level, then direct map and vmalloc: index 273 and 402 of the top, first of all below.
        self.entry(1, 273, 2, PRESENT)
        self.entry(2, 0, 3, PRESENT)
        self.entry(3, 0, 0, PRESENT | LARGE | NX)
        self.entry(1, 402, 4, PRESENT)
        self.entry(4, 0, 5, PRESENT)
        self.entry(5, 0, 6, PRESENT)
        self.entry(6, 0, 30, PRESENT | NX)
        self.entry(6, 2, 31, PRESENT)

    def entry(self, table: int, slot: int, frame: int, bits: int) -> None:
        """An entry of a page table."""
        self.machine.word(BASE + table * PAGE + 8 * slot, frame << 12 | bits)

    def page(self, pfn: int) -> int:
        """Address of a struct page."""
        return BASE + VMEMMAP * PAGE + 64 * pfn

    def mark(self, pfn: int, **members: int) -> None:
        """Write members of a struct page."""
        for name, value in members.items():
            path = {"refcount": "_refcount.counter"}.get(name, name)
            self.machine.set("page", self.page(pfn), path, value)

    def fill(self, pfn: int, data: bytes) -> None:
        """Write into a frame."""
        self.machine.write(BASE + pfn * PAGE, data)

    def kernel(self) -> Kernel:
        """The kernel; its page tables are known."""
        kernel = self.machine.kernel()
        kernel.root = PAGE
        return kernel


NONE = np.zeros(0, np.uint64)


def pfns(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(numbers, np.uint64)


def test_each_owner_takes_what_no_mark_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners_of_frames, "table_frames", lambda _: pfns(35, 40))
    frames = Frames()
    frames.mark(40, page_type=TYPES["PGTY_slab"] << 24)
    frames.mark(41, flags=RESERVED)
    kernel = frames.kernel()
    found = account_for(
        kernel, classify_frames(kernel), mapped=pfns(32, 40), tables=pfns(33), kept=pfns(34, 41, 1 << 40)
    )
    assert found.whole
    assert found.kinds.listed
    owners = {
        FrameKind.KERNEL_TABLE: [1, 2, 3, 4, 5, 6],
        FrameKind.VMALLOC: [30, 31],
        FrameKind.MAPPED: [32],
        FrameKind.PAGE_TABLE: [33],
        FrameKind.KEPT: [34],
        FrameKind.SWAP_TABLE: [35],
        FrameKind.SLAB: [40],
        FrameKind.RESERVED: [41],
    }
    for kind, expected in owners.items():
        assert np.flatnonzero(found.kinds.kinds == kind).tolist() == expected, kind.label
    assert np.flatnonzero(found.executable).tolist() == [31]
    assert (found.kinds.kinds == FrameKind.KERNEL).sum() == 64 - 14


def test_without_the_kernels_page_tables_nothing_can_be_accounted_for() -> None:
    kernel = Frames().machine.kernel()
    with pytest.raises(KernelNotFoundError):
        account_for(kernel, classify_frames(kernel), mapped=NONE, tables=NONE, kept=NONE)


def test_code_is_found_with_its_run_and_its_first_bytes() -> None:
    frames = Frames()
    frames.fill(45, FULL)
    frames.fill(46, bytes(64) + FULL[: PAGE - 64])
    frames.fill(31, FULL)  # the kernel's own
    frames.mark(44, flags=RESERVED)
    frames.mark(48, flags=RESERVED)
    kernel = frames.kernel()
    accounted = account_for(kernel, classify_frames(kernel), mapped=NONE, tables=NONE, kept=NONE)
    looked = find_code(kernel, unowned_frames(kernel, PageReader(kernel), accounted))
    assert looked.code.pfn.tolist() == [45, 46]
    assert looked.code.first.tolist() == [45, 45]
    assert looked.code.count.tolist() == [3, 3]
    assert looked.code.offset.tolist() == [0, 64]
    assert looked.code.data[1].tobytes() == FULL[:16]
    assert (looked.unread, looked.left_out) == (0, 0)


def test_code_that_is_not_in_the_image_is_counted() -> None:
    frames = Frames()
    frames.fill(45, FULL)
    frames.machine.drop(BASE + 45 * PAGE)
    looked = find_code(frames.kernel(), pfns(44, 45))
    assert (len(looked.code), looked.frames, looked.unread) == (0, 2, 1)


def test_frames_without_a_reference_are_allocated_only_behind_one_that_has_one() -> None:
    """Of 48 to 51, one allocation of four pages, only the first has a reference."""
    frames = Frames()
    frames.mark(47, flags=RESERVED)
    for pfn in (49, 50, 51, 53, 55, 56, 57):
        frames.mark(pfn, refcount=0)
    frames.mark(41, flags=RESERVED)
    frames.mark(42, refcount=0)
    kernel = frames.kernel()
    accounted = account_for(kernel, classify_frames(kernel), mapped=NONE, tables=NONE, kept=NONE)
    found = unowned_frames(kernel, PageReader(kernel), accounted).tolist()
    assert [pfn for pfn in found if 40 <= pfn < 60] == [40, 43, 44, 45, 46, 48, 49, 50, 51, 52, 53, 54, 55, 58, 59]


def test_whether_the_lists_of_free_pages_could_be_read_is_known() -> None:
    frames = Frames()
    frames.machine.set("zone", frames.node, "per_cpu_pageset", 0)
    assert not classify_frames(frames.kernel()).listed


def test_pointers_are_found_by_address_and_by_struct_page() -> None:
    frames = Frames()
    at = frames.machine.room(64)
    frames.mark((at - BASE) // PAGE, page_type=TYPES["PGTY_slab"] << 24)
    frames.machine.word(at, BASE + 45 * PAGE + 0x10)
    frames.machine.word(at + 16, frames.page(46))
    frames.machine.word(at + 24, 0x100 << 32 | 0x200)  # a length and an offset
    frames.machine.word(at + 40, BASE + 47 * PAGE)  # behind the last of them
    frames.machine.word(at + 48, frames.page(45) + 8)  # in a struct page
    frames.machine.word(frames.page(50) + 8, frames.page(45))  # links of pages do not count
    kernel = frames.kernel()
    found = find_pointers(kernel, PageReader(kernel), classify_frames(kernel), pfns(45, 46))
    assert found.pfn.tolist() == [45, 46]
    assert found.pa.tolist() == [at - BASE, at + 16 - BASE]
    assert found.piece.tolist() == [False, True]


ANON = 0xFFFF_8880_0000_5001


def test_anonymous_pages_without_a_mapping_name_who_holds_them() -> None:
    frames = Frames()
    for pfn in range(40, 47):
        frames.mark(pfn, mapping=ANON, flags=1 << FLAGS["PG_lru"])
    frames.mark(41, page_type=0)  # counts a mapping
    frames.mark(42, refcount=0)  # being freed
    frames.mark(43, flags=1 << FLAGS["PG_head"])  # a large folio
    batch = frames.machine.put("cpu_fbatches", {"lru_add.nr": 1, "lru_add.folios": [frames.page(44)]})
    frames.machine.symbols["cpu_fbatches"] = batch
    frames.fill(46, FULL)
    kernel = frames.kernel()
    held = HeldFrames.of(pfn=[10, 45], holder=[2, 2])
    rows, left_out = find_unmapped(kernel, PageReader(kernel), classify_frames(kernel), mapped=pfns(40), held=held)
    assert rows.pfn.tolist() == [44, 45, 46]
    assert rows.passing.tolist() == [True, False, False]
    assert rows.held.tolist() == [-1, 1, -1]
    assert not rows.passed.any()
    assert rows.code.tolist() == [False, False, True]
    assert left_out == 0


def test_reserved_frames_are_those_that_the_allocator_never_got() -> None:
    frames = Frames()
    for pfn in range(20):
        frames.mark(pfn, flags=RESERVED)
    frames.machine.set("zone", frames.node, "managed_pages", 44)
    kernel = frames.kernel()
    assert count_reserved(kernel, PageReader(kernel)) == (20, 20, True)
    frames.mark(50, flags=RESERVED)
    kernel = frames.kernel()
    assert count_reserved(kernel, PageReader(kernel)) == (21, 20, True)
    frames.machine.drop(frames.page(50))
    kernel = frames.kernel()
    assert not count_reserved(kernel, PageReader(kernel)).whole


@pytest.mark.parametrize("bit", [64, -1])
def test_a_flag_that_no_word_has_room_for_is_not_looked_for(bit: int) -> None:
    frames = Frames(PG_reserved=bit)
    kernel = frames.kernel()
    assert not count_reserved(kernel, PageReader(kernel)).whole


def test_code_in_buffers_and_in_vmalloc_is_found_with_who_holds_it() -> None:
    frames = Frames()
    for pfn in (30, 31, 40, 41, 42, 43):
        frames.fill(pfn, FULL)
    for pfn in (42, 43):  # of files: one was cut off from its own
        frames.mark(pfn, flags=1 << FLAGS["PG_lru"])
    frames.mark(43, mapping=BASE + 0x100)
    kernel = frames.kernel()
    held = HeldFrames.of(pfn=[40, 41, 42, 43], holder=[0, 0, 1, 1])
    accounted = account_for(kernel, classify_frames(kernel), mapped=pfns(41), tables=NONE, kept=held.pfn)
    found = find_buffer_code(kernel, accounted, mapped=pfns(41), held=held, stacks=NONE)
    assert found.code.pfn.tolist() == [30, 40, 42]  # 31 may be executed, 41 is mapped, 43 is its file's
    assert found.held.tolist() == [-1, 0, 2]
    assert found.areas.end.tolist() == [0, 0, 0]
    others = find_buffer_code(kernel, accounted, mapped=pfns(41), held=held, stacks=pfns(30, 42))
    assert others.code.pfn.tolist() == [40]


def test_frames_that_look_encrypted_are_told_unless_a_variable_leads_to_their_run() -> None:
    frames = Frames()
    random = np.random.default_rng(7)
    for pfn in (40, 41, 42, 44, 45):
        frames.fill(pfn, random.bytes(PAGE))
    frames.fill(46, (b"written in plain words, " * 200)[:PAGE])
    kernel = frames.kernel()
    looked = find_code(kernel, pfns(*range(40, 48)))
    assert looked.random.tolist() == [40, 41, 42, 44, 45]
    assert len(looked.code) == 0
    image = frames.machine.room(PAGE, PAGE)  # of the kernel: a variable in it leads to the second run
    frames.machine.word(image + 8, BASE + 44 * PAGE)
    frames.machine.symbols |= {"_etext": image, "_end": image + PAGE - 1}
    kernel = frames.kernel()
    reader = PageReader(kernel)
    assert variable_frames(kernel).tolist() == [(image - BASE) // PAGE]
    found = find_pointers(kernel, reader, classify_frames(kernel), looked.random, variable_frames(kernel))
    assert found.pfn.tolist() == [44]


@pytest.mark.parametrize(("content", "expected"), [
    (np.random.default_rng(1).bytes(PAGE), True),
    (zlib.compress(np.random.default_rng(2).bytes(PAGE))[:PAGE], True),
    (FULL, False),
    (bytes(PAGE), False),
    (bytes(range(32, 128)) * 43, False),
    (np.random.default_rng(3).bytes(PAGE // 2) + bytes(PAGE // 2), False),
])  # fmt: skip
def test_what_looks_encrypted(content: bytes, expected: bool) -> None:
    page = np.frombuffer(content[:PAGE].ljust(PAGE, b"\0"), np.uint8).reshape(1, -1)
    assert looks_random(page).tolist() == [expected]


def test_what_an_earlier_use_left_in_a_batch_is_not_on_its_way() -> None:
    frames = Frames()
    frames.mark(44, mapping=ANON, flags=1 << FLAGS["PG_lru"])
    batch = frames.machine.put("cpu_fbatches", {"lru_add.nr": 1, "lru_add.folios": [frames.page(50), frames.page(44)]})
    frames.machine.symbols["cpu_fbatches"] = batch
    kernel = frames.kernel()
    kinds, held = classify_frames(kernel), HeldFrames.zeros(0)
    rows, _ = find_unmapped(kernel, PageReader(kernel), kinds, mapped=NONE, held=held)
    assert rows.pfn.tolist() == [44]
    assert (rows.passing.tolist(), rows.passed.tolist()) == ([False], [True])


def test_what_was_freed_of_the_kernels_image_belongs_to_whoever_got_it() -> None:
    """It stays mapped there, next to the direct map; frame 40 is mapped at the image's addresses."""
    frames = Frames()
    frames.entry(1, 511, 11, PRESENT)
    frames.entry(11, 510, 12, PRESENT)
    frames.entry(12, 0, 13, PRESENT)
    frames.entry(13, 0, 40, PRESENT | NX)
    kernel = frames.kernel()
    found = account_for(kernel, classify_frames(kernel), mapped=NONE, tables=NONE, kept=NONE)
    assert found.kinds.of(pfns(40, 30)).tolist() == [FrameKind.KERNEL, FrameKind.VMALLOC]


def test_the_frames_of_kernel_stacks_are_those_that_tasks_lead_to() -> None:
    machine = Machine(LINUX | {"task_struct": "pid:u32 stack:*"}, CONSTANTS)
    at = machine.room(64 << 10, 4096)
    tasks = [machine.put("task_struct", {"stack": stack}) for stack in (at, at + 0x8000, at, 0)]
    machine.symbols |= {"__start_init_stack": at, "__end_init_stack": at + (16 << 10)}
    found = stack_frames(machine.kernel(), np.array(tasks, np.uint64))
    first = (at - BASE) // PAGE
    assert found.tolist() == [*range(first, first + 4), *range(first + 8, first + 12)]


@pytest.mark.parametrize(
    ("keys", "cleared"),
    [
        ({}, True),  # nobody says that they are not
        ({"init_on_alloc": 1}, True),
        ({"init_on_alloc": 0}, False),
        ({"init_on_alloc": 0, "init_on_free": 0, "_page_poisoning_enabled": 0}, False),
        ({"init_on_alloc": 0, "init_on_free": 1}, True),
        ({"init_on_alloc": 0, "init_on_free": 0, "_page_poisoning_enabled": 1}, True),
    ],
)
def test_pages_are_cleared_by_either_end_or_poisoned(keys: dict[str, int], cleared: bool) -> None:
    machine = Machine(LINUX, CONSTANTS)
    for name, value in keys.items():
        machine.symbols[name] = machine.room(8)
        machine.word(machine.symbols[name], value)
    assert pages_cleared(machine.kernel()) is cleared
