"""One step with ORC, as unwind_next_frame of arch/x86/kernel/unwind_orc.c does it, for many stacks at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.unwinding import Cursor, Found, Step
from vmaforensics.arch.x86_64 import saved_registers as regs
from vmaforensics.arch.x86_64.orc import Base, Kind, Orc, find

if TYPE_CHECKING:
    from vmaforensics.arch.reading import KernelReader
    from vmaforensics.columns.types import I64, U8, U64, Bools

_WORD = np.uint64(8)


def step(kernel: KernelReader, orc: Orc, cursor: Cursor) -> Step:
    """The caller of each frame."""
    entry = _entries(orc, cursor)
    found = _ends(entry)
    going = found < Found.USER
    with np.errstate(over="ignore"):
        cfa, readable, known = _frame_addresses(kernel, entry, cursor)
        found[going & ~known] = Found.NO_REGISTER
        found[going & known & ~readable] = Found.UNREADABLE
        going = found < Found.USER
        caller = Cursor(
            ip=cursor.ip.copy(),
            sp=cursor.sp.copy(),
            bp=cursor.bp.copy(),
            precise=entry.signal.copy(),
            whole=np.zeros(len(cursor), np.bool_),
            registers=cursor.registers.copy(),
        )
        where, size = cfa.copy(), np.zeros(len(cursor), np.uint64)
        _call(kernel, going & (entry.kind == Kind.CALL), caller, found, where, size)
        _registers(kernel, going & (entry.kind == Kind.REGISTERS), caller, found, where, size)
        _part(kernel, going & (entry.kind == Kind.PART), cursor, caller, found, where, size)
        _frame_pointers(kernel, entry, cursor, caller, found, cfa)
    return Step(caller, found, where, size)


def _entries(orc: Orc, cursor: Cursor) -> Orc:
    """What holds for each frame: its entry, or what the kernel takes for one (null_orc_entry, orc_fp_entry)."""
    entry = find(orc, cursor.ip, cursor.precise)
    null = cursor.ip == 0  # a call through a NULL pointer: nothing but the return address is on the stack
    entry.kind[null], entry.sp_base[null], entry.sp_offset[null] = Kind.CALL, Base.SP, 8
    entry.bp_base[null] = Base.UNDEFINED
    outside = (entry.kind == Kind.OUTSIDE) & ~null
    entry.sp_base[outside], entry.sp_offset[outside] = Base.BP, 16
    entry.bp_base[outside], entry.bp_offset[outside] = Base.PREV_SP, -16
    entry.signal[null | outside] = False
    return entry


def _ends(entry: Orc) -> U8:
    """What each entry says by itself: CALLER if there is one, ASSUMED if nothing is known of the code."""
    found = np.full(len(entry), Found.CALLER, np.uint8)
    outside = entry.kind == Kind.OUTSIDE
    found[outside] = Found.ASSUMED
    entry.kind[outside] = Kind.CALL
    found[entry.kind == Kind.REGISTERS] = Found.INTERRUPTED
    found[entry.kind == Kind.PART] = Found.INTERRUPTED
    found[entry.kind == Kind.UNDEFINED] = Found.NO_DATA
    found[entry.kind == Kind.END] = Found.BOTTOM
    found[entry.kind == Kind.LOST] = Found.LOST_DATA
    known = np.isin(entry.sp_base, [base for base in Base if base not in (Base.UNDEFINED, Base.UNKNOWN, Base.PREV_SP)])
    found[(found < Found.USER) & ~known] = Found.NO_DATA
    return found


def _frame_addresses(kernel: KernelReader, entry: Orc, cursor: Cursor) -> tuple[U64, Bools, Bools]:
    """(address behind each frame, could what it hangs on be read, is the register known that it hangs on)."""
    start = np.zeros(len(entry), np.uint64)
    for base, values in (
        (Base.SP, cursor.sp),
        (Base.SP_INDIRECT, cursor.sp),
        (Base.BP, cursor.bp),
        (Base.BP_INDIRECT, cursor.bp),
    ):
        start = np.where(entry.sp_base == base, values, start)
    known = np.ones(len(entry), np.bool_)
    for base, place in (
        (Base.AX, regs.AX),
        (Base.DX, regs.DX),
        (Base.DI, regs.DI),
        (Base.R10, regs.R10),
        (Base.R13, regs.R13),
    ):
        chosen = entry.sp_base == base
        known &= ~chosen | cursor.whole
        if chosen.any():
            start = np.where(chosen, cursor.registers[:, place], start)
    offset = _unsigned(entry.sp_offset)
    readable = np.ones(len(entry), np.bool_)
    # The word at bp + offset, or the word at sp plus the offset (before 6.1 no entry was of the latter kind).
    by_bp, by_sp = entry.sp_base == Base.BP_INDIRECT, entry.sp_base == Base.SP_INDIRECT
    rows = np.flatnonzero(by_bp | by_sp)
    cfa: U64 = start + offset
    if len(rows):
        words, ok = kernel.words(np.where(by_bp, start + offset, start)[rows], 1)
        cfa[rows] = np.where(by_bp[rows], words[:, 0], words[:, 0] + offset[rows])
        readable[rows] = ok
    return cfa, readable, known


def _call(kernel: KernelReader, chosen: Bools, caller: Cursor, found: U8, where: U64, size: U64) -> None:
    """The return address lies right below the frame's end."""
    rows = np.flatnonzero(chosen)
    behind = where[rows]
    where[rows], size[rows] = behind - _WORD, _WORD
    words, ok = kernel.words(where[rows], 1)
    caller.ip[rows], caller.sp[rows] = words[:, 0], behind
    found[rows[~ok]] = Found.UNREADABLE


