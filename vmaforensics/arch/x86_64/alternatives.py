"""Instructions that are replaced by what the CPU can do (``.altinstructions``, arch/x86/kernel/alternative.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.arch.x86_64.filler import is_filler
from vmaforensics.arch.x86_64.paravirt import direct_calls
from vmaforensics.arch.x86_64.text_windows import RETURN, relative_places, windows
from vmaforensics.columns.runs import true_ranges

_NOP = 0x90
_CALL = 6  # bytes of a call through a pointer

if TYPE_CHECKING:
    from vmaforensics.arch.reading import KernelReader
    from vmaforensics.arch.reference_text import LinkedSection
    from vmaforensics.arch.x86_64.text_windows import Explained
    from vmaforensics.columns.types import I64, U8, Bools


class _Entries(NamedTuple):
    """Rows of the table; offsets from the start of the text, and of the section of replacements."""

    at: I64
    size: I64
    replacement: I64
    length: I64


def alternatives(kernel: KernelReader, found: Explained) -> None:
    """Each place holds what was linked there or one of its replacements, and filler behind it."""
    table, other = (found.text.sections.get(name) for name in (".altinstructions", ".altinstr_replacement"))
    if table is None or other is None or not kernel.has("alt_instr", "instr_offset"):
        return
    rows = _read(kernel, found, table.data, table.address, other.address)
    fits = (rows.at >= 0) & (rows.at + rows.size <= len(found.mask)) & (rows.size > 0)
    fits &= (rows.replacement >= 0) & (rows.replacement + rows.length <= len(other.data)) & (rows.length <= rows.size)
    rows = _Entries(*(column[fits] for column in rows))
    gap = other.address - (found.text.start - found.text.moved)  # from the text to the replacements, as linked
    returned = _with_returns(found, other)
    shapes = np.unique(np.stack([rows.size, rows.length], axis=1), axis=0)
    for size, length in shapes.tolist():
        mine = (rows.size == size) & (rows.length == length)
        at, replacement = rows.at[mine], rows.replacement[mine]
        fine = _as_linked(found, at, size)
        for data in (other.data, returned):
            fine |= _replaced(found, data, at, replacement, size, length, gap)
        found.mark(at[fine], size)
        if size >= _CALL:
            direct_calls(kernel, found, at[~fine], size)


def _with_returns(found: Explained, other: LinkedSection) -> U8:
    """The replacements after jumps to the return thunk in them have become returns, which is done first."""
    data = other.data.copy()
    at = relative_places(found.text, ".return_sites") - (other.address - (found.text.start - found.text.moved))
    at = at[(at >= 0) & (at + len(RETURN) <= len(data))]
    for place, value in enumerate(RETURN):
        data[at + place] = value
    return data


def _read(kernel: KernelReader, found: Explained, data: U8, address: int, replacements: int) -> _Entries:
    size = kernel.sizeof("alt_instr")
    rows = data[: len(data) // size * size].reshape(-1, size)
    base = np.arange(len(rows)) * size

    def distance(path: str) -> I64:
        place = kernel.offset("alt_instr", path)
        signed: I64 = np.ascontiguousarray(rows[:, place : place + 4]).view("<i4")[:, 0].astype(np.int64) + base + place
        return signed

    return _Entries(
        at=distance("instr_offset") + (address - (found.text.start - found.text.moved)),
        size=rows[:, kernel.offset("alt_instr", "instrlen")].astype(np.int64),
        replacement=distance("repl_offset") + (address - replacements),
        length=rows[:, kernel.offset("alt_instr", "replacementlen")].astype(np.int64),
    )


def _replaced(found: Explained, other: U8, at: I64, replacement: I64, size: int, length: int, gap: int) -> Bools:
    """Which places hold their replacement: each byte is the same, or part of a distance to the same place."""
    now, new = windows(found.text.found, at, size), windows(other, replacement, length)
    same = _same(now[:, :length], new)
    nearer = (replacement + gap - at).astype(np.uint32)  # what a distance grows by when it is moved to the text
    moved = np.uint32(found.text.moved % (1 << 32))
    for place in range(length - 3):
        theirs = np.ascontiguousarray(new[:, place : place + 4]).view("<u4")[:, 0]
        ours = np.ascontiguousarray(now[:, place : place + 4]).view("<u4")[:, 0]
        by = ours - theirs  # a distance; an address; a distance to a per-CPU variable, which does not move
        fits = (by == nearer) | (by == moved) | (by == nearer - moved)
        same[:, place : place + 4] |= fits[:, None]
    explained: Bools = windows(found.mask, at, size).astype(np.bool_)[:, :length]
    fine: Bools = _filler(now[:, length:])
    fine &= (same | explained).all(axis=1)
    if length >= 5:  # a jump that became a short one
        far = np.ascontiguousarray(new[:, 1:5]).view("<i4")[:, 0].astype(np.int64) + 5 + replacement + gap - at
        near = now[:, 1].astype(np.int8).astype(np.int64) + 2
        fine |= (new[:, 0] == 0xE9) & (now[:, 0] == 0xEB) & (far == near) & _filler(now[:, 2:])
    return fine


def _as_linked(found: Explained, at: I64, size: int) -> Bools:
    """Which places hold what was linked there, with other filler at the end."""
    now, was = windows(found.text.found, at, size), windows(found.text.linked, at, size)
    fine = np.ones(len(at), np.bool_)
    fine &= (windows(found.mask, at, size).astype(np.bool_) | _same(now, was)).all(axis=1)
    return fine


def _same(now: U8, was: U8) -> Bools:
    """Which bytes are the same, or filler of another kind where there was some (optimize_nops)."""
    same: Bools = now == was
    for row in np.flatnonzero(~same.all(axis=1) & (was == _NOP).any(axis=1)).tolist():
        for start, end in true_ranges(was[row] == _NOP).tolist():
            if is_filler(now[row, start:end].tobytes()):
                same[row, start:end] = True
    return same


def _filler(rest: U8) -> Bools:
    """Which rows are filler; there are few different ones."""
    if not rest.shape[1]:
        return np.ones(len(rest), np.bool_)
    kinds, which = np.unique(rest, axis=0, return_inverse=True)
    found: Bools = np.array([is_filler(row.tobytes()) for row in kinds], np.bool_)[which.reshape(-1)]
    return found
