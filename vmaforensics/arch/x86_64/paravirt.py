"""Calls of functions that a hypervisor may replace (arch/x86/kernel/paravirt_patch.c, alternative.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.arch.branches import BranchKind
from vmaforensics.arch.x86_64.code_patches import SIZE, branches
from vmaforensics.arch.x86_64.filler import is_filler
from vmaforensics.arch.x86_64.text_windows import windows
from vmaforensics.columns.lookup import distinct

if TYPE_CHECKING:
    from vmaforensics.arch.reading import KernelReader
    from vmaforensics.arch.x86_64.text_windows import Explained
    from vmaforensics.columns.types import I64, U8, U64, Bools

# What may stand in the place of a call: cli, sti, pushf and pop, push and popf, reads and writes of cr2 and cr3,
# wbinvd, an unlock, an identity, xor.
_INLINE: Final = tuple(
    bytes.fromhex(text)
    for text in (
        *("fa", "fb", "9c58", "579d", "0f20d0", "0f20d8", "0f22df", "0f09"),
        *("c60700", "4889f8", "31c0"),
    )
)
_NOTHING: Final = ("_paravirt_nop", "paravirt_nop", "nop_func")  # functions that only return
_ABSOLUTE: Final = bytes.fromhex("ff1425")  # call *disp32
_RELATIVE: Final = bytes.fromhex("ff15")  # call *disp32(%rip)
_JUMP: Final = bytes.fromhex("ff25")  # jmp *disp32(%rip)


def paravirt_calls(kernel: KernelReader, found: Explained) -> None:
    """A call through ``pv_ops`` becomes a direct one to what lies there, or its short body."""
    table = found.text.sections.get(".parainstructions")
    if table is None or not kernel.has("paravirt_patch_site", "instr"):
        return
    size = kernel.sizeof("paravirt_patch_site")
    more = np.zeros(-len(table.data) % size, np.uint8)  # the last one is not filled up
    rows = np.concatenate([table.data, more]).reshape(-1, size)
    instr, length = kernel.offset("paravirt_patch_site", "instr"), kernel.offset("paravirt_patch_site", "len")
    linked = np.ascontiguousarray(rows[:, instr : instr + 8]).view("<u8")[:, 0]
    with np.errstate(over="ignore"):
        offsets = found.offsets(linked + np.uint64(found.text.moved))
    for width in distinct(rows[:, length]).tolist():
        if SIZE <= width <= SIZE + 2:
            direct_calls(kernel, found, offsets[rows[:, length] == width], width)


def direct_calls(kernel: KernelReader, found: Explained, at: I64, width: int) -> None:
    """Calls of ``width`` bytes through a pointer that became calls of what it leads to, or its body.

    Since 6.7 they are alternatives (ALT_FLAG_DIRECT_CALL).
    """
    at = found.changed(at, width)
    now = windows(found.text.found, at, width)
    code = branches(now[:, :SIZE], found.addresses(at))
    words, ok = kernel.words(_slots(found, at, width), 1)
    jumps = _begins(windows(found.text.linked, at, width), _JUMP)
    direct = (
        (code.kind == np.where(jumps, BranchKind.JUMP, BranchKind.CALL))
        & (code.target == words[:, 0])
        & ok
        & _filled(now[:, SIZE:])
    )
    empty = np.array([kernel.symbols.get(name) or 0 for name in _NOTHING], np.uint64)
    nothing = ok & (words[:, 0] != 0) & np.isin(words[:, 0], empty) & _filled(now)
    found.mark(at[direct | nothing], width)
    rest = at[~direct & ~nothing & ok]
    now, which = np.unique(windows(found.text.found, rest, width), axis=0, return_inverse=True)
    short = np.array([any(_is(row.tobytes(), body) for body in _INLINE) for row in now], np.bool_)
    found.mark(rest[short[which.reshape(-1)]], width)


def _is(code: bytes, body: bytes) -> bool:
    return code.startswith(body) and is_filler(code[len(body) :])


def _filled(rest: U8) -> Bools:
    found: Bools = np.array([is_filler(row.tobytes()) for row in rest], np.bool_)
    return found


def _slots(found: Explained, at: I64, width: int) -> U64:
    """Where the pointer lies that each call of the file goes through; 0 where it is no such call."""
    linked, text = windows(found.text.linked, at, width), found.text
    with np.errstate(over="ignore"):
        moved = np.uint64(text.moved % (1 << 64))
        absolute = (
            _signed(linked, len(_ABSOLUTE)) + moved if width >= len(_ABSOLUTE) + 4 else np.zeros(len(at), np.uint64)
        )
        relative = found.addresses(at) + np.uint64(len(_RELATIVE) + 4) + _signed(linked, len(_RELATIVE))
    slots: U64 = np.select(
        [_begins(linked, _ABSOLUTE), _begins(linked, _RELATIVE) | _begins(linked, _JUMP)],
        [absolute, relative],
        np.uint64(0),
    )
    return slots


def _begins(code: U8, opcode: bytes) -> Bools:
    found: Bools = (code[:, : len(opcode)] == np.frombuffer(opcode, np.uint8)).all(axis=1)
    return found


def _signed(code: U8, place: int) -> U64:
    """The signed 32-bit word at a place of each row."""
    found: U64 = np.ascontiguousarray(code[:, place : place + 4]).view("<i4")[:, 0].astype(np.int64).view(np.uint64)
    return found
