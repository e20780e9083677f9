from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from kernel.build import PAGE, Tables

from vmaforensics.arch.page_tables import ALLOW_EXECUTE, ALLOW_USER, ALLOW_WRITE, Walk
from vmaforensics.arch.x86_64.architecture import X86_64
from vmaforensics.arch.x86_64.paging import Bounds, span, walk
from vmaforensics.arch.x86_64.paging import target as leaf_address
from vmaforensics.kernel.space.kernel_space import KernelSpace

if TYPE_CHECKING:
    from vmaforensics.image.memory import PhysicalMemory

PRESENT, LARGE = 0x1, 0x80
UPPER = {4: 0xFFFF_0000_0000_0000, 5: 0xFE00_0000_0000_0000}


def address(levels: int, *slots: int) -> int:
    """The canonical address of table slots, top level first."""
    va = 0
    for depth, slot in enumerate(slots):
        va |= slot << 12 + 9 * (levels - 1 - depth)
    return va | (UPPER[levels] if slots[0] >= 256 else 0)


def walked(memory: PhysicalMemory, levels: int, *roots: int, **how: object) -> Walk:
    return walk(memory, np.array(roots or [PAGE], np.uint64), Bounds(levels=levels, **how))  # type: ignore[arg-type]


def leaves(found: Walk) -> set[tuple[int, int, int]]:
    """(address, physical address, level) of every present leaf."""
    table = found.leaves
    pas = leaf_address(table.entry, table.level).tolist()
    return set(zip(table.va.tolist(), pas, table.level.tolist(), strict=True))


def chain(tables: Tables, levels: int, *slots: int) -> int:
    """Tables down to the one that holds entries of level ``levels - len(slots)``; starts at the root."""
    at = 1
    for slot in slots:
        at = tables.down(at, slot)
    return at


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("top", [0, 255, 256, 511])
def test_small_pages_in_either_half_are_found(levels: int, top: int) -> None:
    tables = Tables()
    rest = (7, 511, 0)[: levels - 2]
    pte = chain(tables, levels, top, *rest)
    tables.entry(pte, 0, 0x12345000 | PRESENT)
    tables.entry(pte, 511, 0x8000_0000_0777_7000 | 0x8E7)  # NX, and bit 7, which here is PAT
    tables.entry(pte, 3, 0x9999_9000 | 0x66)  # not present
    assert leaves(walked(tables.memory(), levels)) == {
        (address(levels, top, *rest, 0), 0x12345000, 1),
        (address(levels, top, *rest, 511), 0x07777000, 1),
    }


@pytest.mark.parametrize("levels", [4, 5])
def test_large_leaves_end_the_walk_early(levels: int) -> None:
    tables = Tables()
    above = (300,) if levels == 4 else (300, 12)
    pud = chain(tables, levels, *above)
    tables.entry(pud, 5, 0x4000_0000 | PRESENT | LARGE)
    tables.entry(pud, 6, 0x8000_0000 | 0x1000 | PRESENT | LARGE)  # bit 12 is PAT here, no address
    pmd = tables.down(pud, 7)
    tables.entry(pmd, 511, 0x0060_0000 | PRESENT | LARGE)
    found = walked(tables.memory(), levels)
    assert leaves(found) == {
        (address(levels, *above, 5), 0x4000_0000, 3),
        (address(levels, *above, 6), 0x8000_0000, 3),
        (address(levels, *above, 7, 511), 0x0060_0000, 2),
    }
    assert span(np.array([1, 2, 3], np.int8)).tolist() == [1 << 12, 1 << 21, 1 << 30]
    assert not len(found.unreadable)
    assert not found.truncated


def test_what_a_leaf_allows_is_what_every_table_above_it_allows() -> None:
    # Present, write, user, no-execute: bits 0, 1, 2 and 63. The root's no-execute bit is page-table isolation's.
    execute_off = 1 << 63
    tables = Tables()
    expected = {}
    for slot, (root, middle, leaf, allow) in enumerate(
        (
            (7, 7, 7, ALLOW_WRITE | ALLOW_USER | ALLOW_EXECUTE),
            (7 | execute_off, 7, 7, ALLOW_WRITE | ALLOW_USER | ALLOW_EXECUTE),
            (7, 7 | execute_off, 7, ALLOW_WRITE | ALLOW_USER),
            (7, 7, 7 | execute_off, ALLOW_WRITE | ALLOW_USER),
            (5, 7, 7, ALLOW_USER | ALLOW_EXECUTE),
            (7, 3, 7, ALLOW_WRITE | ALLOW_EXECUTE),
            (7, 7, 1, ALLOW_EXECUTE),
        )
    ):
        pud, pmd, pte = tables.frame(), tables.frame(), tables.frame()
        tables.entry(1, slot, pud * PAGE | root)
        tables.entry(pud, 0, pmd * PAGE | middle)
        tables.entry(pmd, 0, pte * PAGE | 7)
        tables.entry(pte, 0, 0x5000 | leaf)
        expected[slot << 39] = allow
    found = walked(tables.memory(), 4).leaves
    assert dict(zip(found.va.tolist(), found.allow.tolist(), strict=True)) == expected


