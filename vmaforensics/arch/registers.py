"""Registers of CPUs and threads, by what they are for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import U64, Bools

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuState:
    """What the dump's notes say of one CPU. ``None``: not recorded there."""

    cpu: int
    pid: int | None = None
    ip: int | None = None  # instruction pointer
    sp: int | None = None  # stack pointer
    table_register: int | None = None  # which page tables it was on: CR3
    levels: int | None = None  # of page tables, if a control register says so
    vector_table: int | None = None  # address of the table of exceptions that it went by: IDTR
    # All of them, in the order in which the kernel saves them; () if they are not recorded.
    words: tuple[int, ...] = field(default=(), compare=False, repr=False)
    # What a core file has behind those words: segment registers and their bases; () if they are not recorded.
    segments: tuple[int, ...] = field(default=(), compare=False, repr=False)


class CoreRegisters(NamedTuple):
    """The general registers of threads, as the notes of core files have them (``elf_gregset_t``)."""

    words: U64  # a row for each thread
    ok: Bools  # all of them could be read


class FloatingState(NamedTuple):
    """The floating-point and vector registers of a thread."""

    notes: tuple[tuple[str, int, bytes], ...]  # owner, type and descriptor of the notes of a core file
    left_out: int  # bits of the state components in use that no note has


class RegisterNames(NamedTuple):
    """What the CPU's manuals call the registers that findings name."""

    ip: str
    sp: str
    table: str  # the one that names the page tables


class PrintedRegisters(NamedTuple):
    """How the kernel prints registers into its log (show_regs): what its lines begin with, or hold."""

    kernel_place: re.Pattern[str]  # before the function in which kernel code was
    user_place: re.Pattern[str]  # before the instruction at which user code was
    register: re.Pattern[str]  # two groups: name, value in hexadecimal


class MemoryOperand(NamedTuple):
    """The address that an instruction accesses: base + scaled * scale + displacement, by the names of registers."""

    base: str | None
    scaled: str | None
    scale: int
    displacement: int

    def address(self, registers: Mapping[str, int]) -> int | None:
        """The address with these ``registers``; None where one of them is not known."""
        total = self.displacement
        for name, scale in ((self.base, 1), (self.scaled, self.scale)):
            if name is not None:
                if name not in registers:
                    return None
                total += registers[name] * scale
        return total % (1 << 64)


@table()
class SavedRegisters(Table):
    """The user-mode registers that the kernel saved of each thread on entry from user mode."""

    where: U64  # address of the saved registers; 0 where they could not be read
    ip: U64
    sp: U64
    user: Bools  # they are those of ordinary user code: mode, code and stack segments are right


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where saved registers lie: so many bytes above the start of a kernel stack, and how sure that is."""

    offset: int
    fitting: int  # threads whose registers at that place are those of user code
    tried: int  # threads whose stack is in the image
    offsets: dict[str, int]  # of the registers ip and sp within the saved registers
