from __future__ import annotations

import numpy as np
import pytest

from vmaforensics.arch.x86_64.architecture import X86_64
from vmaforensics.errors import MemoryReadError
from vmaforensics.kernel.space.kernel_space import KernelSpace, LinearPiece

from .build import PAGE, Tables, memory_of

KERNEL = 0xFFFF_8880_0000_0000
TOP = 0xFFFF_FFFF_FFFF_F000

# Frame n is filled with its number; 5 is RAM that is not held.
MEMORY = memory_of({pfn: bytes([pfn]) * PAGE for pfn in (1, 2, 3, 4, 6, 7)}, ram=8)


def space(*pieces: tuple[int, int, int]) -> KernelSpace:
    return KernelSpace.linear(MEMORY, [LinearPiece(*piece) for piece in pieces])


def at(*addresses: int) -> np.ndarray:
    return np.array([address % (1 << 64) for address in addresses], np.uint64)


def one_run() -> KernelSpace:
    """Frames 1 to 3 at KERNEL."""
    return space((KERNEL, KERNEL + 3 * PAGE - 1, PAGE))


def test_a_run_reaches_from_its_first_byte_to_its_last() -> None:
    pa, left, mapped = one_run().translate(
        at(KERNEL - 1, KERNEL, KERNEL + 0x1234, KERNEL + 3 * PAGE - 1, KERNEL + 3 * PAGE)
    )
    assert mapped.tolist() == [False, True, True, True, False]
    assert pa[mapped].tolist() == [0x1000, 0x2234, 0x3FFF]
    assert left[mapped].tolist() == [3 * PAGE, 3 * PAGE - 0x1234, 1]


def test_the_last_byte_of_all_addresses_can_be_mapped() -> None:
    top = space((TOP, (1 << 64) - 1, 2 * PAGE))
    pa, left, mapped = top.translate(at(TOP, -1, TOP - 1, 0))
    assert mapped.tolist() == [True, True, False, False]
    assert pa[:2].tolist() == [0x2000, 0x2FFF]
    assert left[:2].tolist() == [PAGE, 1]
    data, ok = top.gather(at(TOP + PAGE - 8, -4), 8)
    assert ok.tolist() == [True, False]  # the second would wrap to address 0
    assert data[0].tobytes() == b"\2" * 8
    assert data[1].tobytes() == bytes(8)


@pytest.mark.parametrize(
    "address", [0, 0x1000, 0x7FFF_FFFF_F000, 0x0000_8000_0000_0000, 0x1234_8880_0000_0000, 0xDEAD_0000_0000_0100]
)
def test_an_address_that_is_not_canonical_is_not_mapped(address: int) -> None:
    _, _, mapped = one_run().translate(at(address))
    assert not mapped[0]
    data, ok = one_run().gather(at(address), 16)
    assert not ok[0]
    assert not data.any()
    with pytest.raises(MemoryReadError, match=f"kernel address {address:#x}: no page table maps it"):
        one_run().read(address, 8)


def test_an_empty_space_maps_nothing() -> None:
    nothing = space()
    _, _, mapped = nothing.translate(at(KERNEL, 0))
    assert not mapped.any()
    data, ok = nothing.gather(at(KERNEL), 4)
    assert not ok.any()
    assert not data.any()


def test_what_lies_across_two_runs_is_put_together() -> None:
    # In the kernel's addresses frame 3 is followed by frame 1, then by frame 7, then by nothing.
    mixed = space(
        (KERNEL, KERNEL + PAGE - 1, 3 * PAGE),
        (KERNEL + PAGE, KERNEL + 2 * PAGE - 1, PAGE),
        (KERNEL + 2 * PAGE, KERNEL + 3 * PAGE - 1, 7 * PAGE),
    )
    assert len(mixed.runs) == 3
    data, ok = mixed.gather(at(KERNEL + PAGE - 3, KERNEL + 2 * PAGE - 6, KERNEL + 3 * PAGE - 4, KERNEL), 8)
    assert ok.tolist() == [True, True, False, True]
    assert data[0].tobytes() == b"\3" * 3 + b"\1" * 5
    assert data[1].tobytes() == b"\1" * 6 + b"\7" * 2
    assert data[2].tobytes() == bytes(8)
    assert data[3].tobytes() == b"\3" * 8
    long, fine = mixed.gather(at(KERNEL + 100), 2 * PAGE)
    assert fine.all()
    assert long[0].tobytes() == b"\3" * (PAGE - 100) + b"\1" * PAGE + b"\7" * 100
    assert mixed.read(KERNEL + PAGE - 2, PAGE + 4) == b"\3\3" + b"\1" * PAGE + b"\7\7"


def test_a_hole_between_runs_is_not_bridged() -> None:
    split = space((KERNEL, KERNEL + PAGE - 1, PAGE), (KERNEL + 2 * PAGE, KERNEL + 3 * PAGE - 1, 2 * PAGE))
    data, ok = split.gather(at(KERNEL + PAGE - 4, KERNEL + 2 * PAGE - 4, KERNEL + 2 * PAGE), 8)
    assert ok.tolist() == [False, False, True]
    assert not data[:2].any()
    _, ok = split.gather(at(KERNEL), 3 * PAGE)
    assert not ok[0]


