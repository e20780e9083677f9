"""What smaps adds up of the entries of a VMA, on page tables made by hand."""

from __future__ import annotations

import numpy as np
from handmade import LINUX, PAGE

from views.user_memory import (
    ACCESSED,
    ANON,
    DIRTY,
    KSM,
    NUMBERS,
    PRESENT,
    SPECIAL,
    STRUCTS,
    SWAPBACKED,
    USER,
    UserMemory,
    present,
    swapped,
)
from vmaforensics.views.pages.smaps import PSS_SHIFT, Smaps, page_sizes, read_smaps
from vmaforensics.views.vmas import flags
from vmaforensics.views.vmas.files import Files
from vmaforensics.views.vmas.vmas import Vmas

START, END = 0x10000, 0x20000
FILE = 0xFFFF_8880_0000_8800
HUGETLBFS = STRUCTS | {
    "file": LINUX["file"],
    "super_block": LINUX["super_block"] + " s_fs_info:*",
    "hugetlbfs_sb_info": "max_inodes:i64 hstate:*",
    "hstate": "resize_lock:u64 order:u32",
}


def figures(memory: UserMemory, mm: int, *, vm_flags: int = 0) -> Smaps:
    """The figures of one VMA from START to END."""
    vmas, entries = memory.ranges((mm, START, END))
    vmas.flags[:] = vm_flags
    view = memory.gather(vmas, entries)
    return read_smaps(memory.kernel(), entries, memory.mm_table(), vmas, Files.zeros(0), view)


def amounts(rows: Smaps) -> dict[str, int]:
    """The figures of the first row that are not 0, in bytes."""
    return {
        name: int(values[0]) >> (PSS_SHIFT if "pss" in name else 0)
        for name, values in rows.columns().items()
        if name not in ("mm", "vma_row", "page_size", "known") and values[0]
    }


def test_a_vma_without_entries_has_zeros() -> None:
    memory = UserMemory()
    rows = figures(memory, memory.add_mm())
    assert amounts(rows) == {}
    assert (rows.known.tolist(), rows.page_size.tolist()) == ([True], [PAGE])


def test_an_anonymous_page_of_one_process() -> None:
    memory = UserMemory()
    mm = memory.add_mm()
    memory.page(20, mapping=FILE | ANON, flags=SWAPBACKED, mapcount=1)
    memory.map(mm, START, present(20, PRESENT | USER | ACCESSED | DIRTY))
    assert amounts(figures(memory, mm)) == {
        "resident": PAGE,
        "pss": PAGE,
        "pss_dirty": PAGE,
        "private_dirty": PAGE,
        "referenced": PAGE,
        "anonymous": PAGE,
    }


def test_a_clean_page_of_a_file_that_two_map() -> None:
    memory = UserMemory()
    mm = memory.add_mm()
    memory.page(20, mapping=FILE, mapcount=2, refcount=3)
    memory.map(mm, END - PAGE, present(20))
    assert amounts(figures(memory, mm)) == {"resident": PAGE, "pss": PAGE // 2, "shared_clean": PAGE}


def test_a_page_whose_only_reference_is_the_entry_is_private_whatever_it_counts() -> None:
    memory = UserMemory()
    mm = memory.add_mm()
    memory.page(20, mapping=FILE, mapcount=2, refcount=1)
    memory.map(mm, START, present(20))
    assert amounts(figures(memory, mm)) == {"resident": PAGE, "pss": PAGE, "private_clean": PAGE}


def test_lazily_freed_and_merged_pages() -> None:
    memory = UserMemory()
    mm = memory.add_mm()
    memory.page(20, mapping=FILE | ANON, mapcount=1)  # MADV_FREE takes the swap-backed flag
    memory.map(mm, START, present(20))
    memory.page(21, mapping=FILE | KSM, flags=SWAPBACKED, mapcount=1)
    memory.map(mm, START + PAGE, present(21))
    found = amounts(figures(memory, mm))
    assert (found["anonymous"], found["lazyfree"], found["ksm"]) == (2 * PAGE, PAGE, PAGE)


def test_swapped_pages_are_shared_by_those_who_have_their_entry() -> None:
    memory = UserMemory()
    mm, other = memory.add_mm(), memory.add_mm()
    memory.map(mm, START, swapped(0, 3))
    memory.map(other, START, swapped(0, 3))
    assert amounts(figures(memory, mm)) == {"swap": PAGE, "swap_pss": PAGE // 2}


def test_what_lies_outside_the_vma_or_is_raw_memory_counts_nothing() -> None:
    memory = UserMemory()
    mm = memory.add_mm()
    for va in (START - PAGE, END):
        memory.map(mm, va, present(20))
    memory.map(mm, START, present(20, PRESENT | USER | SPECIAL))
    assert amounts(figures(memory, mm)) == {}
    memory.page(21, mapping=FILE, mapcount=1)
    memory.map(mm, START, present(21))
    assert amounts(figures(memory, mm, vm_flags=flags.VM_PFNMAP)) == {}


def test_locked_memory_is_what_is_resident_of_it() -> None:
    memory = UserMemory()
    mm = memory.add_mm()
    memory.page(20, mapping=FILE, mapcount=1)
    memory.map(mm, START, present(20))
    assert amounts(figures(memory, mm, vm_flags=flags.VM_LOCKED))["pss_locked"] == PAGE


def test_a_lost_struct_page_makes_the_figures_unknown() -> None:
    memory = UserMemory()
    mm = memory.add_mm()
    memory.map(mm, START, present(20))
    memory.drop(memory.vmemmap)
    assert figures(memory, mm).known.tolist() == [False]


def test_a_lost_table_makes_the_figures_unknown() -> None:
    memory = UserMemory()
    mm = memory.add_mm()
    memory.drop(memory.map(mm, START, present(20)))
    assert figures(memory, mm).known.tolist() == [False]


def test_without_page_tables_nothing_is_known() -> None:
    memory = UserMemory()
    mm = memory.add_mm()
    vmas, entries = memory.ranges((mm, START, END))
    rows = read_smaps(memory.kernel(), entries, memory.mm_table(), vmas, Files.zeros(0), None)
    assert (rows.known.tolist(), rows.page_size.tolist()) == ([False], [PAGE])


def test_huge_pages_have_the_size_their_file_system_says() -> None:
    memory = UserMemory(HUGETLBFS, NUMBERS)
    hstate = memory.put("hstate", {"order": 9})
    sb = memory.put("super_block", {"s_fs_info": memory.put("hugetlbfs_sb_info", {"hstate": hstate})})
    file = memory.put("file", {"f_inode": memory.put("inode", {"i_sb": sb})})
    huge = flags.VM_HUGETLB
    vmas = Vmas.of(file=[file, 0, file], flags=[huge, huge, 0], ok=np.ones(3, np.bool_))
    assert page_sizes(memory.kernel(), vmas).tolist() == [2 << 20, 0, PAGE]