def test_entries_that_are_not_present_come_only_when_asked_for() -> None:
    tables = Tables()
    pte = chain(tables, 4, 0, 0, 0)
    tables.entry(pte, 0, 0x5000 | PRESENT)
    tables.entry(pte, 1, 0xFFFF_F000 | 0x100)
    tables.entry(2, 9, 0x1234_5678 << 12)  # swapped out, a whole GiB of it
    memory = tables.memory()
    assert [va for va, _, _ in leaves(walked(memory, 4))] == [0]
    both = walked(memory, 4, everything=True).leaves
    assert sorted(zip(both.va.tolist(), both.level.tolist(), strict=True)) == [(0, 1), (PAGE, 1), (9 << 30, 3)]
    where = dict(zip(both.va.tolist(), both.where.tolist(), strict=True))
    assert where == {0: pte * PAGE, PAGE: pte * PAGE + 8, 9 << 30: 2 * PAGE + 72}


@pytest.mark.parametrize("levels", [4, 5])
def test_the_large_bit_means_nothing_above_a_gib(levels: int) -> None:
    tables = Tables()
    tables.entry(1, 9, 0x4000_0000 | PRESENT | LARGE)
    found = walked(tables.memory(), levels)
    assert not len(found.leaves)
    assert found.unreadable.pa.tolist() == [0x4000_0000]


def test_only_the_slots_asked_for_are_entered() -> None:
    tables = Tables()
    for slot in (0, 255, 256, 300, 511):
        tables.entry(chain(tables, 4, slot, 0, 0), 1, slot << 12 | PRESENT)
    memory = tables.memory()
    kernel = walked(memory, 4, first=256, skip=(300,))
    assert {va >> 39 & 511 for va, _, _ in leaves(kernel)} == {256, 511}
    user = walked(memory, 4, last=256)
    assert {va >> 39 & 511 for va, _, _ in leaves(user)} == {0, 255}


def test_tables_shared_by_several_roots_count_for_each() -> None:
    tables = Tables()
    pte = chain(tables, 4, 0, 0, 0)
    tables.entry(pte, 4, 0xABC000 | PRESENT)
    other = tables.frame()
    tables.down(other, 256, 2)
    found = walked(tables.memory(), 4, PAGE, other * PAGE)
    assert leaves(found) == {(0x4000, 0xABC000, 1), (address(4, 256, 0, 0, 4), 0xABC000, 1)}
    assert found.leaves.owner[np.argsort(found.leaves.va)].tolist() == [0, 1]


def test_the_encryption_bit_is_no_part_of_an_address() -> None:
    bit = 1 << 51
    tables = Tables()
    for slot, to in ((0, 2), (0, 3), (0, 4)):
        tables.frame()
        tables.entry(to - 1, slot, to * PAGE | bit | PRESENT)
    tables.entry(4, 2, 0x5000 | bit | PRESENT)
    mask = 0x000F_FFFF_FFFF_F000 & ~bit
    found = walked(tables.memory(), 4, PAGE | bit, mask=mask).leaves
    assert found.va.tolist() == [0x2000]
    assert leaf_address(found.entry, found.level, mask).tolist() == [0x5000]


@pytest.mark.parametrize("lost", [1, 2, 3, 4])
def test_a_table_that_is_not_held_is_listed_and_costs_no_other(lost: int) -> None:
    tables = Tables()
    tables.entry(chain(tables, 4, 300, 7, 9), 1, 0x1111_1000 | PRESENT)
    tables.entry(chain(tables, 4, 301, 7, 9), 1, 0x2222_2000 | PRESENT)
    found = walked(tables.memory(lost=(lost,)), 4)
    bad = found.unreadable
    slots = (300, 7, 9)[: lost - 1]
    assert (bad.pa.tolist(), bad.level.tolist()) == ([lost * PAGE], [5 - lost])
    assert bad.va.tolist() == [address(4, *slots) if slots else 0]
    assert leaves(found) == (set() if lost == 1 else {(address(4, 301, 7, 9, 1), 0x2222_2000, 1)})


def test_a_table_outside_of_ram_is_listed() -> None:
    tables = Tables()
    tables.entry(1, 256, 0xF_FFFF_FFFF_F000 | PRESENT)
    found = walked(tables.memory(), 4)
    assert found.unreadable.pa.tolist() == [0xF_FFFF_FFFF_F000]


