"""What was printed in an NMI, or by printk itself, up to 5.14: a buffer for each CPU (kernel/printk/printk_safe.c).

It gets into the ring when the CPU next takes an interrupt; after a crash that may never have happened.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I32
from vmaforensics.views.log.records import ON_CPU, Log, LogRecords, RecordState
from vmaforensics.views.structures.per_cpu import per_cpu_offsets

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_BUFFERS: Final = ("nmi_print_seq", "safe_print_seq")
_LEVEL: Final = re.compile(rb"\x01([0-7c])")  # KERN_SOH with the level, or the mark of a continuation
_DEFAULT_LEVEL: Final = 4


@table(struct="printk_safe_seq_buf")
class _Buffers(Table):
    len: I32 = member("len.counter")  # bytes in use
    lost: I32 = member("message_lost.counter")  # messages that did not fit


def with_safe_buffers(kernel: Kernel, log: Log) -> Log:
    """``log`` with what is still in those buffers at its end, a record a line."""
    variables = [(name, at) for name in _BUFFERS if (at := kernel.symbols.get(name)) is not None]
    if not variables or not kernel.has(_Buffers.struct, "buffer"):
        return log
    offsets = per_cpu_offsets(kernel)
    room = kernel.member(_Buffers.struct, "buffer").extent
    lines: list[tuple[int, int, bytes]] = []  # CPU, level, text
    problems: list[str] = []
    for name, variable in variables:
        with np.errstate(over="ignore"):
            places = offsets + np.uint64(variable)
        buffers, ok = kernel.gather(_Buffers, places)
        for cpu in np.flatnonzero(ok & (buffers.len > 0)).tolist():
            buffer = np.array([int(places[cpu]) + kernel.offset(_Buffers.struct, "buffer")], np.uint64)
            data, held = kernel.space.gather(buffer, min(int(buffers.len[cpu]), room))
            if not held[0]:
                problems.append(f"{name} of CPU {cpu} has text that is not in the dump")
                continue
            lines += ((cpu, level, text) for level, text in _lines(data[0].tobytes()))
        dropped = int(buffers.lost[ok].sum())
        if dropped > 0:
            problems.append(f"{name}: {dropped} messages did not fit into the buffer of their CPU")
    if not lines and not problems:
        return log
    return _appended(log, lines, problems)


def _lines(raw: bytes) -> list[tuple[int, bytes]]:
    """Level and text of each line; one without a level has the default one."""
    found = []
    for line in raw.split(b"\n"):
        mark = _LEVEL.match(line)
        level = _DEFAULT_LEVEL if mark is None or mark[1] == b"c" else int(mark[1])
        text = _LEVEL.sub(b"", line)
        if text:
            found.append((level, text))
    return found


def _appended(log: Log, lines: list[tuple[int, int, bytes]], problems: list[str]) -> Log:
    """``log`` with ``lines`` (CPU, level, text) behind its own records."""
    rows = LogRecords.zeros(len(lines))
    sizes = np.array([len(text) for _, _, text in lines], np.int64)
    rows.caller[:] = [cpu | ON_CPU for cpu, _, _ in lines]
    rows.level[:] = [level for _, level, _ in lines]
    rows.state[:], rows.size[:] = RecordState.BUFFERED, sizes
    rows.begin[:] = len(log.data) + np.cumsum(sizes) - sizes
    return replace(
        log,
        records=LogRecords.concatenate([log.records, rows]),
        data=log.data + b"".join(text for _, _, text in lines),
        problems=(*log.problems, *problems),
    )
