"""ORC: tables that say, for every instruction of the kernel, where its caller's frame lies.

Documentation/arch/x86/orc-unwinder.rst, arch/x86/include/asm/orc_types.h, arch/x86/kernel/unwind_orc.c. An entry of 6
bytes holds for all addresses from its own on: s16 ``sp_offset``, s16 ``bp_offset``, u16 with the bits

=====  ==============  =======================================================  ===========  ======  ===
form   kernels         type (of call, saved registers, part of them)            undefined    signal  end
=====  ==============  =======================================================  ===========  ======  ===
1      4.14 to 6.2     bits 8-9: 0, 1, 2                                        by register  type    10
2      6.3             as 1                                                     by register  10      11
3      6.4 to 7.0      bits 8-10: 0 undefined, 1 end, 2, 3, 4                   type         11      type
4      7.1             as 3, with the registers numbered otherwise              type         11      type
=====  ==============  =======================================================  ===========  ======  ===

Bits 0-3 and 4-7 are registers. Which form it is shows in what the tables hold: nearly all entries are of the stack
pointer and of calls (distributions carry these changes into older releases).
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import is_sorted, last_rows_of, sort_order
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I64, U8, U16, U64, Bools

if TYPE_CHECKING:
    from vmaforensics.arch.reading import KernelReader
ENTRY_SIZE = 6  # struct orc_entry
IP_SIZE = 4  # s32, from its own address on
_CHUNK = 512  # words read at once: a page, so that what is missing costs a page
_MOST = 1 << 21  # entries of one table; a kernel of 2026 has less than 2**19

_SP, _SP_BEFORE_FORM_4 = 3, 5  # number of the stack pointer
_V2_END, _V1_END = 1 << 11, 1 << 10


class Kind(IntEnum):
    """What stands at the place the entry leads to."""

    UNDEFINED = 0
    END = 1
    CALL = 2  # a return address, below it
    REGISTERS = 3  # struct pt_regs
    PART = 4  # its last five words, which the CPU itself saves
    OUTSIDE = 5  # no table has this code
    LOST = 6  # the table has it, but the image does not hold that part


class Base(IntEnum):
    """What an offset counts from, numbered as up to 7.0; 10 came with 7.1."""

    UNDEFINED = 0
    PREV_SP = 1
    DX = 2
    DI = 3
    BP = 4
    SP = 5
    R10 = 6
    R13 = 7
    BP_INDIRECT = 8
    SP_INDIRECT = 9
    AX = 10
    UNKNOWN = 15


# ORC_REG_* from 7.1 on (1735858caa4b: numbered like the CPU's registers).
_RENUMBERED = (
    Base.UNDEFINED, Base.AX, Base.DX, Base.SP, Base.BP, Base.DI, Base.R10, Base.R13, Base.PREV_SP, Base.SP_INDIRECT,
    Base.BP_INDIRECT,
)  # fmt: skip
_AS_EVER = tuple(Base)[:10]


class Code(NamedTuple):
    """Where one table of the kernel or of a module lies, and the code it is of."""

    ips: int  # address of the table of addresses
    entries: int
    length: int  # entries of each
    start: int  # first code it is of
    end: int  # behind the last


@table()
class Orc(Table):
    """Entries of all tables; sorted by ``ip``, an entry holds up to the next."""

    ip: U64
    sp_offset: I64
    bp_offset: I64
    sp_base: U8  # Base
    bp_base: U8  # Base
    kind: U8  # Kind
    signal: Bools  # the address that stands there is the very instruction, not one behind a call


def read_orc(kernel: KernelReader, tables: list[Code]) -> tuple[Orc, int]:
    """The entries of ``tables``, and which form they have (0: there are none)."""
    parts = [_read_table(kernel, code) for code in tables]
    if not parts:
        return Orc.zeros(0), 0
    raw = _Raw.concatenate(parts)
    form = form_of(raw.flags[raw.kind == _ENTRY])
    orc = _decode(raw, form)
    # The kernel sorts its table when it is built or boots. Where code of one table ends that of another may begin.
    is_entry = raw.kind == _ENTRY
    return (orc if is_sorted(orc.ip, is_entry) else orc.take(sort_order(orc.ip, is_entry))), form


@table()
class _Raw(Table):
    """Entries as they lie in memory."""

    ip: U64
    sp_offset: I64
    bp_offset: I64
    flags: U16
    kind: U8  # _ENTRY, or what the entry is whatever its flags are


_ENTRY = 255


def _read_table(kernel: KernelReader, code: Code) -> _Raw:
    """The entries of one table, between rows that bound its code."""
    count = min(max(code.length, 0), _MOST)
    distances, held_ips = _read_array(kernel, code.ips, count, IP_SIZE)
    entries, held = _read_array(kernel, code.entries, count, ENTRY_SIZE)
    places = np.uint64(code.ips % (1 << 64)) + np.arange(count, dtype=np.uint64) * np.uint64(IP_SIZE)
    with np.errstate(over="ignore"):
        ips = places + distances.view("<i4")[:, 0].astype(np.int64).view(np.uint64)
    words = entries.view("<u2").reshape(-1, 3)
    offsets = words[:, :2].view(np.int16).astype(np.int64)
    # An entry without its address is of no use, but the one before it does not hold on.
    lost = ~held
    lost[:-1] |= ~held_ips[1:]
    rows = _Raw(
        ip=ips,
        sp_offset=offsets[:, 0],
        bp_offset=offsets[:, 1],
        flags=words[:, 2].astype(np.uint16),
        kind=np.where(lost, Kind.LOST, _ENTRY).astype(np.uint8),
    ).take(held_ips)
    bounds = _Raw.of(ip=[code.start, code.end], kind=[Kind.OUTSIDE if held_ips.all() else Kind.LOST, Kind.OUTSIDE])
    return _Raw.concatenate([bounds.take(slice(0, 1)), rows, bounds.take(slice(1, 2))])


def form_of(flags: U16) -> int:
    """Which form entries have, by the third word of each; 0 if there are none."""
    if not len(flags):
        return 0
    bases = np.bincount(flags & 0xF, minlength=16)
    types = np.bincount((flags >> 8) & 7, minlength=8)
    if int(types.argmax()) != Kind.CALL:
        return 2 if (flags & _V2_END).any() else 1
    return 4 if bases[_SP] > bases[_SP_BEFORE_FORM_4] else 3


def _decode(raw: _Raw, form: int) -> Orc:
    """Entries of that form."""
    flags = raw.flags
    orc = Orc.zeros(len(flags)).replace(ip=raw.ip, sp_offset=raw.sp_offset, bp_offset=raw.bp_offset)
    numbers = np.full(16, Base.UNKNOWN, np.uint8)
    meant = _RENUMBERED if form == 4 else _AS_EVER
    numbers[: len(meant)] = meant
    orc.sp_base[:] = numbers[flags & 0xF]
    orc.bp_base[:] = numbers[(flags >> 4) & 0xF]
    if form >= 3:
        types = (flags >> 8) & 7
        orc.kind[:] = np.where(types <= Kind.PART, types, Kind.UNDEFINED)
        orc.signal[:] = flags >> 11 & 1
    else:
        types = (flags >> 8) & 3
        end = flags & (_V1_END if form == 1 else _V2_END) != 0
        orc.kind[:] = np.where(types < 3, types + Kind.CALL, Kind.UNDEFINED)
        orc.kind[orc.sp_base == Base.UNDEFINED] = Kind.UNDEFINED
        orc.kind[(orc.sp_base == Base.UNDEFINED) & end] = Kind.END
        orc.signal[:] = (types != 0) if form == 1 else (flags >> 10 & 1)
    given = raw.kind != _ENTRY
    orc.kind[given] = raw.kind[given]
    return orc


def find(orc: Orc, cursor_ip: U64, precise: Bools) -> Orc:
    """The entry of each frame: behind a call, that of the call. OUTSIDE where no table has the code."""
    with np.errstate(over="ignore"):
        rows = last_rows_of(orc.ip, cursor_ip - (~precise).astype(np.uint64))
    found = orc.take_or_fill(rows)
    found.kind[rows < 0] = Kind.OUTSIDE
    return found


def _read_array(kernel: KernelReader, start: int, count: int, size: int) -> tuple[U8, Bools]:
    """``count`` elements of ``size`` bytes from ``start`` on: shape ``(count, size)``, and which could be read."""
    if count <= 0:
        return np.zeros((0, size), np.uint8), np.zeros(0, np.bool_)
    page = 8 * _CHUNK
    first = start - start % page
    pages = -(-(start + count * size - first) // page)
    addresses = np.uint64(first % (1 << 64)) + np.arange(pages, dtype=np.uint64) * np.uint64(page)
    words, ok = kernel.words(addresses, _CHUNK)
    skipped = start - first
    data = words.view(np.uint8).reshape(-1)[skipped : skipped + count * size].reshape(count, size)
    at = skipped + np.arange(count, dtype=np.int64) * size
    held = ok[at // page] & ok[(at + size - 1) // page]
    return np.ascontiguousarray(data), held
