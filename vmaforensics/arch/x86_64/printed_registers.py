"""Registers as the kernel prints them (__show_regs, arch/x86/kernel/process_64.c; show_iret_regs)."""

from __future__ import annotations

import re
from typing import Final

from vmaforensics.arch.registers import PrintedRegisters

# "RIP: 0010:mas_walk+0x16/0x1d0": the lower two bits of the code segment are the mode, 0 that of the kernel.
PRINTED: Final = PrintedRegisters(
    kernel_place=re.compile(r"RIP: [0-9a-f]{3}[048c]:"),
    user_place=re.compile(r"RIP: [0-9a-f]{3}[0-9a-f]:"),
    register=re.compile(r"\b(R[A-Z0-9]{2}|CR[0-9]|EFLAGS|ORIG_RAX): ?(?:[0-9a-f]{4}:)?(?:0x)?([0-9a-f]{8,16})\b"),
)
