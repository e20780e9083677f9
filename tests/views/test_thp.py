"""Which VMAs may have transparent huge pages."""

from __future__ import annotations

import pytest
from handmade import LINUX, Machine

from vmaforensics.views.pages.thp import ThpEligible, thp_eligible
from vmaforensics.views.vmas import flags
from vmaforensics.views.vmas.files import Files
from vmaforensics.views.vmas.vmas import Vmas

# enum transparent_hugepage_flag, include/linux/huge_mm.h
NUMBERS = {
    "TRANSPARENT_HUGEPAGE_UNSUPPORTED": 0,
    "TRANSPARENT_HUGEPAGE_FLAG": 1,
    "TRANSPARENT_HUGEPAGE_REQ_MADV_FLAG": 2,
}
ALWAYS, MADVISE = 1 << 1, 1 << 2
TMPFS_MAGIC = 0x01021994
STRUCTS = LINUX | {
    "mm_struct": "map_count:i32 flags:u64",
    "address_space": "host:* flags:u64",
    "inode": LINUX["inode"] + " i_size:i64",
    "super_block": LINUX["super_block"] + " s_fs_info:*",
    "shmem_sb_info": "max_blocks:u64 huge:u8",
}
HUGE = 2 << 20
ADVISED, NEVER = flags.VM_HUGEPAGE, flags.VM_NOHUGEPAGE


def machine(mode: int, *, shmem: int | None = None) -> Machine:
    made = Machine(STRUCTS, NUMBERS)
    made.symbols["transparent_hugepage_flags"] = made.room(8)
    made.word(made.symbols["transparent_hugepage_flags"], mode)
    if shmem is not None:
        made.symbols["shmem_huge"] = made.room(4)
        made.write(made.symbols["shmem_huge"], shmem.to_bytes(4, "little", signed=True))
    return made


def eligible(
    made: Machine, vm_flags: int = 0, *, start: int = HUGE, size: int = HUGE, mm_flags: int = 0, **more: int
) -> ThpEligible:
    mm = made.put("mm_struct", {"flags": mm_flags})
    columns = {"mm": mm, "start": start, "end": start + size, "flags": vm_flags, "ok": True} | more
    vmas = Vmas.of(**{name: [value] for name, value in columns.items()})
    return thp_eligible(made.kernel(), Files.zeros(0), vmas)


@pytest.mark.parametrize(
    ("mode", "vm_flags", "expected"),
    [
        (0, 0, False),
        (0, ADVISED, False),
        (MADVISE, 0, False),
        (MADVISE, ADVISED, True),
        (ALWAYS, 0, True),
        (ALWAYS, NEVER, False),
        (ALWAYS | 1, 0, False),  # TRANSPARENT_HUGEPAGE_UNSUPPORTED
        # vma_is_temporary_stack: a program that is just being started
        (ALWAYS, flags.VM_GROWSDOWN | flags.VM_SEQ_READ | flags.VM_RAND_READ, False),
    ],
)
def test_anonymous_memory_follows_the_setting_and_the_advice(mode: int, vm_flags: int, expected: bool) -> None:
    found = eligible(machine(mode), vm_flags)
    assert (found.eligible.tolist(), found.known.tolist()) == ([expected], [True])


@pytest.mark.parametrize(
    ("start", "size", "expected"),
    [
        (HUGE, HUGE - 4096, False),
        (HUGE + 4096, HUGE, False),
        (HUGE - 4096, HUGE + 8192, True),
        (5 * HUGE, 4096, False),
    ],
)
def test_there_must_be_room_for_an_aligned_huge_page(start: int, size: int, expected: bool) -> None:
    assert eligible(machine(ALWAYS), start=start, size=size).eligible.tolist() == [expected]


@pytest.mark.parametrize(("start", "size"), [(0, 4096), (0x10000, 0x10000), (0x10000, HUGE - 0x11000)])
def test_below_the_first_huge_page_the_arithmetic_of_the_kernel_wraps(start: int, size: int) -> None:
    # thp_vma_suitable_order: ALIGN_DOWN(vm_end - HPAGE_PMD_SIZE) is near the top of the address space, its end 0.
    assert eligible(machine(ALWAYS), start=start, size=size).eligible.tolist() == [True]


def test_a_process_may_have_switched_them_off() -> None:
    assert eligible(machine(ALWAYS), mm_flags=1 << 24).eligible.tolist() == [False]  # MMF_DISABLE_THP


def test_the_gate_area_has_no_mm_and_no_huge_pages() -> None:
    found = eligible(machine(ALWAYS), mm=0)
    assert (found.eligible.tolist(), found.known.tolist()) == ([False], [True])


def test_a_setting_that_is_not_in_the_image_leaves_it_open() -> None:
    made = machine(ALWAYS)
    made.drop(made.symbols["transparent_hugepage_flags"])
    assert eligible(made).known.tolist() == [False]


