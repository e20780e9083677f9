"""The log of 3.5 to 5.9: records of any length, one behind the other in ``log_buf`` (kernel/printk/printk.c).

A record is a ``struct printk_log`` (up to 3.10 ``struct log``), its text and its dictionary. A record of length 0
stands for the end of the buffer: the next is at its start. Where a record ends only its own length says, so they are
followed one after the other, in memory that was read once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U8, U16, U32, U64
from vmaforensics.views.log.bytes_held import BytesHeld, read_held
from vmaforensics.views.log.records import NO_CALLER, Log, LogRecords

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_MOST: Final = 1 << 28  # bytes that are read; log_buf_len has seldom more than a few MiB


@table(struct="printk_log")
class _Records(Table):
    time: U64 = member("ts_nsec")
    size: U16 = member("text_len")
    facility: U8 = member("facility")
    flags: U8 = member("flags")
    level: U8 = member("level")
    caller: U32 = member("caller_id?", fill=NO_CALLER)  # CONFIG_PRINTK_CALLER, from 5.1 on


@table(struct="log")
class _OldRecords(_Records):
    """As it was called up to 3.10 (62e32ac3505a)."""


def read_log_buf(kernel: Kernel) -> Log | None:
    """The records of ``log_buf``; None if this kernel does not keep its log so, or it cannot be read.

    Some kernels have a second variable of that name (kernel/bpf/verifier.c): the first that points to a buffer with a
    record at ``log_first_idx`` is taken.
    """
    kind = next((kind for kind in (_Records, _OldRecords) if kernel.types.struct(kind.struct) is not None), None)
    size, first, end = (kernel.variable(name, 4) for name in ("log_buf_len", "log_first_idx", "log_next_idx"))
    if kind is None or not size or first is None or end is None or max(first, end) > size or size > _MOST:
        return None
    for pointer in kernel.symbols.find("log_buf"):
        words, ok = kernel.words(np.array([pointer], np.uint64), 1)
        if not ok[0] or not kernel.arch.kernel_pointer(words[0])[0]:
            continue
        held = read_held(kernel, int(words[0, 0]), size)
        places, problems = _follow(kernel, kind.struct, held, first, end)
        if len(places) or first == end:
            return _log(kernel, kind, int(words[0, 0]), held, places, problems)
    return None


def _follow(kernel: Kernel, struct: str, held: BytesHeld, first: int, end: int) -> tuple[list[int], list[str]]:
    """Where each record begins, from ``first`` up to ``end`` (log_next); and why no further, if that is so."""
    data, lost = held.data, held.lost
    header, length = kernel.sizeof(struct), kernel.offset(struct, "len")
    places: list[int] = []
    at, turned = first, end > first
    while at != end:
        if at + header > len(data) or (turned and at > end) or lost[at + header] != lost[at]:
            return places, [f"the log could not be followed beyond byte {at:#x} of log_buf"]
        long = int.from_bytes(data[at + length : at + length + 2], "little")
        if long == 0 and not turned:
            at, turned = 0, True
            continue
        if long < header or long > len(data) - at:
            return places, [f"the record at byte {at:#x} of log_buf says it has {long} bytes; the log ends there"]
        places.append(at)
        at += long
    return places, []


def _log(
    kernel: Kernel, kind: type[_Records], address: int, held: BytesHeld, places: list[int], problems: list[str]
) -> Log:
    """The records at ``places`` of the buffer at ``address``."""
    begin = np.array(places, np.int64)
    with np.errstate(over="ignore"):
        rows, ok = kernel.gather(kind, np.uint64(address) + begin.astype(np.uint64))
    number = kernel.variable("log_first_seq", 8) or 0
    records = LogRecords.zeros(len(rows))
    records.seq[:] = np.uint64(number) + np.arange(len(rows), dtype=np.uint64)
    records.time[:], records.level[:], records.facility[:] = rows.time, rows.level, rows.facility
    records.flags[:], records.caller[:] = rows.flags, rows.caller
    records.begin[:], records.size[:] = begin + kernel.sizeof(kind.struct), rows.size
    records.lost[:] = ~ok | ~held.held(records.begin, records.size)
    return Log(records=records, data=held.data, source="log_buf", overwritten=number, problems=tuple(problems))