def test_a_page_that_is_mapped_but_not_held_is_not_zeros() -> None:
    gap = space((KERNEL, KERNEL + 7 * PAGE - 1, PAGE))
    data, ok = gap.gather(at(KERNEL + 4 * PAGE, KERNEL + 4 * PAGE - 4, KERNEL + 5 * PAGE - 4, KERNEL + 5 * PAGE), 8)
    assert ok.tolist() == [False, False, False, True]
    assert not data[:3].any()
    with pytest.raises(MemoryReadError, match="its page is not in the dump") as caught:
        gap.read(KERNEL + 3 * PAGE, 2 * PAGE)
    assert caught.value.address == KERNEL + 4 * PAGE


def test_neighbours_that_continue_in_both_spaces_are_one_run() -> None:
    pieces = [(KERNEL + row * PAGE, KERNEL + (row + 1) * PAGE - 1, (1 + row) * PAGE) for row in (2, 0, 1)]
    joined = space(*pieces, (KERNEL + 3 * PAGE, KERNEL + 4 * PAGE - 1, 6 * PAGE))
    assert joined.runs.to_structured().tolist() == [
        (KERNEL, KERNEL + 3 * PAGE - 1, PAGE),
        (KERNEL + 3 * PAGE, KERNEL + 4 * PAGE - 1, 6 * PAGE),
    ]


def test_of_two_runs_that_overlap_the_lower_one_holds() -> None:
    twice = space((KERNEL + PAGE, KERNEL + 2 * PAGE - 1, 6 * PAGE), (KERNEL, KERNEL + 3 * PAGE - 1, PAGE))
    assert twice.runs.to_structured().tolist() == [(KERNEL, KERNEL + 3 * PAGE - 1, PAGE)]


def test_an_empty_read_reads_nothing() -> None:
    assert one_run().read(0x1234, 0) == b""
    data, ok = one_run().gather(np.zeros(0, np.uint64), 8)
    assert data.shape == (0, 8)
    assert ok.shape == (0,)


@pytest.mark.parametrize("levels", [4, 5])
def test_page_tables_become_runs(levels: int) -> None:
    tables = Tables()
    table = 1
    for slot in (511, *((511,) if levels == 5 else ()), 510, 8):
        table = tables.down(table, slot)
    for slot, pfn in ((0, 20), (1, 21), (2, 23)):
        tables.entry(table, slot, pfn * PAGE | 1)
    low = tables.down(1, 0)  # the lower half is the processes'
    for _ in range(levels - 2):
        low = tables.down(low, 0)
    tables.entry(low, 0, 24 * PAGE | 1)
    pages = {pfn: bytes([pfn]) * PAGE for pfn in (20, 21, 23, 24)}
    found, done = KernelSpace.from_page_tables(tables.memory(extra=pages), PAGE, X86_64(levels=levels))
    start = 0xFFFF_FFFF_8100_0000
    assert found.runs.to_structured().tolist() == [
        (start, start + 2 * PAGE - 1, 20 * PAGE),
        (start + 2 * PAGE, start + 3 * PAGE - 1, 23 * PAGE),
    ]
    assert not done.truncated
    data, ok = found.gather(at(start + 2 * PAGE - 4), 8)
    assert ok[0]
    assert data.tobytes() == bytes([21] * 4 + [23] * 4)


def test_pages_of_the_espfix_area_are_left_out() -> None:
    # The same page 65,536 times: arch/x86/kernel/espfix_64.c.
    tables = Tables()
    table = 1
    for slot in (510, 0, 0):
        table = tables.down(table, slot)
    tables.entry(table, 0, 20 * PAGE | 1)
    found, _ = KernelSpace.from_page_tables(tables.memory(), PAGE, X86_64(levels=4))
    assert not len(found.runs)


def test_what_a_damaged_table_leaves_out_is_put_back_and_small_holes_stay() -> None:
    memory = memory_of({0: b""}, ram=1 << 12)
    start, size = 0xFFFF_8880_0000_0000, 16 << 20
    pieces = [
        LinearPiece(start, start + (4 << 20) - 1, 0),
        LinearPiece(start + (4 << 20) + PAGE, start + (6 << 20) - 1, (4 << 20) + PAGE),  # a guard page before it
        LinearPiece(start + (7 << 20), start + (8 << 20) - 1, 0x5000),  # a table of another kernel
        LinearPiece(start + (8 << 20), start + size + PAGE - 1, 8 << 20),
    ]
    space = KernelSpace.linear(memory, pieces)
    whole = LinearPiece(start, start + size - 1, 0)
    assert space.holes(whole, 1 << 20) == [LinearPiece(start + (6 << 20), start + (8 << 20) - 1, 6 << 20)]
    for hole in space.holes(whole, 1 << 20):
        space.put(hole)
    assert space.holes(whole, 1 << 20) == []
    at = np.array([0, 4 << 20, 6 << 20, 7 << 20, size], np.uint64)
    found = space.translate(at + np.uint64(start))
    assert found.mapped.tolist() == [True, False, True, True, True]
    assert found.pa[found.mapped].tolist() == at[found.mapped].tolist()
