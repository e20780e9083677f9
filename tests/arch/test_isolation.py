"""The two copies of a top-level table under page-table isolation (arch/x86/mm/pti.c)."""

from __future__ import annotations

import numpy as np
from kernel.build import PAGE, Tables

from vmaforensics.arch.x86_64.architecture import X86_64

NX = 1 << 63
ISOLATED = X86_64(isolation=True)
ROOT = np.array([PAGE], np.uint64)


def pair() -> Tables:
    """Page frame 1 is the kernel's copy, page frame 2 the user's."""
    tables = Tables()
    assert tables.frame() == 2
    return tables


def test_no_execute_and_accessed_may_differ() -> None:
    tables = pair()
    below = tables.frame()
    tables.entry(1, 3, below * PAGE | 0x67 | NX)
    tables.entry(2, 3, below * PAGE | 0x47)
    tables.entry(2, 300, 0x67)  # the kernel half is not the same, nor has it to be
    assert len(ISOLATED.differing_entries(tables.memory(), ROOT)) == 0


def test_another_table_in_the_users_copy_is_found_with_its_place() -> None:
    tables = pair()
    mine, other = tables.frame(), tables.frame()
    tables.entry(1, 3, mine * PAGE | 0x67)
    tables.entry(2, 3, other * PAGE | 0x67)
    found = ISOLATED.differing_entries(tables.memory(), ROOT)
    assert (found.owner.tolist(), found.slot.tolist(), found.va.tolist()) == ([0], [3], [3 << 39])
    assert (found.entry.tolist(), found.user.tolist()) == ([mine * PAGE | 0x67], [other * PAGE | 0x67])
    assert found.where.tolist() == [2 * PAGE + 24]


def test_what_hangs_in_the_users_copy_alone_is_walked() -> None:
    tables = pair()
    shared = tables.down(1, 0)
    tables.entry(2, 0, shared * PAGE | 0x67)
    table = 2
    for slot in (5, 6, 7):
        table = tables.down(table, slot)
    tables.entry(table, 8, 0x9000 | 0x67)
    memory = tables.memory()
    both = np.array([40 * PAGE, PAGE], np.uint64)  # the first is not RAM that is held
    differing = ISOLATED.differing_entries(memory, both)
    assert differing.owner.tolist() == [1]
    found = ISOLATED.walk_user_only(memory, both, differing)
    leaves = ISOLATED.read_lowest(memory, found.lowest).leaves
    assert leaves.va.tolist() == [5 << 39 | 6 << 30 | 7 << 21 | 8 << 12]
    assert leaves.owner.tolist() == [1]
    assert sorted(found.tables.level.tolist()) == [1, 2, 3]  # the top-level table is not among them


def test_without_isolation_there_is_no_second_copy() -> None:
    tables = pair()
    tables.entry(2, 3, 0x67)
    for arch in (X86_64(isolation=False), X86_64()):
        differing = arch.differing_entries(tables.memory(), ROOT)
        assert len(differing) == 0
        assert len(arch.walk_user_only(tables.memory(), ROOT, differing).tables) == 0


def test_isolation_shows_in_what_follows_the_kernels_table() -> None:
    tables = pair()
    tables.entry(2, 511, 0x67)
    tables.frame()  # behind the user's copy
    assert X86_64().isolated(tables.memory(), PAGE).isolation is True
    assert X86_64().isolated(tables.memory(), 2 * PAGE).isolation is False
    assert X86_64().isolated(tables.memory(lost=(2,)), PAGE).isolation is None


def test_a_register_value_may_mean_either_copy() -> None:
    cr3 = np.array([0x1234_5000 | 0x801 | 1 << 62], np.uint64)
    assert [root.tolist() for root in X86_64().roots_of(cr3)] == [[0x1234_5000], [0x1234_4000]]
