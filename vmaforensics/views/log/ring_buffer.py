"""The log since 5.10: ``struct printk_ringbuffer`` (kernel/printk/printk_ringbuffer.c).

A descriptor, a ``printk_info`` and a block of text for each record, each in a ring of its own. Identifiers of
descriptors have 62 bits and positions in the ring of texts 64; both start so that they wrap early, so they are masked
and subtracted, never compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U8, U16, U32, U64, Bytes16
from vmaforensics.views.log.bytes_held import BytesHeld, read_held
from vmaforensics.views.log.records import NO_CALLER, Log, LogRecords, RecordState
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64, Bools
    from vmaforensics.kernel.kernel import Kernel

_ID_BITS: Final = 62  # of state_var; the two above are the state
_ID_MASK: Final = np.uint64((1 << _ID_BITS) - 1)
_REUSABLE: Final = 3
_STATES: Final = np.array([RecordState.UNFINISHED, RecordState.OPEN, RecordState.WHOLE], np.uint8)  # desc_reserved on
_FAILED_LPOS: Final = 1  # a record without text: there was no room; any other odd position: its text is empty
_BLOCK_ID: Final = 8  # bytes of struct prb_data_block before the text
_MOST_BITS: Final = 26  # of count_bits: log_buf_len of 2 GiB (LOG_BUF_LEN_MAX), 32 bytes a record (PRB_AVGBITS)
_MOST_RECORDS: Final = 1 << 22
_MOST_TEXT: Final = 28  # of size_bits


@table(struct="printk_ringbuffer")
class _Rings(Table):
    count_bits: U32 = member("desc_ring.count_bits")  # log2 of the descriptors
    descs: U64 = member("desc_ring.descs")  # address of the first prb_desc
    infos: U64 = member("desc_ring.infos")  # address of the first printk_info
    head: U64 = member("desc_ring.head_id.counter")
    tail: U64 = member("desc_ring.tail_id.counter")
    size_bits: U32 = member("text_data_ring.size_bits")  # log2 of the bytes of text
    data: U64 = member("text_data_ring.data")
    failed: U64 = member("fail.counter")


@table(struct="prb_desc")
class _Descriptors(Table):
    state: U64 = member("state_var.counter")
    begin: U64 = member("text_blk_lpos.begin")
    next: U64 = member("text_blk_lpos.next")


@table(struct="printk_info")
class _Infos(Table):
    seq: U64 = member("seq")
    time: U64 = member("ts_nsec")
    size: U16 = member("text_len")
    facility: U8 = member("facility")
    flags: U8 = member("flags")
    level: U8 = member("level")
    caller: U32 = member("caller_id", fill=NO_CALLER)
    comm: Bytes16 = member("comm?")  # CONFIG_PRINTK_EXECUTION_CTX


class _Blocks(NamedTuple):
    """Where the text of each descriptor lies in the ring of texts."""

    begin: I64
    room: I64  # bytes; 0 for none
    lost: Bools


def read_ring_buffer(kernel: Kernel) -> Log | None:
    """The log that ``prb`` points to; None if there is no such variable, or nothing that can be one behind it."""
    pointer = kernel.symbols.get("prb")
    if pointer is None and kernel.vmcoreinfo is not None:
        pointer = kernel.vmcoreinfo.symbol("prb")
    if pointer is None or not kernel.has("printk_ringbuffer", "desc_ring"):
        return None
    where, ok = kernel.words(np.array([pointer], np.uint64), 1)
    if not ok[0]:
        return None
    rings, ok = kernel.gather(_Rings, where[:, 0])
    if not ok[0] or not 0 < rings.count_bits[0] <= _MOST_BITS or not 3 <= rings.size_bits[0] <= 31:
        return None
    return _read(kernel, rings)


def _read(kernel: Kernel, rings: _Rings) -> Log:
    """The records of a ring whose sizes are possible."""
    problems: list[str] = []
    ids = _ids(rings, problems)
    index = ids & np.uint64((1 << int(rings.count_bits[0])) - 1)
    with np.errstate(over="ignore"):
        descriptors, ok = kernel.gather(_Descriptors, rings.descs[0] + index * np.uint64(kernel.sizeof("prb_desc")))
    state = (descriptors.state >> np.uint64(_ID_BITS)).astype(np.uint8)
    # A descriptor that has another identifier was being taken for a new record.
    live = ok & (descriptors.state & _ID_MASK == ids) & (state != _REUSABLE)
    ids, index, state, descriptors = ids[live], index[live], state[live], descriptors.take(live)
    with np.errstate(over="ignore"):
        infos, read = kernel.gather(_Infos, rings.infos[0] + index * np.uint64(kernel.sizeof("printk_info")))
    lost = int((~ok).sum()) + int((~read).sum())
    if lost:
        problems.append(f"{counted(lost, 'record')} of the log: not in the dump or not mapped")
    ids, state, descriptors, infos = ids[read], state[read], descriptors.take(read), infos.take(read)

    size = 1 << int(rings.size_bits[0])
    if int(rings.size_bits[0]) > _MOST_TEXT:
        problems.append(f"the log says it has {size >> 20} MiB of text, more than is read")
        size = 0
    held = read_held(kernel, int(rings.data[0]), size)
    blocks = _blocks(descriptors, ids, int(rings.size_bits[0]), held)
    records = LogRecords.zeros(len(ids))
    records.seq[:], records.time[:], records.level[:] = infos.seq, infos.time, infos.level
    records.facility[:], records.flags[:] = infos.facility, infos.flags
    records.caller[:], records.comm[:] = infos.caller, infos.comm
    records.state[:] = _STATES[state]
    unfinished = records.state == RecordState.UNFINISHED
    records.begin[:] = blocks.begin
    records.size[:] = np.where(unfinished, blocks.room, np.minimum(infos.size.astype(np.int64), blocks.room))
    records.lost[:] = blocks.lost | ~held.held(records.begin, records.size)
    without = int((records.lost & ~unfinished).sum())
    if without:
        problems.append(f"the text of {counted(without, 'record')} of the log: lost, overwritten or not in the dump")
    return Log(
        records=records,
        data=held.data,
        source="prb",
        overwritten=_overwritten(records),
        failed=int(rings.failed[0]),
        problems=tuple(problems),
    )


def _overwritten(records: LogRecords) -> int:
    """How many records there were before the first one: they are numbered from 0 on."""
    return int(records.seq[0]) if len(records) else 0


def _ids(rings: _Rings, problems: list[str]) -> U64:
    """The identifiers from the tail to the head: no more than there are descriptors, nor than is read."""
    head, tail = int(rings.head[0]), int(rings.tail[0])
    asked = ((head - tail) % (1 << _ID_BITS)) + 1
    most = 1 << int(rings.count_bits[0])
    if asked > most:
        problems.append("the first and the last record of the log are further apart than it has records")
    count = min(asked, most, _MOST_RECORDS)
    if count < min(asked, most):
        problems.append(f"of the log, only the last {_MOST_RECORDS:,} records were read")
    with np.errstate(over="ignore"):
        first = np.uint64((head - count + 1) % (1 << _ID_BITS))
        return (first + np.arange(count, dtype=np.uint64)) & _ID_MASK


def _blocks(descriptors: _Descriptors, ids: U64, bits: int, held: BytesHeld) -> _Blocks:
    """The place of each text (get_data): a block that would run over the end of the ring begins at its start."""
    begin, after, size = descriptors.begin, descriptors.next, np.uint64(1 << bits)
    mask, shift = size - np.uint64(1), np.uint64(bits)
    none = begin & np.uint64(1) == 1
    with np.errstate(over="ignore"):
        wrapped = begin >> shift != (after - np.uint64(1)) >> shift
        long = np.where(wrapped, after & mask, after - begin)
    start = np.where(wrapped, np.uint64(0), begin & mask)
    # Bounds that no writer leaves: the block is larger than the ring, or than what is left up to its end.
    wild = ~none & ((long < np.uint64(_BLOCK_ID)) | (long > size - start) | (start & np.uint64(7) != 0))
    usable = ~none & ~wild
    start, long = np.where(usable, start, 0).astype(np.int64), np.where(usable, long, 0).astype(np.int64)
    # Each block begins with the identifier of its descriptor; another one has been written over it.
    words = np.frombuffer(held.data, "<u8", len(held.data) // _BLOCK_ID)
    there = usable & held.held(start, np.full(len(start), _BLOCK_ID, np.int64))
    own = there.copy()
    own[there] = words[start[there] // _BLOCK_ID] & _ID_MASK == ids[there]
    good = own | (none & (begin != np.uint64(_FAILED_LPOS)))
    return _Blocks(np.where(usable, start + _BLOCK_ID, 0), np.maximum(long - _BLOCK_ID, 0), ~good)
