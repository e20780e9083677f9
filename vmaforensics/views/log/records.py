"""The records of the kernel's log, whichever structure keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from vmaforensics.columns.table import Table, column, table
from vmaforensics.columns.types import I64, U8, U32, U64, Bools, Bytes16

LOG_KERN: Final = 0  # facility of what the kernel itself wrote; programs cannot have it (devkmsg_write)
NO_CALLER: Final = 0xFFFF_FFFF
ON_CPU: Final = 1 << 31  # this bit of a caller: the rest is a CPU, not a thread (printk_caller_id)


class RecordState(IntEnum):
    """How far its writer had come with a record."""

    WHOLE = 0  # finalized
    OPEN = 1  # whole as far as it goes; more might have been appended (desc_committed, LOG_CONT)
    UNFINISHED = 2  # still being written: the text is what happened to be there
    BUFFERED = 3  # not in the ring yet, but in a buffer of its CPU; without a time


@table()
class LogRecords(Table):
    """Records as the log has them, the oldest first; see :func:`~vmaforensics.views.log.log.read_log`."""

    seq: U64  # number since boot
    time: U64  # ns of local_clock, near enough those since boot
    level: U8  # 0 (emergency) to 7 (debug)
    facility: U8  # LOG_KERN, or what a program that wrote to /dev/kmsg gave
    flags: U8  # LOG_NEWLINE, LOG_CONT, LOG_FORCE_CON
    caller: U32 = column(fill=NO_CALLER)  # thread id, or ON_CPU with the CPU
    comm: Bytes16  # of the caller, with CONFIG_PRINTK_EXECUTION_CTX
    state: U8  # a RecordState
    begin: I64  # of the text in Log.data
    size: I64  # bytes of text
    lost: Bools  # the text could not be stored, was overwritten, or is not in the image


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The log, and what is known to be missing of it."""

    records: LogRecords
    data: bytes  # that the texts lie in
    source: str  # the variable it was read from
    overwritten: int = 0  # records since boot that newer ones have taken the place of
    failed: int = 0  # records for which there was no room
    problems: tuple[str, ...] = ()  # what could not be read or believed, a sentence each

    def text(self, row: int) -> bytes:
        """The text of a record, lines separated by newlines; empty where it is lost."""
        if self.records.lost[row]:
            return b""
        begin = int(self.records.begin[row])
        text = self.data[begin : begin + int(self.records.size[row])]
        # The length of a record that is being written is not known yet: room was made for more.
        return text.split(b"\0", 1)[0] if self.records.state[row] == RecordState.UNFINISHED else text
