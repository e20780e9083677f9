"""Where a compiled switch goes: comparisons of one register with constants, and jumps (Intel SDM vol. 2).

``x64_sys_call`` and its like (arch/x86/entry/syscall_64.c) are such functions: compilers may make no table of a switch
where indirect jumps are dear (``-fno-jump-tables``); elsewhere they jump by a table of addresses
(``jmp *TABLE(,%rsi,8)``). The number is in the second argument, ``%esi``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.arch.branches import Dispatched, FlowKind
from vmaforensics.arch.x86_64.instructions import flow, signed_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmaforensics.columns.types import I64, U8, U64, Bools

_NUMBER: Final = 6  # of %esi
_MOST_STEPS: Final = 1 << 12
_LEAVES: Final = (FlowKind.CALL, FlowKind.JUMP)
_ENDBR: Final = (0xF3, 0x0F, 0x1E)
_NOTRACK: Final = 0x3E
_BY_TABLE: Final = (0xFF, 0x24)  # jmp *disp32(,index,8), by its SIB byte
_BY_ITSELF: Final = 0xC5 | _NUMBER << 3  # %rsi
_BY_COPY: Final = 0xC5  # %rax
_EXTENDED: Final = (0x89, 0xC0 | _NUMBER << 3 | _NUMBER)  # mov %esi,%esi
_COPIED: Final = (0x89, 0xC0 | _NUMBER << 3)  # mov %esi,%eax


def follow_switch(code: U8, at: int, numbers: U64, words: Callable[[U64], tuple[U64, Bools]]) -> Dispatched:
    """See ``Architecture.follow_switch``."""
    count, end = len(numbers), at + len(code)
    padded = np.concatenate([code, np.zeros(16, np.uint8)])
    steps = flow(code, np.arange(at, end, dtype=np.uint64))
    kinds, sizes = steps.kind, steps.size.astype(np.int64)
    value, known, takes = _constants(padded, sizes)
    nothing, copies = _does_nothing(padded, len(code)), _is(padded, len(code), _COPIED)
    table, by_copy = _tables(padded, len(code))
    rows = Dispatched.zeros(count)
    place, held = np.zeros(count, np.int64), numbers.astype(np.int64)  # what the register holds
    left, compared = np.zeros(count, np.int64), np.full(count, -1, np.int64)
    copy = np.full(count, -1, np.int64)  # what %eax holds of it
    going = np.arange(count)
    for _ in range(_MOST_STEPS):
        if not len(going):
            break
        here = place[going]
        kind, size, target = kinds[here], sizes[here], steps.target[here]
        copy[going[copies[here]]] = held[going[copies[here]]]
        index = np.where(by_copy[here], copy[going], held[going])
        entry = table[here] + np.uint64(8) * np.maximum(index, 0).astype(np.uint64)
        jumps_by = (table[here] != 0) & (index >= 0)
        stored, read = words(entry[jumps_by])
        jumps_by[jumps_by] = read
        target[jumps_by] = stored[read]
        inside = (target >= np.uint64(at)) & (target < np.uint64(end))
        leads = (np.isin(kind, _LEAVES) | jumps_by) & ~inside
        rows.at[going[leads]] = np.where(jumps_by, entry, np.uint64(at) + here.astype(np.uint64))[leads]
        rows.target[going[leads]] = target[leads]
        compares, less = known[here], takes[here]
        left[going[compares]], compared[going[compares]] = held[going[compares]], value[here[compares]]
        held[going[less]] = (held[going[less]] - value[here[less]]) % (1 << 32)
        branch = (kind == FlowKind.BRANCH) & (compared[going] >= 0) & inside
        taken = branch & _holds(padded, here, left[going], compared[going])
        jumps = ((kind == FlowKind.JUMP) | jumps_by) & inside
        passes = (compares | nothing[here] | copies[here] | (branch & ~taken)) & (size > 0)
        following = np.where(taken | jumps, (target - np.uint64(at)).astype(np.int64), here + size)
        goes = (taken | jumps | passes) & (following < len(code)) & ~leads
        place[going[goes]] = following[goes]
        going = going[goes]
    return rows


def _constants(padded: U8, sizes: I64) -> tuple[I64, Bools, Bools]:
    """The constant at each place, where the register is compared with one, and where one is taken from it besides."""
    at = np.arange(len(sizes))
    first, modrm = padded[at], padded[at + 1]
    takes = modrm == (0xE8 | _NUMBER)  # sub, of group 1
    register = takes | (modrm == (0xF8 | _NUMBER))  # cmp
    four = signed_words(padded, at + 2)
    byte = padded[at + 2].astype(np.int64)
    long_form, short_form = (first == 0x81) & register, (first == 0x83) & register & (byte < 0x80)
    with_itself = (first == 0x85) & (modrm == (0xC0 | _NUMBER << 3 | _NUMBER))  # test
    value = np.select([long_form, short_form], [four, byte], 0)
    known = (long_form & (four >= 0)) | short_form | with_itself
    found: I64 = value
    return found, known, known & takes & ~with_itself


def _is(padded: U8, count: int, octets: tuple[int, int]) -> Bools:
    """Where two octets stand."""
    found: Bools = (padded[:count] == octets[0]) & (padded[1 : count + 1] == octets[1])
    return found


def _tables(padded: U8, count: int) -> tuple[U64, Bools]:
    """Address of the table that the jump at each place goes by, 0 where there is none; is it by ``%rax``?"""
    at = np.arange(count) + (padded[:count] == _NOTRACK)
    index = padded[at + 2]
    by_copy: Bools = index == _BY_COPY
    known = (padded[at] == _BY_TABLE[0]) & (padded[at + 1] == _BY_TABLE[1]) & (by_copy | (index == _BY_ITSELF))
    found: U64 = np.where(known, signed_words(padded, at + 3), 0).astype(np.int64).view(np.uint64)
    return found, by_copy


def _does_nothing(padded: U8, count: int) -> Bools:
    """Where a no-operation or ``endbr64`` stands, or what makes 64 bits of the number."""
    at = np.arange(count)
    wide = (padded[at] == 0x66).astype(np.int64)
    first, second = padded[at + wide], padded[at + wide + 1]
    plain = (first == 0x90) | ((first == 0x0F) & (second == 0x1F))
    begins = (padded[at] == _ENDBR[0]) & (padded[at + 1] == _ENDBR[1]) & (padded[at + 2] == _ENDBR[2])
    found: Bools = plain | begins | _is(padded, count, _EXTENDED)
    return found


def _holds(padded: U8, here: I64, number: I64, value: I64) -> Bools:
    """Is the condition of the jump at each place true of a number that was compared with a value? Both are positive."""
    first = padded[here]
    condition = np.where(first == 0x0F, padded[here + 1], first) & 0xF
    less, same = number < value, number == value
    holds = [less, same, less | same, less, less | same]  # b, e, be, l, le, and their opposites behind them
    pairs = [(condition & 0xE) == code for code in (0x2, 0x4, 0x6, 0xC, 0xE)]
    found: Bools = np.select(pairs, holds, default=False) ^ ((condition & 1) == 1)
    return found
