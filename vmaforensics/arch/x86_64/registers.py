"""Registers that the kernel saved of threads, and those in the notes of dumps.

On entry from user mode the registers are saved at the top of the kernel stack (``task_pt_regs``,
arch/x86/include/asm/processor.h). How large the stack is and what lies above the registers are macros, so
the place is found by trying those there are: a user code segment has to be at the right offset.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.registers import CpuState, Place, SavedRegisters
from vmaforensics.arch.x86_64.kernel_image import levels_of
from vmaforensics.arch.x86_64.saved_registers import IP, SP, WORDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmaforensics.arch.reading import KernelReader, Note
    from vmaforensics.columns.types import I32, U64, Bools

_STRUCT = "pt_regs"
# arch/x86/include/asm/segment.h: __USER_CS and __USER32_CS. Others are of the local descriptor table, whose
# segments need not begin at 0.
_FLAT_CODE = (0x33, 0x23)
_USER_DATA = 0x2B  # __USER_DS
_SELECTOR = 0xFFFF  # the upper bits of the word with cs have served other purposes (FRED: struct fred_cs)
_STACK_SIZES = (16 << 10, 32 << 10)  # THREAD_SIZE, without and with KASAN (page_64_types.h)
_PADDINGS = (0, 16)  # TOP_OF_KERNEL_STACK_PADDING: with CONFIG_X86_FRED 16 (thread_info.h)

NT_PRSTATUS = 1
# struct elf_prstatus (include/linux/elfcore.h): pr_pid, then pt_regs from r15 on.
PRSTATUS_SIZE, PRSTATUS_PID, PRSTATUS_REGS = 336, 32, 112
_SEGMENTS = 6  # words behind those of pt_regs: fs_base, gs_base, ds, es, fs, gs

# struct QEMUCPUState (QEMU, target/i386/arch_dump.c): u32 version, u32 size, registers, segments, cr0..cr4.
QEMU_STATE_SIZE, QEMU_RSP, QEMU_RIP, QEMU_IDT, QEMU_CR0, QEMU_CR3, QEMU_CR4 = 440, 56, 136, 384, 392, 416, 424
_PAGING = 1 << 31  # in CR0; a CPU that was never started has it off
# Where that structure has the words of struct pt_regs, from r15 on; it has no orig_ax. cs and ss are a selector of
# 32 bits that begins a structure of 24 bytes.
_QEMU_WORDS = (128, 120, 112, 104, 64, 16, 96, 88, 80, 72, 8, 24, 32, 40, 48, None, QEMU_RIP, 152, 144, QEMU_RSP, 272)
_QEMU_SELECTORS = (152, 272)


def find_saved_registers(kernel: KernelReader, stacks: U64) -> Place:
    """The size and padding with which most stacks have user selectors where they should be."""
    size = kernel.sizeof(_STRUCT)
    offsets = {name: kernel.offset(_STRUCT, name) for name in ("ip", "sp")}
    best = Place(offset=_STACK_SIZES[0] - size, fitting=0, tried=0, offsets=offsets)
    for stack_size in _STACK_SIZES:
        for padding in _PADDINGS:
            place = replace(best, offset=stack_size - padding - size)
            _, flat, ok = _segments(kernel, stacks, place)
            if stack_size == _STACK_SIZES[0] and padding == 0:
                best = replace(best, tried=int(ok.sum()))
            fitting = int((ok & flat).sum())
            if fitting > best.fitting:
                best = replace(place, fitting=fitting, tried=best.tried)
    return best


def saved_registers(kernel: KernelReader, stacks: U64, place: Place) -> SavedRegisters:
    """The registers at ``place`` of each stack, with 0 in ``where`` if they could not be read."""
    where, flat, ok = _segments(kernel, stacks, place)
    ip, ok_ip = kernel.gather_member(_STRUCT, "ip", where)
    sp, ok_sp = kernel.gather_member(_STRUCT, "sp", where)
    held = ok & ok_ip & ok_sp
    return SavedRegisters(where=np.where(held, where, np.uint64(0)), ip=ip, sp=sp, user=held & flat)


def _segments(kernel: KernelReader, stacks: U64, place: Place) -> tuple[U64, Bools, Bools]:
    """(address of the registers, are cs and ss those of flat user code, could they be read) for each stack."""
    with np.errstate(over="ignore"):
        where = stacks + np.uint64(place.offset)
    cs, ok = kernel.gather_member(_STRUCT, "cs", where)
    ss, ok_ss = kernel.gather_member(_STRUCT, "ss", where)
    selector = np.uint64(_SELECTOR)
    flat = np.isin(cs & selector, np.array(_FLAT_CODE, np.uint64)) & ((ss & selector) == np.uint64(_USER_DATA))
    return where, flat, ok & ok_ss


def cpu_states(notes: Iterable[Note]) -> tuple[CpuState, ...]:
    """The CPUs that ``CORE`` (NT_PRSTATUS) and ``QEMU`` notes describe, in the order of the notes.

    The n-th NT_PRSTATUS and the n-th QEMU note are the same CPU; the latter alone knows the control
    registers. QEMU writes the number of the CPU plus one where a kernel writes the pid.
    """
    notes = list(notes)
    status = [n.desc for n in notes if n.name == "CORE" and n.type == NT_PRSTATUS and len(n.desc) >= PRSTATUS_REGS]
    qemu = [n.desc for n in notes if n.name == "QEMU" and n.type == 0 and len(n.desc) >= QEMU_STATE_SIZE]
    states = []
    for cpu in range(max(len(status), len(qemu))):
        state = CpuState(cpu=cpu)
        if cpu < len(status):
            desc = status[cpu]
            state = replace(state, pid=int.from_bytes(desc[PRSTATUS_PID : PRSTATUS_PID + 4], "little"))
            if len(desc) >= PRSTATUS_SIZE:
                words = tuple(_word(desc, PRSTATUS_REGS + 8 * place) for place in range(WORDS))
                segments = tuple(_word(desc, PRSTATUS_REGS + 8 * (WORDS + place)) for place in range(_SEGMENTS))
                state = replace(state, ip=words[IP], sp=words[SP], words=words, segments=segments)
        if cpu < len(qemu):
            desc = qemu[cpu]
            words = state.words or _qemu_words(desc)
            state = replace(state, ip=_word(desc, QEMU_RIP), sp=_word(desc, QEMU_RSP), words=words)
            state = replace(state, vector_table=_word(desc, QEMU_IDT) or None)
            if _word(desc, QEMU_CR0) & _PAGING:
                levels = levels_of(_word(desc, QEMU_CR4))
                state = replace(state, table_register=_word(desc, QEMU_CR3), levels=levels)
        states.append(state)
    return tuple(states)


def _qemu_words(desc: bytes) -> tuple[int, ...]:
    """The words of struct pt_regs that a QEMU note stands for; orig_ax is 0."""
    words = [0 if at is None else _word(desc, at) for at in _QEMU_WORDS]
    for place, at in enumerate(_QEMU_WORDS):
        if at in _QEMU_SELECTORS:
            words[place] &= 0xFFFFFFFF
    return tuple(words)


def loaded_mm_words(kernel: KernelReader, cpus: I32) -> U64:
    """Address of ``cpu_tlbstate.loaded_mm`` of each CPU (arch/x86/include/asm/tlbflush.h); 0 if unknown."""
    variable, offsets = kernel.symbols.get("cpu_tlbstate"), kernel.symbols.get("__per_cpu_offset")
    none = np.zeros(len(cpus), np.uint64)
    if variable is None or offsets is None or not kernel.has("tlb_state", "loaded_mm"):
        return none
    words, ok = kernel.words(np.uint64(offsets) + np.uint64(8) * cpus.astype(np.uint64), 1)
    with np.errstate(over="ignore"):
        addresses = words[:, 0] + np.uint64(variable + kernel.offset("tlb_state", "loaded_mm"))
    return np.where(ok, addresses, none)


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")
