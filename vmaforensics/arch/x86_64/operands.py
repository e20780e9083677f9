"""The operand in memory of one instruction (Intel SDM vol. 2, chapter 2): prefixes, opcode, ModRM, SIB, displacement.

Only the form is taken apart. Which registers an instruction reads besides, and its immediate, do not matter here.
"""

from __future__ import annotations

from typing import Final

from vmaforensics.arch.registers import MemoryOperand

_REGISTERS: Final = (
    *("RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI"),
    *(f"R{number:02}" for number in range(8, 16)),
)
_PREFIXES: Final = frozenset(b"\x66\x67\xf0\xf2\xf3\x2e\x36\x3e\x26")
_SEGMENTS: Final = frozenset(b"\x64\x65")  # fs, gs: the address counts from a base that is in no register
_ESCAPE, _ESCAPE_38, _ESCAPE_3A = 0x0F, 0x38, 0x3A
# Opcodes of one byte that have a ModRM byte: arithmetic and moves, groups, x87.
_WITH_MODRM: Final = frozenset(
    [
        *(row + column for row in range(0x00, 0x40, 0x08) for column in range(4)),
        *(0x62, 0x63, 0x69, 0x6B),
        *range(0x80, 0x90),
        *(0xC0, 0xC1, 0xC6, 0xC7),
        *range(0xD0, 0xD4),
        *range(0xD8, 0xE0),
        *(0xF6, 0xF7, 0xFE, 0xFF),
    ]
)
# Two-byte opcodes (0F xx) without one: system calls, moves of tables, pushes of segments, cpuid, bswap, jumps.
_WITHOUT_MODRM: Final = frozenset(
    [
        *(*range(0x05, 0x0A), 0x0B, *range(0x30, 0x38), 0x77, *range(0x80, 0x90)),
        *(0xA0, 0xA1, 0xA2, 0xA8, 0xA9, 0xAA, *range(0xC8, 0xD0)),
    ]
)
# String instructions: what they access hangs on RSI, RDI or both; the one that is written to.
_STRINGS: Final = {**dict.fromkeys((0xA4, 0xA5, 0xAA, 0xAB, 0xAE, 0xAF), "RDI"), **dict.fromkeys((0xAC, 0xAD), "RSI")}


def operand(code: bytes) -> MemoryOperand | None:
    """The operand of the instruction that ``code`` begins with, as of ``Architecture.operand``.

    >>> operand(bytes.fromhex("488ba8d8000000"))  # mov 0xd8(%rax),%rbp
    MemoryOperand(base='RAX', scaled=None, scale=1, displacement=216)
    """
    at = 0
    while at < len(code) and code[at] in _PREFIXES:
        at += 1
    rex = 0
    if at < len(code) and code[at] & 0xF0 == 0x40:
        rex, at = code[at], at + 1
    if at >= len(code) or code[at] in _SEGMENTS:
        return None
    opcode, at = code[at], at + 1
    if opcode in _STRINGS:
        return MemoryOperand(_STRINGS[opcode], None, 1, 0)
    if opcode == _ESCAPE:
        if at >= len(code):
            return None
        opcode, at = code[at], at + 1
        if opcode in (_ESCAPE_38, _ESCAPE_3A):
            at += 1
        elif opcode in _WITHOUT_MODRM:
            return None
    elif opcode not in _WITH_MODRM:
        return None
    return _addressed(code[at:], rex)


def _addressed(code: bytes, rex: int) -> MemoryOperand | None:
    """What ModRM, and what follows it, says. ``rex`` is the prefix, 0 for none."""
    if not code:
        return None
    mode, low = code[0] >> 6, code[0] & 7
    at = 1
    index, scale = None, 1
    if mode == 3:  # a register, no memory
        return None
    if low == 4:
        if len(code) < 2:
            return None
        sib, at = code[1], 2
        number = (sib >> 3 & 7) | (rex & 2) << 2
        if number != 4:  # RSP as index stands for none
            index, scale = _REGISTERS[number], 1 << (sib >> 6)
        low = sib & 7
        bare = mode == 0 and low == 5
    elif mode == 0 and low == 5:  # relative to the next instruction, whose length would have to be known
        return None
    else:
        bare = False
    size = 4 if mode == 2 or bare else mode
    if len(code) < at + size:
        return None
    displacement = int.from_bytes(code[at : at + size], "little", signed=True)
    return MemoryOperand(None if bare else _REGISTERS[low | (rex & 1) << 3], index, scale, displacement)
