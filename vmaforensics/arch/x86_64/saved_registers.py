"""struct pt_regs as words, and the two frames that a step without or with ORC finds it in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64, Bools

# Words of struct pt_regs (arch/x86/include/asm/ptrace.h): r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax
# ip cs flags sp ss.
WORDS = 21
R13, BP, R10, AX, DX, DI, IP, CS, SP = 2, 4, 7, 10, 12, 14, 16, 17, 19
NAMES = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi", "orig_rax",
    "rip", "cs", "rflags", "rsp", "ss",
)  # fmt: skip

# The words that the CPU itself saves at an interrupt: ip, cs, flags, sp, ss.
PART_WORDS = 5
PART_IP, PART_CS, PART_SP = 0, 1, 3

_RING = np.uint64(3)


def is_user(cs: U64) -> Bools:
    """Are these registers of user mode (user_mode() of ptrace.h)?"""
    found: Bools = (cs & _RING) != 0
    return found
