"""The interface to an architecture: what everything outside ``arch/`` may ask of the CPU.

An architecture is an immutable object. At first it knows what holds for any kernel on that CPU; :meth:`bind` gives
the one that also knows the kernel read: how many levels its page tables have, which bits of an entry are an address.
``kernel.arch`` and ``views.arch`` are bound.

Addresses and entries are arrays of 64-bit words; sizes are bytes unless "pages" is said.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vmaforensics.arch.code_interface import CodeInterface
from vmaforensics.arch.paging_interface import PagingInterface

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Self

    from vmaforensics.arch.reading import KernelReader, Note, PhysicalReader
    from vmaforensics.arch.registers import (
        CoreRegisters,
        CpuState,
        FloatingState,
        MemoryOperand,
        Place,
        PrintedRegisters,
        RegisterNames,
        SavedRegisters,
    )
    from vmaforensics.arch.unwinding import ModuleCode, Unwinding
    from vmaforensics.columns.types import I32, I64, U8, U64, Bools


class ThreadPointer(NamedTuple):
    """The register that thread-local storage hangs on: its name, and the member of ``task_struct`` that keeps it."""

    name: str
    path: str


class KernelTables(NamedTuple):
    """Symbols that lead to page tables of the kernel itself."""

    tables: tuple[str, ...]  # symbols of top-level tables
    mms: tuple[str, ...]  # symbols of mm_structs
    pointers: tuple[str, ...]  # symbols of pointers to mm_structs


class GateArea(NamedTuple):
    """The VMA that every process shows and none has (get_gate_vma)."""

    start: int
    end: int
    flags: int
    name: bytes


class VdsoSymbols(NamedTuple):
    """Symbols that lead to what the kernel maps into every process."""

    images: tuple[str, ...]  # struct vdso_image: code, one for each kind of program
    code: tuple[str, ...]  # vm_special_mapping of VMAs with such code
    data: tuple[str, ...]  # those of VMAs with the data that it works on
    pages: tuple[str, ...]  # variables in pages of that data
    pointers: tuple[str, ...]  # pointers to pages of that data
    structs: tuple[str, ...]  # pointers to the struct page of the first of all its pages


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFacts:
    """What is known of a kernel when its architecture is bound.

    ``number`` reads a NUMBER() line of VMCOREINFO, ``word`` a variable of some bytes by the name of its symbol; both
    give None for what is not known.
    """

    number: Callable[[str], int | None]
    word: Callable[[str, int], int | None]
    cpus: Sequence[CpuState]
    has_struct: Callable[[str], bool]
    has_symbol: Callable[[str], bool]


class Architecture(PagingInterface, CodeInterface):
    """What is true because of the CPU; what is true of page tables and of code is in the interfaces it is made of."""

    # What it is --------------------------------------------------------------------------------------

    name: str  # for people: "x86-64"
    machine: str  # uname -m of its kernels, as dump headers have it
    elf_machine: str  # EM_* of its ELF files
    registers: RegisterNames
    printed_registers: PrintedRegisters
    register_words: tuple[str, ...]  # names of the registers in ``CpuState.words``
    state_registers: frozenset[str]  # names, in capitals, of registers that hold no address that code works on

    # The kernel's own mappings, and how KASLR moves them -----------------------------------------------

    image_start: int  # first address at which a kernel image may be mapped
    image_size: int  # bytes from there that it may lie in
    base_symbol: str  # the variable that says where the kernel image was put; see image_offset_of
    place_symbols: tuple[str, ...]  # variables that say where KASLR put the image and the maps of memory
    region_symbols: tuple[str, str]  # variables that say where the direct map and the struct pages begin
    kaslr_step: int  # the kernel image is moved by multiples of this
    region_step: int  # the direct map begins at a multiple of this
    direct_map_size: int  # physical memory that the direct map can reach
    hole_end: int  # physical address below which devices take up room that RAM leaves; 0 where there is no such hole
    kernel_tables: KernelTables

    @abstractmethod
    def image_offset(self, number: Callable[[str], int | None]) -> int | None:
        """Virtual minus physical address of the kernel image, by a NUMBER() of VMCOREINFO; None if it is not there."""

    @abstractmethod
    def image_offset_of(self, stored: int) -> int:
        """The same, by the 64-bit value of the variable :attr:`base_symbol`."""

    @abstractmethod
    def phys_base(self, image_offset: int) -> int:
        """What the kernel calls the place of its image, from :meth:`image_offset`."""

    @abstractmethod
    def kaslr_offset(self, text: int) -> int:
        """How far a kernel image whose ``_text`` is at ``text`` was moved from where it was linked."""

    @abstractmethod
    def bind(self, facts: BootFacts) -> Self:
        """This architecture with what ``facts`` say of one kernel: levels, address bits of entries."""

    @abstractmethod
    def variants(self) -> tuple[Self, ...]:
        """This architecture, and what else the kernel may be if its page tables do not fit: other levels."""

    @abstractmethod
    def encrypted(self, memory: PhysicalReader, root: int) -> Self:
        """This architecture without address bits that the kernel's page tables at ``root`` use for something else."""

    @abstractmethod
    def isolated(self, memory: PhysicalReader, root: int) -> Self:
        """This architecture with :attr:`isolation` as the kernel's page tables at ``root`` tell."""

    @abstractmethod
    def direct_map(self, word: Callable[[str, int], int | None]) -> int:
        """First address of the direct map; ``word`` as in :class:`BootFacts`."""

    @abstractmethod
    def vmemmap(self, word: Callable[[str, int], int | None]) -> int:
        """Address of the ``struct page`` of frame 0; ``word`` as in :class:`BootFacts`."""

    @abstractmethod
    def shadow_of(self, places: U64) -> U64:
        """Where a kernel with KASAN keeps the byte that says whether its code may use each of these addresses."""

    # Threads, CPUs and dumps -------------------------------------------------------------------------

    thread_pointer: ThreadPointer
    saved_stack: str  # member of task_struct: the stack pointer of the kernel when the task last left a CPU
    sa_restorer: int  # SA_RESTORER of sigaction.sa_flags
    red_zone: int  # bytes beyond the stack pointer that functions may use

    @abstractmethod
    def find_saved_registers(self, kernel: KernelReader, stacks: U64) -> Place:
        """Where on kernel stacks the user-mode registers lie, by trying on ``stacks`` what the kernel may do."""

    @abstractmethod
    def saved_registers(self, kernel: KernelReader, stacks: U64, place: Place) -> SavedRegisters:
        """The user-mode registers at that place of each of ``stacks``."""

    @abstractmethod
    def core_registers(self, kernel: KernelReader, tasks: U64, saved: U64) -> CoreRegisters:
        """What a core file has of the general registers of each of ``tasks``, whose user-mode registers the kernel
        saved at ``saved``."""

    @abstractmethod
    def core_registers_of_cpu(self, state: CpuState) -> tuple[int, ...]:
        """The same of the CPU itself, for a thread that ran user code; () where the dump does not have all of it."""

    @abstractmethod
    def core_floating(self, kernel: KernelReader, tasks: U64) -> list[FloatingState | None]:
        """The floating-point registers of each of ``tasks`` as saved when it left a CPU; None where not known."""

    @abstractmethod
    def cpu_states(self, notes: Iterable[Note]) -> tuple[CpuState, ...]:
        """The CPUs that notes of a dump of such a machine describe, in the order of the notes."""

    @abstractmethod
    def unwinding(self, kernel: KernelReader, modules: ModuleCode) -> Unwinding:
        """How stacks of ``kernel``, which has loaded ``modules``, are unwound."""

    @abstractmethod
    def stack_size(self, kernel: KernelReader) -> int:
        """Bytes of a task's kernel stack (THREAD_SIZE)."""

    @abstractmethod
    def loaded_mm_words(self, kernel: KernelReader, cpus: I32) -> U64:
        """Address of the word in which the kernel notes the mm that each CPU has loaded; 0 where there is none."""

    @abstractmethod
    def has_other_tables(self, kernel: KernelReader, mms: U64) -> Bools:
        """Which mms have page tables counted in pgtables_bytes that :meth:`walk_user` does not meet."""

    # Special pages -----------------------------------------------------------------------------------

    vdso_symbols: VdsoSymbols

    @abstractmethod
    def first_jumps(self, code: U8, at: I64) -> tuple[Bools, I64]:
        """Which pieces of ``code``, 16 bytes each, begin with a jump, and where it leads; negative where not known.

        ``at`` is where each piece lies. What amounts to a jump counts too: a breakpoint, an address that is pushed.
        """

    @abstractmethod
    def has_gate_area(self, kernel: KernelReader, mms: U64) -> Bools:
        """Does each process show the gate area?"""

    @abstractmethod
    def gate_area(self, kernel: KernelReader) -> GateArea | None:
        """The gate area, if this kernel shows one at all."""

    @abstractmethod
    def in_fixed_pages(self, addresses: U64) -> Bools:
        """Does each address lie in a page that user code may run in though no VMA has it?"""

    @abstractmethod
    def operand(self, code: bytes) -> MemoryOperand | None:
        """What the instruction that ``code`` begins with makes the address of its operand in memory of; None if it has
        none, or is not known."""

    # vm_flags ----------------------------------------------------------------------------------------

    @abstractmethod
    def vm_flag_names(self, kernel: KernelReader) -> dict[int, str]:
        """Name, without ``VM_``, of each bit of ``vm_flags`` that has a meaning on this CPU alone."""

    @abstractmethod
    def has_protection_keys(self, kernel: KernelReader, mms: U64) -> bool:
        """Does the kernel print the protection key of each VMA (arch_pkeys_enabled)?"""

    @abstractmethod
    def protection_key(self, vm_flags: int) -> int:
        """The protection key in ``vm_flags`` (vma_pkey)."""

    @abstractmethod
    def shadow_stack_flag(self, kernel: KernelReader) -> int:
        """The bit of ``vm_flags`` that marks a shadow stack; 0 if this kernel has none."""
