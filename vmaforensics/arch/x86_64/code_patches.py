"""Instructions that the kernel patches in and out (arch/x86/kernel/{ftrace,jump_label,static_call,alternative}.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.branches import Branches, BranchKind, PatchRecord

if TYPE_CHECKING:
    from vmaforensics.columns.types import U8, U64

SIZE = 5  # bytes of a call or jump with a 32-bit displacement
TRACER_CALLS = ("ftrace_call", "ftrace_regs_call", "ftrace_graph_call")  # arch/x86/kernel/ftrace_64.S
FILLER = 0xCC  # what unused code memory is filled with (int3)

# text_poke_bp_batch. Up to 5.18 bp_desc leads to a description while code is patched, then it is one that counts who
# uses it; since 6.16 text_poke_array has the places that are changed.
PATCH_RECORDS = (
    PatchRecord("text_poke_array", "smp_text_poke_array", "nr_entries"),
    PatchRecord("bp_desc", "bp_patching_desc", "refs.counter"),
)

_CALL, _JUMP, _SHORT_JUMP, _BREAKPOINT = 0xE8, 0xE9, 0xEB, 0xCC
# x86_nops[5], and what 5.10 and older chose by CPU: K8_NOP5_ATOMIC, GENERIC_NOP5_ATOMIC (arch/x86/include/asm/nops.h).
_NOPS = ("0f1f440000", "6666666690", "3e8d742600")
NO_OPERATION = np.frombuffer(bytes.fromhex(_NOPS[0]), np.uint8)
_SHORT_NOP = b"\x66\x90"


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
