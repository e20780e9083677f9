"""One step along frame pointers, for kernels without ORC (arch/x86/kernel/unwind_frame.c).

The register points to the caller's, above which lies the return address. With its lowest bit set it stands for saved
registers (ENCODE_FRAME_POINTER of arch/x86/entry/calling.h).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.unwinding import Cursor, Found, Step
from vmaforensics.arch.x86_64 import saved_registers as regs

if TYPE_CHECKING:
    from vmaforensics.arch.reading import KernelReader

_ENCODED, _WORD = np.uint64(1), np.uint64(8)


def step(kernel: KernelReader, cursor: Cursor) -> Step:
    """The caller of each frame; nothing proves it. BOTTOM where the register is 0."""
    encoded = (cursor.bp & _ENCODED) != 0
    where = cursor.bp & ~_ENCODED
    found = np.full(len(cursor), Found.ASSUMED, np.uint8)
    found[encoded] = Found.INTERRUPTED
    found[cursor.bp == 0] = Found.BOTTOM
    ip, sp, bp = cursor.ip.copy(), cursor.sp.copy(), cursor.bp.copy()
    registers, whole = cursor.registers.copy(), np.zeros(len(cursor), np.bool_)

    rows = np.flatnonzero(~encoded & (cursor.bp != 0))
    words, ok = kernel.words(where[rows], 2)
    bp[rows], ip[rows] = words[:, 0], words[:, 1]
    with np.errstate(over="ignore"):
        sp[rows] = where[rows] + np.uint64(2) * _WORD
    found[rows[~ok]] = Found.UNREADABLE

    rows = np.flatnonzero(encoded)
    words, ok = kernel.words(where[rows], regs.WORDS)
    if len(rows):
        registers[rows] = words
    ip[rows], sp[rows], bp[rows] = words[:, regs.IP], words[:, regs.SP], words[:, regs.BP]
    whole[rows] = ok
    found[rows[regs.is_user(words[:, regs.CS])]] = Found.USER
    found[rows[~ok]] = Found.UNREADABLE
    size = np.where(encoded, np.uint64(regs.WORDS), np.uint64(2)) * _WORD
    caller = Cursor(ip=ip, sp=sp, bp=bp, precise=encoded, whole=whole, registers=registers)
    return Step(caller, found, where, size)
