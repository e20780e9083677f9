"""x86-64 as an :class:`~vmaforensics.arch.interface.Architecture`: which module answers what."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.interface import Architecture, ThreadPointer
from vmaforensics.arch.page_tables import IsolatedEntries
from vmaforensics.arch.registers import RegisterNames
from vmaforensics.arch.x86_64 import (
    addresses,
    bits,
    core_registers,
    cpu_stacks,
    encryption,
    entries,
    isolation,
    kernel_half,
    kernel_image,
    operands,
    paging,
    printed_registers,
    registers,
    saved_registers,
    special_pages,
    swap_entries,
    unwinding,
    vdso,
)
from vmaforensics.arch.x86_64.code import Code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Self

    from vmaforensics.arch.interface import BootFacts, GateArea
    from vmaforensics.arch.page_tables import (
        KernelEntries,
        KernelHalves,
        LeafStates,
        Leaves,
        LowestEntries,
        LowestTables,
        Protection,
        Walk,
    )
    from vmaforensics.arch.reading import KernelReader, Note, PhysicalReader
    from vmaforensics.arch.registers import (
        CoreRegisters,
        CpuState,
        FloatingState,
        MemoryOperand,
        Place,
        SavedRegisters,
    )
    from vmaforensics.arch.unwinding import ModuleCode, Unwinding
    from vmaforensics.columns.types import I8, I32, I64, U8, U64, Bools


@dataclass(frozen=True, kw_only=True)
class X86_64(Code, Architecture):  # noqa: N801 - the name of the CPU
    """x86-64 with 4 or 5 levels of page tables; see the interface for what each member is."""

    levels: int = 4
    isolation: bool | None = None
    address_mask: int = bits.ADDRESS_MASK  # takes the physical address out of an entry
    saved_dirty: bool = False  # does the kernel move dirty bits out of read-only entries (6.6)?

    name = "x86-64"
    machine = "x86_64"
    elf_machine = "EM_X86_64"
    registers = RegisterNames(ip="RIP", sp="RSP", table="CR3")
    printed_registers = printed_registers.PRINTED
    register_words = saved_registers.NAMES
    # Flags, segments, what is set for the CPU as a whole, and the address of the last page fault.
    state_registers = frozenset({"EFLAGS", "RFLAGS", "CS", "SS", "CR0", "CR2", "CR3", "CR4", "ORIG_RAX"})

    page_shift = bits.PAGE_SHIFT
    huge_order = bits.TABLE_SHIFT
    max_order = 10
    counted_levels = 3
    user_bits = addresses.USER_BITS

    image_start = kernel_image.IMAGE_START
    image_size = kernel_image.IMAGE_SIZE
    base_symbol = kernel_image.BASE_SYMBOL
    place_symbols = kernel_image.PLACE_SYMBOLS
    region_symbols = kernel_image.REGION_SYMBOLS
    region_step = kernel_image.REGION_STEP
    kaslr_step = kernel_image.KASLR_STEP
    direct_map_size = kernel_image.DIRECT_MAP_SIZE
    hole_end = 1 << 32
    kernel_tables = kernel_image.KERNEL_TABLES
    vdso_symbols = vdso.SYMBOLS
    poison_base = 0xDEAD0000_00000000  # arch/x86/Kconfig

    thread_pointer = ThreadPointer(name="fsbase", path="thread.fsbase")
    saved_stack = "thread.sp"
    sa_restorer = 0x04000000  # arch/x86/include/uapi/asm/signal.h
    red_zone = 128  # System V ABI, AMD64 supplement, 3.2.2

    # Addresses -----------------------------------------------------------------------------------------

    def kernel_pointer(self, values: U64) -> Bools:
        return addresses.kernel_pointer(values)

    def canonical(self, values: U64) -> Bools:
        return addresses.canonical(values, self.levels)

    def is_kernel_address(self, value: int) -> bool:
        return addresses.is_kernel_address(value)

    # Walking page tables -----------------------------------------------------------------------------

    def _user_bounds(self) -> paging.Bounds:
        return paging.Bounds(
            levels=self.levels, last=bits.USER_SLOTS, mask=self.address_mask, everything=True, deferred=True
        )

    def read_lowest(self, memory: PhysicalReader, tables: LowestTables, *, digests: bool = False) -> LowestEntries:
        return paging.read_lowest(memory, tables, digests=digests)

    def walk_user(self, memory: PhysicalReader, roots: U64) -> Walk:
        return paging.walk(memory, roots, self._user_bounds())

    def _kernel_bounds(self) -> paging.Bounds:
        return paging.Bounds(levels=self.levels, first=bits.USER_SLOTS, mask=self.address_mask)

    def walk_kernel(self, memory: PhysicalReader, root: int) -> Walk:
        bounds = replace(self._kernel_bounds(), skip=addresses.espfix_slots(self.levels))
        found = paging.walk(memory, np.array([root], np.uint64), bounds)
        return replace(found, leaves=found.leaves.take(~addresses.in_espfix(found.leaves.va)))

    def span(self, level: I8) -> U64:
        return paging.span(level)

    def table_span(self, level: I8) -> U64:
        return paging.span(level + np.int8(1))

    def target(self, entry: U64, level: I8) -> U64:
        return paging.target(entry, level, self.address_mask)

    # Entries -----------------------------------------------------------------------------------------

    def decode(self, leaves: Leaves, swap_types: int) -> LeafStates:
        return entries.decode(leaves, swap_types, self.address_mask, self._uncounted)

    def accessed(self, entry: U64) -> Bools:
        return entries.has(entry, bits.ACCESSED)

    def dirty(self, entry: U64) -> Bools:
        return entries.has(entry, bits.DIRTY | (bits.SAVED_DIRTY if self.saved_dirty else 0))

    def special(self, entry: U64) -> Bools:
        return entries.has(entry, self._uncounted)

    @property
    def _uncounted(self) -> int:
        """The bits of an entry that say that nobody counts what it maps."""
        return bits.SPECIAL | (bits.DEVMAP_MOVED if self.saved_dirty else bits.DEVMAP)

    def attributes(self, entry: U64) -> U64:
        return entries.attributes(entry, self.address_mask)

    def swap_type(self, entry: U64) -> U64:
        return swap_entries.swap_type(entry)

    def swap_offset(self, entry: U64) -> U64:
        return swap_entries.swap_offset(entry)

    def swap_place(self, entry: U64) -> U64:
        return swap_entries.swap_place(entry)

    def protection(self, page_prot: U64) -> Protection:
        return entries.protection(page_prot)

    def protection_words(self, page_prot: int) -> tuple[str, ...]:
        return entries.protection_words(page_prot)

    # The second copy of page tables ------------------------------------------------------------------

    def differing_entries(self, memory: PhysicalReader, roots: U64) -> IsolatedEntries:
        if not self.isolation:
            return IsolatedEntries.zeros(0)
        return isolation.differing_entries(memory, roots, self.levels)

    def walk_user_only(self, memory: PhysicalReader, roots: U64, differing: IsolatedEntries) -> Walk:
        return isolation.walk_user_only(memory, roots, differing, self._user_bounds())

    # The kernel half ---------------------------------------------------------------------------------

    def kernel_entries(self, memory: PhysicalReader, roots: U64, reference: int, own_tables: Bools) -> KernelHalves:
        return kernel_half.kernel_entries(
            memory, roots, reference, kernel_half.Shape(self.levels, bool(self.isolation)), own_tables
        )

    def walk_kernel_entries(self, memory: PhysicalReader, entries: KernelEntries) -> Walk:
        return kernel_half.walk_entries(memory, entries, self._kernel_bounds())

    def kernel_leaves_for_user_mode(self, leaves: Leaves) -> Leaves:
        return kernel_half.for_user_mode(leaves)

    def walk_kernel_half(self, memory: PhysicalReader, root: int) -> Walk:
        return paging.walk(memory, np.array([root], np.uint64), self._kernel_bounds())

    def roots_of(self, table_register: U64) -> tuple[U64, ...]:
        # Bits of CR3 that are no address: PCID below, LAM and no-flush above (Intel SDM vol. 3, 2.5 and 4.10.4.1).
        root = table_register & np.uint64(self.address_mask)
        return root, root & ~np.uint64(isolation.PAGE)

    # The kernel's own mappings -------------------------------------------------------------------------

    def image_offset(self, number: Callable[[str], int | None]) -> int | None:
        return kernel_image.image_offset(number)

    def image_offset_of(self, stored: int) -> int:
        return kernel_image.image_offset_of(stored)

    def phys_base(self, image_offset: int) -> int:
        return kernel_image.phys_base(image_offset)

    def kaslr_offset(self, text: int) -> int:
        return kernel_image.kaslr_offset(text)

    def bind(self, facts: BootFacts) -> Self:
        return replace(
            self,
            levels=kernel_image.levels(facts),
            address_mask=encryption.address_mask(facts),
            # 6.6: pte_mkwrite became a function when dirty bits were moved out of the way of shadow stacks.
            saved_dirty=facts.has_symbol("pte_mkwrite") or facts.has_struct("thread_shstk"),
        )

    def variants(self) -> tuple[Self, ...]:
        return self, replace(self, levels=9 - self.levels)

    def encrypted(self, memory: PhysicalReader, root: int) -> Self:
        return replace(self, address_mask=encryption.mask_of_tables(memory, root, self.address_mask))

    def isolated(self, memory: PhysicalReader, root: int) -> Self:
        return replace(self, isolation=isolation.is_isolated(memory, root))

    def direct_map(self, word: Callable[[str, int], int | None]) -> int:
        return kernel_image.direct_map(word, self.levels)

    def vmemmap(self, word: Callable[[str, int], int | None]) -> int:
        return kernel_image.vmemmap(word, self.levels)

    def shadow_of(self, places: U64) -> U64:
        return addresses.shadow_of(places)

    # Threads, CPUs and dumps -------------------------------------------------------------------------

    def find_saved_registers(self, kernel: KernelReader, stacks: U64) -> Place:
        return registers.find_saved_registers(kernel, stacks)

    def saved_registers(self, kernel: KernelReader, stacks: U64, place: Place) -> SavedRegisters:
        return registers.saved_registers(kernel, stacks, place)

    def core_registers(self, kernel: KernelReader, tasks: U64, saved: U64) -> CoreRegisters:
        return core_registers.general_registers(kernel, tasks, saved)

    def core_registers_of_cpu(self, state: CpuState) -> tuple[int, ...]:
        return core_registers.registers_of_cpu(state)

    def core_floating(self, kernel: KernelReader, tasks: U64) -> list[FloatingState | None]:
        return core_registers.floating_states(kernel, tasks)

    def cpu_states(self, notes: Iterable[Note]) -> tuple[CpuState, ...]:
        return registers.cpu_states(notes)

    def unwinding(self, kernel: KernelReader, modules: ModuleCode) -> Unwinding:
        return unwinding.X86Unwinding(kernel, modules)

    def stack_size(self, kernel: KernelReader) -> int:
        return cpu_stacks.thread_size(kernel)

    def loaded_mm_words(self, kernel: KernelReader, cpus: I32) -> U64:
        return registers.loaded_mm_words(kernel, cpus)

    def has_other_tables(self, kernel: KernelReader, mms: U64) -> Bools:
        # A local descriptor table is mapped by page tables of its own in the kernel half (arch/x86/kernel/ldt.c).
        tables, _ = kernel.gather_member("mm_struct", "context.ldt?", mms)
        has: Bools = tables != 0
        return has

    # Special pages -----------------------------------------------------------------------------------

    def has_gate_area(self, kernel: KernelReader, mms: U64) -> Bools:
        return special_pages.has_gate_area(kernel, mms)

    def gate_area(self, kernel: KernelReader) -> GateArea | None:
        return special_pages.gate_area(kernel)

    def in_fixed_pages(self, addresses: U64) -> Bools:
        return special_pages.in_fixed_pages(addresses)

    def first_jumps(self, code: U8, at: I64) -> tuple[Bools, I64]:
        return vdso.first_jumps(code, at)

    def operand(self, code: bytes) -> MemoryOperand | None:
        return operands.operand(code)

    # vm_flags ----------------------------------------------------------------------------------------

    def vm_flag_names(self, kernel: KernelReader) -> dict[int, str]:
        return special_pages.vm_flag_names(kernel)

    def has_protection_keys(self, kernel: KernelReader, mms: U64) -> bool:
        return special_pages.has_protection_keys(kernel, mms)

    def protection_key(self, vm_flags: int) -> int:
        return special_pages.protection_key(vm_flags)

    def shadow_stack_flag(self, kernel: KernelReader) -> int:
        return special_pages.shadow_stack_flag(kernel)
