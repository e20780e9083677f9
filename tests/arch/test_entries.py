"""Page-table entries as the kernel's own macros make them (pgtable.h, pgtable_64.h, swapops.h of arch/x86)."""

from __future__ import annotations

import numpy as np
import pytest

from vmaforensics.arch.page_tables import LeafStates, Leaves, PteState
from vmaforensics.arch.x86_64.architecture import X86_64

ARCH = X86_64()
PRESENT, WRITE, USER, ACCESSED, DIRTY, LARGE = 1, 2, 4, 1 << 5, 1 << 6, 1 << 7
PROTNONE, SPECIAL, NX = 1 << 8, 1 << 9, 1 << 63
SWAP_FILES = 2


def swp_entry(kind: int, offset: int) -> int:
    """``__swp_entry``: the type in the five bits on top, the inverted offset from bit 9 on."""
    return (~offset << 14) % (1 << 64) >> 5 | kind << 59


def decoded(*entries: int, level: int = 1, arch: X86_64 = ARCH) -> LeafStates:
    entry = np.array(entries, np.uint64)
    return arch.decode(Leaves.of(entry=entry, level=np.full(len(entry), level)), SWAP_FILES)


def test_a_present_entry_names_its_frame_whatever_else_is_set() -> None:
    states = decoded(0x12345000 | PRESENT | WRITE | USER | ACCESSED | DIRTY | NX, 0x6000 | PRESENT)
    assert states.state.tolist() == [PteState.PRESENT] * 2
    assert states.pfn.tolist() == [0x12345, 6]
    assert not states.special.any()


def test_persistent_memory_is_counted_nowhere_by_the_bit_of_its_kernel() -> None:
    """pmd_mkdevmap sets bit 58; bit 57 in kernels whose bit 58 keeps the dirty bit of a read-only entry."""
    old, moved = (0x40_0000 | PRESENT | LARGE | 1 << bit for bit in (58, 57))
    assert decoded(old, moved, level=2).special.tolist() == [True, False]
    assert decoded(old, moved, level=2, arch=X86_64(saved_dirty=True)).special.tolist() == [False, True]


def test_bit_7_of_the_lowest_level_is_no_part_of_the_address_and_bit_12_of_the_others_neither() -> None:
    assert decoded(0x5000 | PRESENT | LARGE).pfn.tolist() == [5]
    assert decoded(0x40_0000 | 0x1000 | PRESENT | LARGE, level=2).pfn.tolist() == [0x400]
    assert decoded(0x8000_0000 | 0x1000 | PRESENT | LARGE, level=3).pfn.tolist() == [0x80000]


def test_an_entry_without_access_holds_its_address_inverted() -> None:
    address_bits = 0x000F_FFFF_FFFF_F000
    entry = ~0x12345000 & address_bits | PROTNONE
    states = decoded(entry)
    assert states.state.tolist() == [PteState.PROTNONE]
    assert states.pfn.tolist() == [0x12345]


@pytest.mark.parametrize(("kind", "offset"), [(0, 1), (1, 0x1234), (0, (1 << 50) - 1), (1, 0)])
def test_a_swap_entry_gives_back_its_type_and_offset(kind: int, offset: int) -> None:
    word = swp_entry(kind, offset)
    states = decoded(word)
    assert states.state.tolist() == [PteState.SWAP]
    assert states.pfn.tolist() == [0]
    entry = np.array([word], np.uint64)
    assert ARCH.swap_type(entry).tolist() == [kind]
    assert ARCH.swap_offset(entry).tolist() == [offset]


def test_a_type_that_no_swap_file_has_is_another_kind_of_entry() -> None:
    assert decoded(swp_entry(SWAP_FILES, 7)).state.tolist() == [PteState.OTHER]
    assert decoded(swp_entry(31, 7)).state.tolist() == [PteState.OTHER]


def test_soft_dirty_and_exclusive_bits_do_not_make_two_places_of_one() -> None:
    word = swp_entry(1, 0x99)
    place = ARCH.swap_place(np.array([word, word | 1 << 1, word | 1 << 3, swp_entry(1, 0x98)], np.uint64))
    assert place[0] == place[1] == place[2]
    assert place[0] != place[3]


def test_special_counts_only_where_a_frame_is_named() -> None:
    swapped = swp_entry(0, 5) | SPECIAL
    states = decoded(0x5000 | PRESENT | SPECIAL, PROTNONE | SPECIAL, swapped)
    assert states.special.tolist() == [True, True, False]


def test_the_encryption_bit_is_taken_out_of_the_frame() -> None:
    bit = 1 << 47
    arch = X86_64(address_mask=0x000F_FFFF_FFFF_F000 & ~bit)
    assert decoded(0x5000 | bit | PRESENT, arch=arch).pfn.tolist() == [5]


def test_a_moved_dirty_bit_counts_where_the_kernel_moves_it() -> None:
    entry = np.array([PRESENT | 1 << 58, PRESENT | DIRTY, PRESENT], np.uint64)
    assert X86_64(saved_dirty=True).dirty(entry).tolist() == [True, True, False]
    assert ARCH.dirty(entry).tolist() == [False, True, False]
    assert ARCH.accessed(entry | np.uint64(ACCESSED)).all()


def test_equal_pages_have_equal_attributes() -> None:
    entry = np.array([0x5000 | PRESENT | USER, 0x9000 | PRESENT | USER | ACCESSED | DIRTY | 1 << 58], np.uint64)
    assert ARCH.attributes(entry).tolist() == [PRESENT | USER] * 2
    assert ARCH.attributes(entry | np.uint64(NX)).tolist() == [PRESENT | USER | NX] * 2


def test_what_a_page_prot_allows() -> None:
    words = np.array([PRESENT | USER, PRESENT | WRITE | NX, PROTNONE], np.uint64)
    prot = ARCH.protection(words)
    assert prot.present.tolist() == [True, True, False]
    assert prot.write.tolist() == [False, True, False]
    assert prot.execute.tolist() == [True, False, True]
    assert ARCH.protection_words(PRESENT | WRITE | NX) == ("present", "writable", "no execute")


def test_no_entries_decode_to_no_rows() -> None:
    assert len(decoded()) == 0
