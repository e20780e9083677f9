"""Where the kernel puts itself and its maps of memory, and how KASLR moves them (arch/x86/mm/kaslr.c).

``phys_base`` (arch/x86/kernel/head_64.S) is what is added to ``virtual - __START_KERNEL_map``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.arch.interface import KernelTables

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmaforensics.arch.interface import BootFacts

IMAGE_START = 0xFFFFFFFF_80000000  # __START_KERNEL_map (arch/x86/include/asm/page_64_types.h)
IMAGE_SIZE = 1 << 30  # KERNEL_IMAGE_SIZE with KASLR
KASLR_STEP = 2 << 20  # CONFIG_PHYSICAL_ALIGN
REGION_STEP = 1 << 30  # PUD_SIZE
DIRECT_MAP_SIZE = 1 << 46  # 64 TiB: what four levels have room for
BASE_SYMBOL = "phys_base"
REGION_SYMBOLS = ("page_offset_base", "vmemmap_base")
PLACE_SYMBOLS = (BASE_SYMBOL, REGION_SYMBOLS[0])
KERNEL_TABLES = KernelTables(
    tables=("init_top_pgt", "swapper_pg_dir", "early_top_pgt"),
    mms=("init_mm", "efi_mm"),
    pointers=("poking_mm", "text_poke_mm"),  # of the code patcher
)

_LINKED_TEXT = 0xFFFFFFFF_81000000  # _text as linked: CONFIG_PHYSICAL_START is 16 MiB
_CR4_LA57 = 12
# By levels of page tables, without KASLR of the memory regions (__PAGE_OFFSET_BASE_L4, __VMEMMAP_BASE_L4, …).
_DIRECT_MAPS = {4: 0xFFFF8880_00000000, 5: 0xFF110000_00000000}
_VMEMMAPS = {4: 0xFFFFEA00_00000000, 5: 0xFFD40000_00000000}
_REGIONS_END = 0xFFFFFE00_00000000  # CPU_ENTRY_AREA_BASE
_PAGE = 1 << 12  # PAGE_SIZE


def image_offset(number: Callable[[str], int | None]) -> int | None:
    """Virtual minus physical address of the kernel image, by VMCOREINFO."""
    base = number(BASE_SYMBOL)
    return None if base is None else IMAGE_START - base


def image_offset_of(stored: int) -> int:
    """The same, by the value of ``phys_base``, which is signed."""
    return IMAGE_START - (stored - (1 << 64) if stored >> 63 else stored)


def phys_base(offset: int) -> int:
    """``phys_base`` of a kernel image with that offset."""
    return IMAGE_START - offset


def kaslr_offset(text: int) -> int:
    """How far ``_text`` is from where it was linked."""
    return text - _LINKED_TEXT


def levels(facts: BootFacts) -> int:
    """Levels of the kernel's page tables: VMCOREINFO, the kernel's variable, or CR4.LA57 of some CPU."""
    hint = facts.number("pgtable_l5_enabled")
    if hint is None:
        hint = facts.word("__pgtable_l5_enabled", 4)
    if hint is None:
        return max((cpu.levels or 4 for cpu in facts.cpus), default=4)
    return 5 if hint else 4


def levels_of(cr4: int) -> int:
    """Levels of page tables that a CPU with this CR4 walks."""
    return 5 if cr4 >> _CR4_LA57 & 1 else 4


def direct_map(word: Callable[[str, int], int | None], levels: int) -> int:
    """First address of the direct map (page_offset_base; a constant without CONFIG_RANDOMIZE_MEMORY)."""
    return _region(word(REGION_SYMBOLS[0], 8), levels, _DIRECT_MAPS, REGION_STEP)


def vmemmap(word: Callable[[str, int], int | None], levels: int) -> int:
    """Address of the struct page of frame 0 (vmemmap_base of arch/x86/include/asm/pgtable_64_types.h)."""
    return _region(word(REGION_SYMBOLS[1], 8), levels, _VMEMMAPS, _PAGE)


def _region(stored: int | None, levels: int, fixed: dict[int, int], step: int) -> int:
    """Where a region of memory begins by the kernel's variable, or where it does without one that can be believed:
    KASLR puts the regions behind where the first begins without it, each at a multiple of ``step``, and before the
    entry areas of the CPUs."""
    if stored is None or not _DIRECT_MAPS[levels] <= stored < _REGIONS_END or stored % step:
        return fixed[levels]
    return stored
