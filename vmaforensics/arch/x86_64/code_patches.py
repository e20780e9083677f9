"""Instructions that the kernel patches in and out (arch/x86/kernel/{ftrace,jump_label,static_call,alternative}.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.branches import Branches, BranchKind, PatchRecord, Vectors

if TYPE_CHECKING:
    from vmaforensics.arch.reading import KernelReader
    from vmaforensics.columns.types import U8, U64

SIZE = 5  # bytes of a call or jump with a 32-bit displacement
FILLER = 0xCC  # what unused code memory is filled with (int3)

VECTOR_TABLE = "idt_table"
SYSTEM_CALL_TABLES = ("sys_call_table", "x32_sys_call_table", "ia32_sys_call_table")
# text_poke_bp_batch. Up to 5.18 bp_desc leads to a description while code is patched, then it is one that counts who
# uses it; since 6.16 text_poke_array has the places that are changed.
PATCH_RECORDS = (
    PatchRecord("text_poke_array", "smp_text_poke_array", "nr_entries"),
    PatchRecord("bp_desc", "bp_patching_desc", "refs.counter"),
)

_CALL, _JUMP, _SHORT_JUMP, _BREAKPOINT = 0xE8, 0xE9, 0xEB, 0xCC
# x86_nops[5], and what 5.10 and older chose by CPU: K8_NOP5_ATOMIC, GENERIC_NOP5_ATOMIC (arch/x86/include/asm/nops.h).
_NOPS = ("0f1f440000", "6666666690", "3e8d742600")
_SHORT_NOP = b"\x66\x90"
_GATES, _GATE_SIZE = 256, 16  # of an interrupt descriptor table in 64-bit mode (Intel SDM vol. 3, 6.14.1)
_GATE_PRESENT = np.uint64(1 << 47)


def branches(code: U8, at: U64) -> Branches:
    """The instruction that each row of ``code`` (shape ``(n, SIZE)``) begins with; it lies at the address beside it."""
    first = code[:, 0]
    nop = (code[:, :2] == np.frombuffer(_SHORT_NOP, np.uint8)).all(axis=1)
    for text in _NOPS:
        nop |= (code == np.frombuffer(bytes.fromhex(text), np.uint8)).all(axis=1)
    kinds: U8 = np.select(
        [nop, first == _CALL, (first == _JUMP) | (first == _SHORT_JUMP), first == _BREAKPOINT],
        [BranchKind.NOP, BranchKind.CALL, BranchKind.JUMP, BranchKind.BREAKPOINT],
        BranchKind.OTHER,
    ).astype(np.uint8)
    far = np.ascontiguousarray(code[:, 1:]).view("<i4")[:, 0].astype(np.int64) + SIZE
    near = code[:, 1].astype(np.int8).astype(np.int64) + len(_SHORT_NOP)
    with np.errstate(over="ignore"):
        target = at + np.where(first == _SHORT_JUMP, near, far).view(np.uint64)
    leads = (kinds == BranchKind.CALL) | (kinds == BranchKind.JUMP)
    return Branches(kind=kinds, target=np.where(leads, target, np.uint64(0)))


def vectors(kernel: KernelReader) -> Vectors:
    """The gates of ``idt_table`` that are present; none where it cannot be read."""
    table = kernel.symbols.get(VECTOR_TABLE)
    number = np.arange(_GATES, dtype=np.uint64)
    at = np.uint64(table or 0) + number * np.uint64(_GATE_SIZE)
    words, ok = kernel.words(at, 2)
    low, high = words[:, 0], words[:, 1]
    handler = (low & np.uint64(0xFFFF)) | ((low >> np.uint64(32)) & np.uint64(0xFFFF_0000))
    handler |= (high & np.uint64(0xFFFF_FFFF)) << np.uint64(32)
    known = ok & ((low & _GATE_PRESENT) != 0) & (table is not None)
    return Vectors(at[known], number[known], handler[known])