def _registers(kernel: KernelReader, chosen: Bools, caller: Cursor, found: U8, where: U64, size: U64) -> None:
    """All registers lie at the frame's end: an interrupt, an exception or a system call."""
    rows = np.flatnonzero(chosen)
    size[rows] = regs.WORDS * _WORD
    words, ok = kernel.words(where[rows], regs.WORDS)
    if len(rows):
        caller.registers[rows] = words
    caller.ip[rows], caller.sp[rows] = words[:, regs.IP], words[:, regs.SP]
    caller.whole[rows] = ok
    found[rows[regs.is_user(words[:, regs.CS])]] = Found.USER
    found[rows[~ok]] = Found.UNREADABLE


def _part(
    kernel: KernelReader, chosen: Bools, cursor: Cursor, caller: Cursor, found: U8, where: U64, size: U64
) -> None:
    """What the CPU itself saved lies at the frame's end; the other registers are still what they were."""
    rows = np.flatnonzero(chosen)
    size[rows] = regs.PART_WORDS * _WORD
    words, ok = kernel.words(where[rows], regs.PART_WORDS)
    caller.ip[rows], caller.sp[rows] = words[:, regs.PART_IP], words[:, regs.PART_SP]
    caller.whole[rows] = cursor.whole[rows]
    found[rows[regs.is_user(words[:, regs.PART_CS])]] = Found.USER
    found[rows[~ok]] = Found.UNREADABLE


def _frame_pointers(kernel: KernelReader, entry: Orc, cursor: Cursor, caller: Cursor, found: U8, cfa: U64) -> None:
    """The caller's frame pointer register: saved in the frame, among the registers, or not changed."""
    kept = entry.bp_base == Base.UNDEFINED
    if (kept & caller.whole).any():
        caller.bp[:] = np.where(kept & caller.whole, caller.registers[:, regs.BP], caller.bp)
    offset = _unsigned(entry.bp_offset)
    places = np.where(entry.bp_base == Base.PREV_SP, cfa, cursor.bp) + offset
    saved = np.isin(entry.bp_base, (Base.PREV_SP, Base.BP))
    rows = np.flatnonzero((found < Found.USER) & saved)
    words, ok = kernel.words(places[rows], 1)
    caller.bp[rows] = words[:, 0]
    found[rows[~ok]] = Found.UNREADABLE
    found[(found < Found.USER) & ~kept & ~saved] = Found.NO_DATA  # no such register: a damaged table


def _unsigned(offsets: I64) -> U64:
    return offsets.view(np.uint64)
