"""Where a kernel lies, and what its page tables look like, by what is known before they are walked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from vmaforensics.arch.interface import BootFacts
from vmaforensics.arch.registers import CpuState
from vmaforensics.arch.x86_64.architecture import X86_64

if TYPE_CHECKING:
    from collections.abc import Callable

ARCH = X86_64()
NEGATIVE = -174063616  # phys_base of a kernel that KASLR put lower than its virtual offset


def facts(numbers: dict[str, int] | None = None, words: dict[str, int] | None = None, *cpus: CpuState) -> BootFacts:
    return BootFacts(
        number=(numbers or {}).get,
        word=lambda name, _: (words or {}).get(name),
        cpus=cpus,
        has_struct=lambda name: name == "ptdesc",
        has_symbol=lambda name: name in (words or {}),
    )


def numbers(**known: int) -> Callable[[str], int | None]:
    return lambda name: known.get(name)


def test_the_note_and_the_variable_say_the_same_of_the_image() -> None:
    by_note = ARCH.image_offset(numbers(phys_base=NEGATIVE))
    assert by_note == ARCH.image_offset_of(NEGATIVE % (1 << 64)) == 0xFFFFFFFF_80000000 - NEGATIVE
    assert ARCH.phys_base(by_note) == NEGATIVE
    assert ARCH.image_offset(numbers()) is None


def test_kaslr_is_how_far_text_is_from_16_mib_into_the_map() -> None:
    assert ARCH.kaslr_offset(0xFFFFFFFF_81000000) == 0
    assert ARCH.kaslr_offset(0xFFFFFFFF_9A000000) == 0x19000000


@pytest.mark.parametrize(
    ("known", "levels"),
    [
        (facts(), 4),
        (facts({"pgtable_l5_enabled": 1}), 5),
        (facts({"pgtable_l5_enabled": 0}, {"__pgtable_l5_enabled": 1}), 4),
        (facts({}, {"__pgtable_l5_enabled": 1}), 5),
        (facts({}, {}, CpuState(cpu=0), CpuState(cpu=1, levels=5)), 5),
    ],
)
def test_levels_are_taken_from_the_first_that_knows(known: BootFacts, levels: int) -> None:
    assert ARCH.bind(known).levels == levels


def test_memory_encryption_takes_its_bit_out_of_addresses() -> None:
    assert ARCH.bind(facts({"sme_mask": 1 << 51})).address_mask == 0x0007_FFFF_FFFF_F000


def test_dirty_bits_are_moved_where_the_function_that_moves_them_is_there() -> None:
    assert ARCH.bind(facts({}, {"pte_mkwrite": 0})).saved_dirty
    assert not ARCH.bind(facts()).saved_dirty  # struct ptdesc alone says nothing of it


@pytest.mark.parametrize(
    ("words", "mask"),
    [
        ({"sme_me_mask": 1 << 47}, 0x000F_7FFF_FFFF_F000),
        ({"sme_me_mask": 1 << 51, "physical_mask": (1 << 51) - 1}, 0x0007_FFFF_FFFF_F000),
        ({"physical_mask": (1 << 51) - 1}, 0x0007_FFFF_FFFF_F000),  # TDX: the shared bit
        ({"sme_me_mask": 0, "physical_mask": (1 << 52) - 1}, 0x000F_FFFF_FFFF_F000),
        ({"sme_me_mask": 0x1000, "physical_mask": 0}, 0x000F_FFFF_FFFF_F000),  # neither can be
    ],
)
def test_without_vmcoreinfo_the_variables_say_which_bit_encryption_takes(words: dict[str, int], mask: int) -> None:
    assert ARCH.bind(facts({}, words)).address_mask == mask


def test_the_other_number_of_levels_is_the_only_variant() -> None:
    assert [arch.levels for arch in X86_64(levels=5).variants()] == [5, 4]


def test_maps_of_memory_lie_where_the_kernel_says_or_where_they_are_linked() -> None:
    said = {"page_offset_base": 0xFFFF9B40_00000000, "vmemmap_base": 0xFFFFF7C0_00000000}
    assert ARCH.direct_map(lambda name, _: said.get(name)) == said["page_offset_base"]
    assert ARCH.vmemmap(lambda name, _: said.get(name)) == said["vmemmap_base"]
    five = X86_64(levels=5)
    assert (ARCH.direct_map(lambda *_: None), five.direct_map(lambda *_: None)) == (
        0xFFFF8880_00000000,
        0xFF110000_00000000,
    )
    assert (ARCH.vmemmap(lambda *_: None), five.vmemmap(lambda *_: None)) == (0xFFFFEA00_00000000, 0xFFD40000_00000000)


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(0x1234, id="no address of a kernel"),
        pytest.param(0xFFFF9B40_00000008, id="not at a multiple of what an entry maps"),
        pytest.param(0xFFFF0000_00000000, id="before the first region"),
        pytest.param(0xFFFFFFC0_00000000, id="so high that no memory has room"),
    ],
)
def test_a_place_where_kaslr_puts_no_map_of_memory_is_not_believed(stored: int) -> None:
    assert ARCH.direct_map(lambda *_: stored) == 0xFFFF8880_00000000
    assert ARCH.vmemmap(lambda *_: stored) == 0xFFFFEA00_00000000


def test_addresses_of_either_half() -> None:
    words = np.array([0, 0x7FFF_FFFF_F000, 0xFEFF_FFFF_FFFF_FFFF, 0xFF00_0000_0000_0000, 2**64 - 1], np.uint64)
    assert ARCH.kernel_pointer(words).tolist() == [False, False, False, True, True]
    assert not ARCH.is_kernel_address(0x7FFF_FFFF_F000)
    assert ARCH.is_kernel_address(0xFFFF_8880_0000_0000)
    assert ARCH.in_fixed_pages(np.array([0xFFFFFFFF_FF600400, 0xFFFFFFFF_FF601000], np.uint64)).tolist() == [
        True,
        False,
    ]


def test_pages_and_bytes() -> None:
    assert (ARCH.page_size, ARCH.user_page_bits) == (4096, 45)
    assert ARCH.pages(np.array([0x1FFF], np.uint64)).tolist() == [1]
    assert ARCH.bytes_of(np.array([3], np.uint64)).tolist() == [0x3000]
    assert ARCH.page_bases(np.array([0x1FFF], np.uint64)).tolist() == [0x1000]
    level = np.array([1, 2, 3], np.int8)
    assert ARCH.span(level).tolist() == [1 << 12, 1 << 21, 1 << 30]
    assert ARCH.table_span(level).tolist() == [1 << 21, 1 << 30, 1 << 39]


def test_breakpoints_and_what_a_probe_covers() -> None:
    code = np.array([0xCC, 0xE8, 0x90], np.uint8)
    assert ARCH.breakpoints(code).tolist() == [True, False, False]
    assert ARCH.probe_sizes(code).tolist() == [1, 5, 0]
