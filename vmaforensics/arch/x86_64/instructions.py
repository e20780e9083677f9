"""Where instructions of x86-64 begin and where they lead (Intel SDM vol. 2, chapter 2 and appendix A).

Only lengths and direct branches are taken apart, for every byte as if an instruction began there; who knows where one
does begin follows the lengths from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.arch.branches import Flow, FlowKind

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64, U8, U64, Bools

_LONGEST: Final = 15  # bytes of an instruction
_MOST_PREFIXES: Final = 6
_ROOM: Final = _LONGEST + 9  # bytes read behind the last place


def _set(*values: int) -> Bools:
    found = np.zeros(256, np.bool_)
    found[list(values)] = True
    return found


_PREFIXES: Final = _set(*b"\x66\x67\xf0\xf2\xf3\x2e\x36\x3e\x26\x64\x65")
_OPERAND_SIZE, _ADDRESS_SIZE, _ESCAPE = 0x66, 0x67, 0x0F
_VEX2, _VEX3, _EVEX = 0xC5, 0xC4, 0x62
_CALL, _PUSH, _RETURN = 0xE8, 0x68, 0xC3
_ARITHMETIC: Final = range(0x00, 0x40, 0x08)
# Opcodes of one byte that are none in 64-bit mode; prefixes and escapes are handled before.
_NONE: Final = _set(
    *(0x06, 0x07, 0x0E, 0x16, 0x17, 0x1E, 0x1F, 0x27, 0x2F, 0x37, 0x3F),
    *(0x60, 0x61, 0x82, 0x9A, 0xCE, 0xD4, 0xD5, 0xD6, 0xEA),
)
_MODRM: Final = _set(
    *(row + column for row in _ARITHMETIC for column in range(4)),
    *(0x63, 0x69, 0x6B, *range(0x80, 0x90), 0xC0, 0xC1, 0xC6, 0xC7),
    *(*range(0xD0, 0xD4), *range(0xD8, 0xE0), 0xF6, 0xF7, 0xFE, 0xFF),
)
_BYTE: Final = _set(  # an immediate of one byte
    *(row + 4 for row in _ARITHMETIC),
    *(0x6A, 0x6B, *range(0x70, 0x80), 0x80, 0x83, 0xA8, *range(0xB0, 0xB8)),
    *(0xC0, 0xC1, 0xC6, 0xC8, 0xCD, *range(0xE0, 0xE8), 0xEB),
)
_TWO_BYTES: Final = _set(0xC2, 0xC8, 0xCA)
_OPERAND: Final = _set(  # of two bytes behind the prefix 66, else four
    *(row + 5 for row in _ARITHMETIC), 0x68, 0x69, 0x81, 0xA9, 0xC7
)
_FOUR_BYTES: Final = _set(0xE8, 0xE9)
_MOVE: Final = _set(*range(0xB8, 0xC0))  # eight bytes with REX.W
_OFFSETS: Final = _set(*range(0xA0, 0xA4))  # an address
# Of two bytes (0F xx).
_ESCAPED_WITHOUT_MODRM: Final = _set(
    *(0x05, 0x06, 0x07, 0x08, 0x09, 0x0B, 0x0E, *range(0x30, 0x38), 0x77, *range(0x80, 0x90)),
    *(0xA0, 0xA1, 0xA2, 0xA8, 0xA9, 0xAA, *range(0xC8, 0xD0)),
)
_ESCAPED_BYTE: Final = _set(*range(0x70, 0x74), 0xA4, 0xAC, 0xBA, 0xC2, 0xC4, 0xC5, 0xC6)
_ESCAPED_FOUR: Final = _set(*range(0x80, 0x90))
_ESCAPED_NONE: Final = _set(0x04, 0x0A, 0x0C, 0x24, 0x25, 0x26, 0x27, 0x36, 0x39, *range(0x3B, 0x40))


def flow(code: U8, at: U64) -> Flow:
    """What would begin at each byte of ``code``; each lies at the address beside it.

    Sizes are 0 where no instruction is known that begins so, or where it would reach beyond the end.
    """
    count = len(code)
    padded = np.concatenate([code, np.zeros(_ROOM, np.uint8)])
    place, wide_prefix, short_address = _behind_prefixes(padded, count)
    rex = np.where((padded[place] & 0xF0) == 0x40, padded[place], 0)
    place = place + (rex != 0)
    first, second = padded[place], padded[place + 1]
    escaped = first == _ESCAPE
    far = escaped & ((second == 0x38) | (second == 0x3A))  # opcodes of three bytes
    vex2, vex3 = first == _VEX2, first == _VEX3
    evex = first == _EVEX
    vex = vex2 | vex3 | evex
    opcode_at = place + np.select([vex2, vex3, evex, far, escaped], [2, 3, 4, 2, 1], 0)
    opcode = padded[opcode_at]
    one = ~escaped & ~vex
    two = escaped & ~far
    map_number = np.where(vex2, 1, np.where(vex3, padded[place + 1] & 0x1F, padded[place + 1] & 7))
    of_0f = two | (vex & (map_number == 1))
    of_3a = (far & (second == 0x3A)) | (vex & (map_number == 3))

    modrm_at = opcode_at + 1
    modrm = padded[modrm_at]
    zeroupper = vex & (map_number == 1) & (opcode == 0x77)
    has_modrm = np.where(one, _MODRM[opcode], np.where(two, ~_ESCAPED_WITHOUT_MODRM[opcode], ~zeroupper))
    sib = padded[modrm_at + 1]
    size = np.where(has_modrm, _operand_size(modrm, sib), 0)

    immediate = np.zeros(count, np.int64)
    operand = np.where(wide_prefix & ((rex & 8) == 0), 2, 4)
    immediate += np.where(one & _BYTE[opcode], 1, 0)
    immediate += np.where(one & _TWO_BYTES[opcode], 2, 0)
    immediate += np.where(one & _OPERAND[opcode], operand, 0)
    immediate += np.where((one & _FOUR_BYTES[opcode]) | (two & _ESCAPED_FOUR[opcode]), 4, 0)
    immediate += np.where(one & _MOVE[opcode], np.where((rex & 8) != 0, 8, operand), 0)
    immediate += np.where(one & _OFFSETS[opcode], np.where(short_address, 4, 8), 0)
    tests = one & ((opcode & 0xFE) == 0xF6) & ((modrm & 0x30) == 0)  # TEST, of group 3
    immediate += np.where(tests, np.where(opcode == 0xF6, 1, operand), 0)
    immediate += np.where((of_0f & _ESCAPED_BYTE[opcode]) | of_3a, 1, 0)
    begins = np.arange(count, dtype=np.int64)
    end = opcode_at + 1 + size + immediate
    length = end - begins
    wrong = (one & (_NONE[opcode] | _PREFIXES[opcode])) | (two & _ESCAPED_NONE[opcode])
    wrong |= (length > _LONGEST) | (end > count) | (vex & (map_number == 0))
    return _led(padded, at, np.where(wrong, 0, length), (one, two), opcode_at)


def far_branches(code: U8, base: int) -> tuple[I64, U64]:
    """Where bytes stand that may be a call or jump with a distance of 32 bits or to a constant: (place, target).

    ``code`` lies at ``base``. Of a constant that is loaded or pushed, the place is that of the instruction that goes to
    it.
    """
    last = len(code) - _ROOM
    if last <= 0:
        return np.zeros(0, np.int64), np.zeros(0, np.uint64)
    first, second = code[:last], code[1 : last + 1]
    near = np.flatnonzero((first & 0xFE) == _CALL)
    escaped = np.flatnonzero((first == _ESCAPE) & ((second & 0xF0) == 0x80))
    loads = np.flatnonzero(((first & 0xFE) == 0x48) & ((second & 0xF8) == 0xB8))
    loads = loads[_goes(code, loads + 10)]
    pushes = np.flatnonzero((first == _PUSH) & (code[5 : last + 5] == _RETURN))
    place = np.concatenate([near, escaped, loads + 10, pushes + 5])
    behind = np.concatenate([near + 5, escaped + 6]).astype(np.uint64) + np.uint64(base)
    relative = np.concatenate([signed_words(code, near + 1), signed_words(code, escaped + 2)])
    with np.errstate(over="ignore"):
        led = behind + relative.view(np.uint64)
    loaded = _constants(code, loads)
    pushed = signed_words(code, pushes + 1).view(np.uint64)
    return place, np.concatenate([led, loaded, pushed])


def _goes(code: U8, at: I64) -> Bools:
    """Which places hold a call or jump to a register."""
    wide = (code[at] & 0xFE) == 0x40
    group, modrm = code[at + wide], code[at + wide + 1]
    found: Bools = (group == 0xFF) & (((modrm & 0xF8) == 0xD0) | ((modrm & 0xF8) == 0xE0))
    return found


def _constants(code: U8, loads: I64) -> U64:
    """The 64-bit number that the instruction at each place loads."""
    found: U64 = np.ascontiguousarray(code[loads[:, None] + 2 + np.arange(8)]).view("<u8")[:, 0]
    return found


def signed_words(code: U8, at: I64) -> I64:
    """The 32-bit number at each place."""
    words = np.ascontiguousarray(code[at[:, None] + np.arange(4)]).view("<i4")[:, 0]
    found: I64 = words.astype(np.int64)
    return found


def _behind_prefixes(padded: U8, count: int) -> tuple[I64, Bools, Bools]:
    """The place behind the prefixes at each place; and which have that of operands and of addresses."""
    place = np.arange(count, dtype=np.int64)
    wide, short = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    going = np.ones(count, np.bool_)
    for _ in range(_MOST_PREFIXES):
        byte = padded[place]
        going &= _PREFIXES[byte]
        wide |= going & (byte == _OPERAND_SIZE)
        short |= going & (byte == _ADDRESS_SIZE)
        place = place + going
    return place, wide, short


def _operand_size(modrm: U8, sib: U8) -> I64:
    """Bytes of ModRM, SIB and displacement."""
    mode, low = modrm >> 6, modrm & 7
    scaled = (mode != 3) & (low == 4)
    bare = (mode == 0) & ((low == 5) | (scaled & ((sib & 7) == 5)))
    shift = np.select([bare | (mode == 2), mode == 1], [4, 1], 0)
    found: I64 = 1 + scaled + shift
    return found


def _led(padded: U8, at: U64, size: I64, maps: tuple[Bools, Bools], opcode_at: I64) -> Flow:
    """Kinds and targets, where lengths are known."""
    one, two = maps
    opcode = padded[opcode_at]
    group = padded[opcode_at + 1] >> 3 & 7
    kinds = [
        (one & (opcode == _CALL), FlowKind.CALL),
        (one & ((opcode == 0xE9) | (opcode == 0xEB)), FlowKind.JUMP),
        ((one & (opcode & 0xF0 == 0x70)) | (two & (opcode & 0xF0 == 0x80)), FlowKind.BRANCH),
        (one & (opcode >= 0xE0) & (opcode <= 0xE3), FlowKind.BRANCH),
        (one & (opcode == 0xCC), FlowKind.BREAKPOINT),
        (one & ((opcode & 0xF6) == 0xC2), FlowKind.RETURN),
        (two & ((opcode == 0x0B) | (opcode == 0xB9)), FlowKind.TRAP),
        (one & (opcode == 0xFF) & ((group == 2) | (group == 4)), FlowKind.INDIRECT),
        (one & (opcode == _PUSH), FlowKind.PUSH),
        (one & _MOVE[opcode] & (size == 10), FlowKind.LOAD),
    ]
    kind: U8 = np.select([where for where, _ in kinds], [value for _, value in kinds], FlowKind.OTHER).astype(np.uint8)
    kind[size == 0] = FlowKind.OTHER
    target = np.zeros(len(size), np.uint64)
    with np.errstate(over="ignore"):
        rows = np.flatnonzero(np.isin(kind, (FlowKind.CALL, FlowKind.JUMP, FlowKind.BRANCH)))
        last = rows + size[rows] - 1
        far = (opcode[rows] == _CALL) | (opcode[rows] == 0xE9) | two[rows]
        near = padded[last].view(np.int8).astype(np.int64)
        distance = np.where(far, signed_words(padded, np.maximum(last - 3, 0)), near)
        target[rows] = at[rows] + size[rows].view(np.uint64) + distance.view(np.uint64)
        rows = np.flatnonzero(kind == FlowKind.PUSH)
        target[rows] = signed_words(padded, rows + size[rows] - 4).view(np.uint64)
        rows = np.flatnonzero(kind == FlowKind.LOAD)
        target[rows] = _constants(padded, rows)
        rows = np.flatnonzero(kind == FlowKind.INDIRECT)
        target[rows] = _words(padded, opcode_at[rows], at[rows] + size[rows].view(np.uint64))
    return Flow(size=size.astype(np.uint8), kind=kind, target=target)


def _words(padded: U8, opcode_at: I64, behind: U64) -> U64:
    """The address of the word that a call or jump goes by; 0 where a register takes part in it."""
    modrm, sib = padded[opcode_at + 1], padded[opcode_at + 2]
    relative = (modrm & 0xC7) == 0x05
    absolute = ((modrm & 0xC7) == 0x04) & (sib == 0x25)
    shown = signed_words(padded, opcode_at + np.where(absolute, 3, 2)).view(np.uint64)
    found: U64 = np.select([relative, absolute], [behind + shown, shown], np.uint64(0))
    return found