def test_a_setting_whose_symbol_is_not_listed_leaves_it_open() -> None:
    made = machine(ALWAYS)
    del made.symbols["transparent_hugepage_flags"]
    assert eligible(made).known.tolist() == [False]


def test_a_kernel_without_huge_pages_has_none() -> None:
    """Neither the setting nor the enumerators of its bits."""
    found = eligible(Machine(STRUCTS, {}))
    assert (found.eligible.tolist(), found.known.tolist()) == ([False], [True])


def shared(made: Machine, mount: int, *, vm_flags: int = 0, pages: int = 512, pgoff: int = 512) -> bool:
    """Is a VMA of a file on a tmpfs mounted with ``huge=mount`` eligible?"""
    sb = made.put("super_block", {"s_magic": TMPFS_MAGIC, "s_fs_info": made.put("shmem_sb_info", {"huge": mount})})
    inode = made.put("inode", {"i_sb": sb, "i_size": pages << 12})
    files = Files.of(file=[1], ok=[True], regular=[True], mapping=[made.put("address_space", {"host": inode})])
    vmas = Vmas.of(
        mm=[made.put("mm_struct")], start=[HUGE], end=[2 * HUGE], pgoff=[pgoff], flags=[vm_flags], ok=[True],
        ops=[1], file_row=[0],
    )  # fmt: skip
    found = thp_eligible(made.kernel(), files, vmas)
    assert found.known.tolist() == [True]
    return bool(found.eligible[0])


# SHMEM_HUGE_*, mm/shmem.c
@pytest.mark.parametrize(
    ("mount", "vm_flags", "pages", "expected"),
    [
        (0, ADVISED, 2048, False),  # never
        (1, 0, 0, True),  # always
        (2, 0, 1024, True),  # within_size: the huge page ends within the file
        (2, 0, 1023, False),
        (2, ADVISED, 0, True),
        (3, 0, 2048, False),  # advise
        (3, ADVISED, 2048, True),
    ],
)
def test_shared_memory_follows_its_mount(mount: int, vm_flags: int, pages: int, expected: bool) -> None:
    assert shared(machine(MADVISE), mount, vm_flags=vm_flags, pages=pages) == expected


def test_the_system_can_force_and_deny_huge_pages_of_shared_memory() -> None:
    assert shared(machine(MADVISE, shmem=-2), 0)
    assert not shared(machine(MADVISE, shmem=-1), 1)


def test_shared_memory_that_is_not_aligned_in_its_file_has_none() -> None:
    assert not shared(machine(MADVISE), 1, pgoff=511)


ORDERS = {"AS_FOLIO_ORDER_BITS": 5, "AS_FOLIO_ORDER_MAX": 21}  # enum mapping_flags, include/linux/pagemap.h


@pytest.mark.parametrize(
    ("mode", "vm_flags", "order", "pages", "pgoff", "expected"),
    [
        (ALWAYS, 0, 9, 2, 512, True),  # THP_ORDERS_ALL_FILE_DEFAULT: from two pages on
        (ALWAYS, 0, 9, 1, 512, False),
        (ALWAYS, 0, 9, 512, 511, False),  # thp_vma_suitable_order: not aligned in the file
        (ALWAYS, 0, 8, 512, 512, False),  # mapping_pmd_folio_support
        (ALWAYS, 0, 0, 512, 512, False),
        (ALWAYS, NEVER, 9, 512, 512, False),
        (MADVISE, 0, 9, 512, 512, False),
        (MADVISE, ADVISED, 9, 512, 512, True),
    ],
)
def test_other_files_follow_what_their_file_system_takes(
    mode: int, vm_flags: int, order: int, pages: int, pgoff: int, expected: bool
) -> None:
    for since in (True, False):  # before, it took CONFIG_READ_ONLY_THP_FOR_FS
        made = Machine(STRUCTS, NUMBERS | ORDERS)
        made.symbols["transparent_hugepage_flags"] = made.room(8)
        made.word(made.symbols["transparent_hugepage_flags"], mode)
        if since:
            made.symbols["collapse_single_pmd"] = made.room(8)
        sb = made.put("super_block", {"s_magic": 0xEF53})  # ext4
        host = made.put("inode", {"i_sb": sb})
        mapping = made.put("address_space", {"host": host, "flags": order << 21})
        files = Files.of(file=[1], ok=[True], regular=[True], mapping=[mapping])
        vmas = Vmas.of(
            mm=[made.put("mm_struct")], start=[HUGE], end=[HUGE + 4096 * pages], pgoff=[pgoff], flags=[vm_flags],
            ok=[True], ops=[1], file_row=[0],
        )  # fmt: skip
        found = thp_eligible(made.kernel(), files, vmas)
        assert (found.eligible.tolist(), found.known.tolist()) == ([expected and since], [True])
