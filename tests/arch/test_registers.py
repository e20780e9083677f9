"""Saved registers on kernel stacks, and those of dump notes."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from handmade import LINUX, Machine
from image.build import NOTES

from vmaforensics.arch.known import DEFAULT, by_elf_machine, by_machine
from vmaforensics.arch.registers import CpuState
from vmaforensics.arch.x86_64.architecture import X86_64
from vmaforensics.image.image import Note
from vmaforensics.image.notes import cpu_states, parse_notes

ARCH = X86_64()
PT_REGS = "r15:u64[16] ip:u64 cs:u64 flags:u64 sp:u64 ss:u64"
SIZE = 21 * 8
USER_CS, USER32_CS, USER_DS, KERNEL_CS = 0x33, 0x23, 0x2B, 0x10
KIB = 1024


def stack(machine: Machine, size: int, padding: int, *, cs: int = USER_CS, ss: int = USER_DS) -> int:
    """A kernel stack of ``size`` bytes with user registers at its top."""
    base = machine.room(size)
    at = base + size - padding - SIZE
    for offset, value in ((128, 0x401000), (136, cs), (152, 0x7FFF_0000), (160, ss)):
        machine.word(at + offset, value)
    return base


@pytest.mark.parametrize("size", [16 * KIB, 32 * KIB])
@pytest.mark.parametrize("padding", [0, 16])
def test_registers_are_found_wherever_this_kernel_keeps_them(size: int, padding: int) -> None:
    machine = Machine(LINUX | {"pt_regs": PT_REGS})
    stacks = np.array([stack(machine, size, padding) for _ in range(3)], np.uint64)
    machine.room(32 * KIB)  # whatever is tried can be read
    kernel = machine.kernel()
    place = ARCH.find_saved_registers(kernel, stacks)
    assert (place.offset, place.fitting, place.tried) == (size - padding - SIZE, 3, 3)
    saved = ARCH.saved_registers(kernel, stacks, place)
    assert saved.ip.tolist() == [0x401000] * 3
    assert saved.sp.tolist() == [0x7FFF_0000] * 3
    assert saved.user.all()
    assert saved.where.tolist() == (stacks + np.uint64(place.offset)).tolist()


def test_user_code_is_told_by_its_selectors() -> None:
    machine = Machine(LINUX | {"pt_regs": PT_REGS})
    kinds = ((USER_CS, USER_DS), (USER32_CS, USER_DS), (0xABCD_0000_0033, USER_DS), (KERNEL_CS, 0x18), (0x07, USER_DS))
    stacks = np.array([stack(machine, 16 * KIB, 0, cs=cs, ss=ss) for cs, ss in kinds], np.uint64)
    machine.room(32 * KIB)
    kernel = machine.kernel()
    saved = ARCH.saved_registers(kernel, stacks, ARCH.find_saved_registers(kernel, stacks))
    assert saved.user.tolist() == [True, True, True, False, False]


def test_a_stack_that_is_not_in_the_dump_has_no_registers() -> None:
    machine = Machine(LINUX | {"pt_regs": PT_REGS})
    stacks = np.array([stack(machine, 16 * KIB, 0) for _ in range(2)], np.uint64)
    machine.room(32 * KIB)
    machine.drop(int(stacks[1]) + 16 * KIB - SIZE)
    kernel = machine.kernel()
    saved = ARCH.saved_registers(kernel, stacks, ARCH.find_saved_registers(kernel, stacks))
    assert saved.user.tolist() == [True, False]
    assert saved.where.tolist() == [int(stacks[0]) + 16 * KIB - SIZE, 0]


def test_notes_of_the_machine_give_registers_and_those_of_another_only_pids() -> None:
    notes, _ = parse_notes(NOTES, "")
    assert cpu_states(notes, ARCH) == (
        CpuState(cpu=0, pid=260, ip=0xFFFFFFFF81000010, sp=0xFFFFC90000001000, table_register=0x1234000, levels=4),
        CpuState(cpu=1, pid=0, ip=0xFFFFFFFF81000020, sp=0xFFFFC90000002000, table_register=0x5678000, levels=4),
    )
    assert cpu_states(notes, None) == (CpuState(cpu=0, pid=260), CpuState(cpu=1, pid=0))


def test_a_cpu_that_was_never_started_is_on_no_page_tables() -> None:
    """As with ``nosmp``: CR0 after a reset (Intel SDM vol. 3, table 10-1) has no paging."""
    state = bytearray(440)
    struct.pack_into("<Q", state, 136, 0xFFF0)
    struct.pack_into("<Q", state, 392, 0x60000010)
    (found,) = cpu_states([Note(name="QEMU", type=0, desc=bytes(state))], ARCH)
    assert (found.ip, found.table_register, found.levels) == (0xFFF0, None, None)


def test_no_notes_are_no_cpus() -> None:
    assert cpu_states([], ARCH) == ()


def test_architectures_go_by_the_names_that_headers_use() -> None:
    assert by_elf_machine("EM_X86_64") is by_machine("x86_64") is by_machine("") is DEFAULT
    assert by_elf_machine("EM_AARCH64") is by_machine("aarch64") is None


def test_all_registers_of_a_note_are_kept_in_the_order_of_the_kernel() -> None:
    notes, _ = parse_notes(NOTES, "")
    for state in cpu_states(notes, ARCH):
        assert (state.words[16], state.words[19]) == (state.ip, state.sp)


def test_registers_of_a_note_of_the_hypervisor_alone_are_put_into_that_order() -> None:
    """QEMUCPUState: version, size, rax rbx rcx rdx rsi rdi rsp rbp, r8 to r15, rip, rflags, cs …, ss sixth behind."""
    state = bytearray(440)
    struct.pack_into("<18Q", state, 8, *range(1, 19))
    struct.pack_into("<IIIIQ", state, 152, 0x10, 0xFFFF, 0xA09B00, 0, 0)
    struct.pack_into("<IIIIQ", state, 272, 0x18, 0xFFFF, 0xC09300, 0, 0)
    (found,) = cpu_states([Note(name="QEMU", type=0, desc=bytes(state))], ARCH)
    rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, flags = range(1, 19)
    assert found.words == (
        r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, 0, rip, 0x10, flags, rsp, 0x18,
    )  # fmt: skip
