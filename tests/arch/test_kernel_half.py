"""The kernel half of top-level tables beside the kernel's own (pgd_ctor, arch/x86/mm/pgtable.c)."""

from __future__ import annotations

import numpy as np
import pytest
from kernel.build import PAGE, Tables

from vmaforensics.arch.page_tables import ALLOW_EXECUTE, ALLOW_USER, ALLOW_WRITE
from vmaforensics.arch.x86_64.architecture import X86_64

NX = 1 << 63
KERNEL = 1  # frame of the kernel's own table; frame 2 is its user's copy, 3 and 4 those of a process
PROCESS = np.array([3 * PAGE], np.uint64)
NONE = np.zeros(1, np.bool_)


def tables_of_two() -> Tables:
    """Both with entry 511; the process has memory of its own in the user half, which is none of this."""
    tables = Tables()
    for frame in (2, 3, 4):
        assert tables.frame() == frame
    tables.entry(KERNEL, 511, 0x60 * PAGE | 0x63)
    tables.entry(3, 511, 0x60 * PAGE | 0x43)  # the CPU sets the accessed bit in the table it walks
    tables.entry(3, 0, 0x61 * PAGE | 0x67)
    return tables


def test_accessed_bits_and_the_user_half_may_differ() -> None:
    entries, alike, expected = X86_64().kernel_entries(tables_of_two().memory(), PROCESS, PAGE, NONE)
    assert (len(entries), alike.tolist(), expected) == (0, [1], 1)


@pytest.mark.parametrize(
    ("levels", "va"), [(4, (-1 << 48) % (1 << 64) | 386 << 39), (5, (-1 << 57) % (1 << 64) | 386 << 48)]
)
def test_an_entry_of_the_process_alone_is_found_with_its_place(levels: int, va: int) -> None:
    tables = tables_of_two()
    tables.entry(3, 386, 0x9067)
    entries, alike, _ = X86_64(levels=levels).kernel_entries(tables.memory(), PROCESS, PAGE, NONE)
    assert (entries.slot.tolist(), entries.va.tolist()) == ([386], [va])
    assert (entries.entry.tolist(), entries.expected.tolist()) == ([0x9067], [0])
    assert entries.where.tolist() == [3 * PAGE + 8 * 386]
    assert not entries.own.any()
    assert alike.tolist() == [1]


def test_with_isolation_the_users_copy_counts_too_and_a_descriptor_table_is_the_processs_own() -> None:
    tables = tables_of_two()
    tables.entry(2, 508, 0x62 * PAGE | 0x63)
    tables.entry(4, 508, 0x63 * PAGE | 0x63)
    tables.entry(3, 272, 0x64 * PAGE | 0x67)
    arch = X86_64(isolation=True)
    for has_ldt in (True, False):
        entries, _, _ = arch.kernel_entries(tables.memory(), PROCESS, PAGE, np.array([has_ldt]))
        assert sorted(zip(entries.slot.tolist(), entries.user_copy.tolist(), entries.own.tolist(), strict=True)) == [
            (272, False, has_ldt),
            (508, True, False),
        ]
    (row,) = np.flatnonzero(entries.user_copy).tolist()
    assert int(entries.where[row]) == 4 * PAGE + 8 * 508


def test_without_isolation_nothing_is_a_processs_own() -> None:
    tables = tables_of_two()
    tables.entry(3, 272, 0x64 * PAGE | 0x67)
    entries, _, _ = X86_64().kernel_entries(tables.memory(), PROCESS, PAGE, np.array([True]))
    assert entries.own.tolist() == [False]


def test_a_table_that_is_not_held_says_nothing() -> None:
    tables = tables_of_two()
    tables.entry(3, 386, 0x9067)
    entries, alike, _ = X86_64().kernel_entries(tables.memory(lost=(3,)), PROCESS, PAGE, NONE)
    assert (len(entries), alike.tolist()) == (0, [0])
    entries, alike, expected = X86_64().kernel_entries(tables.memory(lost=(1,)), PROCESS, PAGE, NONE)
    assert (len(entries), expected) == (0, 0)


def test_what_hangs_under_an_entry_is_walked_with_what_all_levels_allow() -> None:
    tables = tables_of_two()
    table = tables.down(3, 386)
    for slot in (1, 2):
        table = tables.down(table, slot)
    tables.entry(table, 3, 0x9000 | 0x67)
    tables.entry(table, 4, 0xA000 | 0x63 | NX)
    arch = X86_64()
    entries, _, _ = arch.kernel_entries(tables.memory(), PROCESS, PAGE, NONE)
    leaves = arch.walk_kernel_entries(tables.memory(), entries).leaves
    base = 0xFFFF << 48 | 386 << 39 | 1 << 30 | 2 << 21
    assert leaves.va.tolist() == [base | 3 << 12, base | 4 << 12]
    assert leaves.owner.tolist() == [0, 0]
    assert leaves.allow.tolist() == [ALLOW_USER | ALLOW_WRITE | ALLOW_EXECUTE, ALLOW_WRITE]
    assert arch.kernel_leaves_for_user_mode(leaves).va.tolist() == [base | 3 << 12]


def test_an_entry_that_leads_to_itself_ends() -> None:
    tables = tables_of_two()
    tables.entry(3, 386, 3 * PAGE | 0x67)
    arch = X86_64()
    entries, _, _ = arch.kernel_entries(tables.memory(), PROCESS, PAGE, NONE)
    walked = arch.walk_kernel_entries(tables.memory(), entries)
    assert len(walked.tables) <= 3 * 512
    assert not walked.truncated


def test_the_vsyscall_page_may_be_read_by_user_mode_and_nothing_more() -> None:
    va = 0xFFFFFFFF_FF600000
    for entry, told in ((0x25 | NX, False), (0x25, True), (0x27 | NX, True)):
        tables, table = Tables(), 1
        for shift in (39, 30, 21):
            table = tables.down(table, va >> shift & 511)
        tables.entry(table, va >> 12 & 511, 0x9000 | entry)
        leaves = X86_64().walk_kernel_half(tables.memory(), PAGE).leaves
        assert bool(len(X86_64().kernel_leaves_for_user_mode(leaves))) is told
