"""How the CPU comes into the kernel: gates of exceptions and interrupts, and what its entry code calls.

arch/x86/kernel/idt.c, arch/x86/include/asm/idtentry.h, arch/x86/entry. Intel SDM vol. 3, 6.14.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.arch.branches import Vectors, VectorTable

if TYPE_CHECKING:
    from vmaforensics.arch.reading import KernelReader

TABLE: Final = "idt_table"
DESCRIPTOR: Final = "idt_descr"  # what CPUs load: a read-only mapping of the table
SYSTEM_CALL_TABLES: Final = ("sys_call_table", "x32_sys_call_table", "ia32_sys_call_table")
# Since 6.9 (1e3ad78334a6), and 6.1.85 and 6.6.26: a switch that is compiled.
SYSTEM_CALL_SWITCHES: Final = (
    ("x64_sys_call", "sys_call_table"),
    ("x32_sys_call", "x32_sys_call_table"),
    ("ia32_sys_call", "ia32_sys_call_table"),
)
SYSTEM_CALL_NAMES: Final = ("__x64_", "__ia32_", "__x32_", "__do_")  # arch/x86/include/asm/syscall_wrapper.h
ENTRY_TEXT: Final = ("__entry_text_start", "__entry_text_end")
ENTRY_FUNCTIONS: Final = (
    *("do_syscall_64", "do_int80_syscall_32", "do_fast_syscall_32", "do_SYSENTER_32", "do_int80_emulation"),
    *("int80_emulation", "x64_sys_call", "x32_sys_call", "ia32_sys_call", "syscall_trace_enter"),
    *("syscall_enter_from_user_mode", "exc_page_fault", "do_user_addr_fault", "exc_general_protection", "exc_debug"),
    *("exc_int3", "exc_nmi", "exc_invalid_op", "common_interrupt", "sysvec_apic_timer_interrupt"),
    *("fred_entry_from_user", "fred_entry_from_kernel", "fred_syscall", "fred_other", "sync_regs", "error_entry"),
)
_GATES, _GATE_SIZE = 256, 16
_PRESENT = np.uint64(1 << 47)
_ADDRESS = 2  # bytes of struct desc_ptr before the address
_EXCEPTIONS: Final = (
    *("divide_error", "debug", "nmi", "int3", "overflow", "bounds", "invalid_op", "device_not_available"),
    *("double_fault", "coproc_segment_overrun", "invalid_tss", "segment_not_present", "stack_segment"),
    *("general_protection", "page_fault", "spurious_interrupt_bug", "coprocessor_error", "alignment_check"),
    *("machine_check", "simd_coprocessor_error"),
)
# Where the kernel is a guest, others take the place of these (exc_nmi_kvm_vmx is called, not led to).
_OTHERS: Final = {name: (f"xen_asm_exc_{name}", f"asm_exc_xen{name}") for name in _EXCEPTIONS}

# All symbols that are asked for here.
SYMBOLS: Final = (
    *(TABLE, DESCRIPTOR, *ENTRY_TEXT, *ENTRY_FUNCTIONS, *SYSTEM_CALL_TABLES),
    *(name for names in SYSTEM_CALL_SWITCHES for name in names),
    *(f"asm_exc_{name}" for name in _EXCEPTIONS),
    *(name for names in _OTHERS.values() for name in names),
)


def vectors(kernel: KernelReader) -> Vectors:
    """The gates of ``idt_table`` that are present; none where it cannot be read."""
    table = kernel.symbols.get(TABLE)
    found = gates(kernel, table or 0)
    return found if table is not None else Vectors(found.at[:0], found.number[:0], found.handler[:0], ())


def gates(kernel: KernelReader, table: int) -> Vectors:
    """The gates of a table that are present."""
    number = np.arange(_GATES, dtype=np.uint64)
    at = np.uint64(table) + number * np.uint64(_GATE_SIZE)
    words, ok = kernel.words(at, 2)
    low, high = words[:, 0], words[:, 1]
    handler = (low & np.uint64(0xFFFF)) | ((low >> np.uint64(32)) & np.uint64(0xFFFF_0000))
    handler |= (high & np.uint64(0xFFFF_FFFF)) << np.uint64(32)
    known = ok & ((low & _PRESENT) != 0)
    return Vectors(at[known], number[known], handler[known], tuple(map(_names, number[known].tolist())))


def _names(number: int) -> tuple[str, ...]:
    if number >= len(_EXCEPTIONS):
        return ()
    name = _EXCEPTIONS[number]
    return (f"asm_exc_{name}", *_OTHERS[name])


def vector_tables(kernel: KernelReader) -> tuple[VectorTable, ...]:
    """What CPUs are told, by ``idt_descr``."""
    at = kernel.symbols.get(DESCRIPTOR)
    if at is None:
        return ()
    words, ok = kernel.words(np.array([at + _ADDRESS], np.uint64), 1)
    return (VectorTable(at + _ADDRESS, int(words[0, 0]), DESCRIPTOR),) if ok[0] else ()