@pytest.mark.parametrize("levels", [4, 5])
def test_a_root_full_of_itself_is_entered_once_per_level(levels: int) -> None:
    tables = Tables()
    for slot in range(512):
        tables.entry(1, slot, PAGE | 0x67)
    found = walked(tables.memory(ram=1024), levels)
    assert not found.truncated
    assert len(found.leaves) == 512
    assert set(leaf_address(found.leaves.entry, found.leaves.level).tolist()) == {PAGE}
    assert len(found.tables) == levels
    assert len(found.repeated) == (levels - 1) * 511
    again = found.repeated
    assert set(zip(again.pa.tolist(), again.level.tolist(), strict=True)) == {(PAGE, at) for at in range(1, levels)}


def test_a_single_self_map_is_walked_and_no_more_than_that() -> None:
    # Windows and some hypervisors do this: one slot of the root leads to the root.
    tables = Tables()
    tables.entry(1, 510, PAGE | 0x67)
    tables.entry(chain(tables, 4, 300, 0, 0), 0, 0x7000 | PRESENT)
    found = walked(tables.memory(), 4)
    assert not found.truncated
    assert (address(4, 300, 0, 0, 0), 0x7000, 1) in leaves(found)
    assert (address(4, 510, 510, 510, 510), PAGE, 1) in leaves(found)
    assert len(found.leaves) == 5  # the page, its table seen thrice from above, and the root


def test_a_web_of_tables_that_lead_to_each_other_is_bounded() -> None:
    # Every one of 100 tables leads to all of them: 100**4 paths.
    tables = Tables()
    for _ in range(99):
        tables.frame()
    for table in tables.pages:
        for slot in range(100):
            tables.entry(table, 300 + slot, (slot + 1) * PAGE | 0x67)
    found = walked(tables.memory(ram=4096), 5)
    assert len(found.tables) == 401
    assert len(found.leaves) == 100 * 100


def test_the_same_table_under_two_roots_or_at_two_levels_is_entered_for_each() -> None:
    tables = Tables()
    shared = tables.frame()
    tables.entry(shared, 0, 0x9000 | PRESENT)
    first = chain(tables, 4, 0)
    tables.down(first, 0, shared)
    second = tables.frame()
    tables.down(second, 0, first)
    found = walked(tables.memory(), 4, PAGE, second * PAGE)
    assert not len(found.repeated)
    assert sorted(found.tables.owner.tolist()) == [0, 0, 0, 0, 1, 1, 1, 1]


def test_more_tables_than_the_image_has_frames_cut_the_walk_short() -> None:
    tables = Tables()
    for slot in range(40):
        tables.entry(1, slot, (100 + slot) * PAGE | 0x67)  # none of them is RAM
    found = walked(tables.memory(ram=20), 4)
    assert found.truncated
    assert found.tables.pa.tolist() == [PAGE]


def test_what_was_found_of_tables_that_lead_to_themselves_can_be_translated() -> None:
    tables = Tables()
    for slot in range(256, 512):
        tables.entry(1, slot, PAGE | 0x67)
    space, found = KernelSpace.from_page_tables(tables.memory(), PAGE, X86_64(levels=4))
    assert len(found.repeated) == 254 + 255 + 255  # slot 510 of the root is the espfix area's
    _, _, mapped = space.translate(np.array([address(4, 256, 256, 256, 300), 0], np.uint64))
    assert mapped.tolist() == [True, False]


@pytest.mark.parametrize(
    ("flags", "usual"),
    [
        (0x67, True),  # _PAGE_TABLE
        (0x47, True),  # aged: pmdp_test_and_clear_young
        (0x63, True),  # _KERNPG_TABLE: what user mode may use is not asked here
        (0x65, False),
        (0x27, False),
        (0x67 | 1 << 9, False),
        (0x67 | 1 << 52, False),
        (0x67 | 1 << 63, False),
    ],
)
@pytest.mark.parametrize("depth", [1, 2])
def test_entries_of_tables_that_the_kernel_calls_bad_are_listed(depth: int, flags: int, usual: bool) -> None:
    tables = Tables()
    at = chain(tables, 4, *(0,) * depth)
    tables.entry(at, 5, 0x7000 | flags)
    found = walked(tables.memory(), 4, everything=True).unusual
    assert list(zip(found.va.tolist(), found.level.tolist(), found.entry.tolist(), strict=True)) == (
        [] if usual else [(5 << 12 + 9 * (3 - depth), 4 - depth, 0x7000 | flags)]
    )


def test_page_table_isolation_may_set_no_execute_on_the_top_level() -> None:
    tables = Tables()
    tables.entry(1, 5, 0x7000 | 0x67 | 1 << 63)
    assert len(walked(tables.memory(), 4, everything=True).unusual) == 0
