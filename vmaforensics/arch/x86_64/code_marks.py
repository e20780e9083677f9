"""Is this page machine code? Told by how often what compilers and shellcode writers cannot do without stands in it.

No byte sequence proves that a page is code, and none of those asked for is rare in itself; so many of so many kinds
in so few bytes are. Of 26,000 frames of kernels at rest that nobody accounts for, none passes; of pages that users
execute, 95 of 100 do; of stubs of 200 bytes in an empty page, 8 of 10.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64, U8, Bools

# A full page: instructions with a 64-bit operand, and calls, jumps and returns.
_LEAST_WIDE, _LEAST_TURNS = 40, 12
# A stub: some hundred bytes of code and nothing else in the page.
_STUB_LEAST, _STUB_SPAN = 32, 1536  # bytes that are not zero; from the first to the last of them
_STUB_DENSE = 0.4  # of the span, that are not zero
_STUB_MARKS, _STUB_KINDS, _STUB_SHARE = 6, 3, 0.3  # marks, kinds of them, part of the bytes that are marks
_KERNEL_HALF = np.uint64(0xFFFF_8000_0000_0000)
_BATCH = 1 << 8  # pages looked at closely at once


def _set(*values: int) -> Bools:
    found = np.zeros(256, np.bool_)
    found[list(values)] = True
    return found


# Opcodes behind a REX.W prefix: mov, lea, add, sub, xor, cmp, test, and the groups 81, 83, c7 and ff.
_WIDE = _set(0x8B, 0x89, 0x8D, 0x83, 0x85, 0x39, 0x3B, 0x01, 0x29, 0x31, 0xC7, 0x81)
_WIDE_OR_GROUP = _WIDE | _set(0xFF)
# What stands behind a ret: padding, or the next function.
_BEHIND_RET = _set(0x66, 0x0F, 0x90, 0xCC, 0xF3, 0x55, 0x48, 0x41)


def looks_like_code(pages: U8) -> Bools:
    """Which ``pages`` (a row each) are code, or hold a stub of code and nothing else."""
    found = np.zeros(len(pages), np.bool_)
    filled = np.count_nonzero(pages, axis=1)
    wide = np.count_nonzero((pages & np.uint8(0xF8)) == 0x48, axis=1)
    for test, may_be in (
        (_full, wide >= _LEAST_WIDE),
        (_stub, (filled >= _STUB_LEAST) & (filled <= _STUB_SPAN)),
    ):
        rows = np.flatnonzero(may_be)
        for low in range(0, len(rows), _BATCH):
            part = rows[low : low + _BATCH]
            found[part] |= test(pages[part])
    return found


def _shifted(pages: U8, by: int) -> U8:
    """The byte ``by`` further on in place of each byte, 0 behind the end."""
    moved = np.zeros_like(pages)
    moved[:, :-by] = pages[:, by:]
    return moved


def _without_addresses(pages: U8) -> U8:
    """Zeros in place of aligned addresses of the kernel half: a table of functions has in each what is an opcode."""
    words = np.ascontiguousarray(pages).view("<u8")
    return np.where(words >= _KERNEL_HALF, np.uint64(0), words).view(np.uint8)


def _full(pages: U8) -> Bools:
    """Pages full of code."""
    pages = _without_addresses(pages)
    second, fourth = _shifted(pages, 1), _shifted(pages, 3)
    wide = ((pages & np.uint8(0xF8)) == 0x48) & _WIDE[second]
    turns = np.count_nonzero((pages == 0xE8) & ((fourth == 0) | (fourth == 0xFF)), axis=1)
    turns += np.count_nonzero((pages == 0x0F) & ((second & np.uint8(0xF0)) == 0x80), axis=1)
    turns += np.count_nonzero((pages == 0xC3) & _BEHIND_RET[second], axis=1)
    code: Bools = (np.count_nonzero(wide, axis=1) >= _LEAST_WIDE) & (turns >= _LEAST_TURNS)
    return code


def _stub(pages: U8) -> Bools:
    """Pages with some hundred bytes of code and nothing else."""
    full = pages != 0
    filled = np.count_nonzero(full, axis=1)
    span = pages.shape[1] - full[:, ::-1].argmax(axis=1) - full.argmax(axis=1)
    marks = _marks(pages)
    covered = sum(size * count for size, count in marks)
    count = sum(count for _, count in marks)
    kinds = sum((count > 0).astype(np.int64) for _, count in marks)
    code: Bools = (span <= _STUB_SPAN) & (filled >= _STUB_DENSE * span) & (filled >= _STUB_LEAST)
    code &= (count >= _STUB_MARKS) & (kinds >= _STUB_KINDS) & (covered >= _STUB_SHARE * filled)
    return code


def _marks(pages: U8) -> list[tuple[int, I64]]:
    """(bytes of an instruction that matter, how many of them each page has) for each kind of mark."""
    second, third, fourth, fifth = (_shifted(pages, by) for by in range(1, 5))
    rex = (pages & np.uint8(0xF8)) == 0x48
    behind_rex = np.zeros_like(rex)
    behind_rex[:, 1:] = rex[:, :-1]
    near = (fifth == 0) | (fifth == 0xFF)
    found = (
        (3, rex & _WIDE_OR_GROUP[second]),
        (10, rex & ((second & np.uint8(0xF8)) == 0xB8)),  # movabs
        (5, ((pages == 0xE8) | (pages == 0xE9)) & (fourth == fifth) & near),  # call, jmp
        (6, (pages == 0x0F) & ((second & np.uint8(0xF0)) == 0x80) & near),  # jcc
        (2, ((pages == 0x0F) & (second == 0x05)) | ((pages == 0xCD) & (second == 0x80))),  # syscall, int 0x80
        (2, (pages == 0x31) & (second >= 0xC0) & ~behind_rex),  # xor of registers
        (5, ((pages & np.uint8(0xF8)) == 0xB8) & (second != 0) & (fourth == 0) & (fifth == 0) & ~behind_rex),  # mov
        (3, (pages == 0x6A) & ((third & np.uint8(0xF8)) == 0x58)),  # push imm8, pop
    )
    return [(size, np.count_nonzero(where, axis=1).astype(np.int64)) for size, where in found]
