"""The stretch of physical memory the kernel image lies in, as one buffer for searching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.kernel.symbols import kallsyms_repair, kallsyms_tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.arch.interface import Architecture
    from vmaforensics.image.memory import PhysicalMemory

OVERLAP = 8 << 10  # bytes: a token table and its index have fewer
_STEP = 16 << 20
_REACH = 192 << 20  # the text, data and bss of any kernel built so far
_BEFORE, _AFTER = 24 << 20, 6 << 20  # around a token table lie all the tables of kallsyms


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Bytes of physical memory from ``pa``, the start of a page, on; pages that are not held are zero."""

    pa: int
    data: NDArray[np.uint8]
    held: NDArray[np.bool_]  # of each page
    page_size: int  # of the memory's pages, in bytes


def read(memory: PhysicalMemory, pa: int, size: int) -> Window:
    """Copy ``[pa, pa + size)``, clipped to the RAM that holds its middle; nothing is traced."""
    page = memory.page_size
    low = max(pa & ~(page - 1), 0)
    count = -(-(pa + size - low) // page) if pa + size > low else 0
    pas = np.arange(max(count, 0), dtype=np.uint64) * np.uint64(page) + np.uint64(low)
    with memory.untraced():
        data, held = memory.gather(pas, page)
    return Window(pa=low, data=data.reshape(-1), held=held, page_size=page)


def symbols_from(memory: PhysicalMemory, text: int, arch: Architecture) -> tuple[Window, kallsyms_tables.Tables] | None:
    """Find kallsyms behind the physical address ``text`` where the kernel's text begins."""
    for damaged in (False, True):
        before = np.zeros(0, np.uint8)
        for start in range(text, text + _REACH, _STEP):
            step = read(memory, start, _STEP)
            if not step.held.any():
                before = before[:0]
                continue
            data = np.concatenate([before, step.data])
            places: Iterator[tuple[int, int]] = (
                ((table, index) for table, index, _ in kallsyms_repair.damaged_token_tables(data))
                if damaged
                else kallsyms_tables.token_tables(data)
            )
            for table, index in places:
                found = tables_around(memory, step.pa - len(before) + table, index - table, arch)
                if found is not None:
                    return found
            before = step.data[-OVERLAP:]
    return None


def tables_around(
    memory: PhysicalMemory, pa: int, size: int, arch: Architecture, before: int = _BEFORE, after: int = _AFTER
) -> tuple[Window, kallsyms_tables.Tables] | None:
    """The window around a token table at ``pa``, its index ``size`` bytes behind, and the tables in it, if they fit
    together. What can be put right in them is put right in the window, which has ``before`` bytes before ``pa`` and
    ``after`` behind it."""
    low = max(pa - min(before, _BEFORE), 0) & ~(memory.page_size - 1)
    window = read(memory, low, pa - low + min(after, _AFTER))
    at = pa - low
    if at + size + 2 * kallsyms_tables.GROUP > len(window.data):
        return None
    near = slice(at - at % 4, at + size + 2 * kallsyms_tables.GROUP + 4)
    for table, index, right in kallsyms_repair.damaged_token_tables(window.data[near]):
        if table == at % 4 and index - table == size:
            window.data[at : at + len(right)] = right
    tables = kallsyms_tables.locate(window.data, at, at + size, arch.image_start)
    return None if tables is None else (window, tables)


def touch_tables(memory: PhysicalMemory, window: Window, tables: kallsyms_tables.Tables) -> None:
    """Trace the pages the symbol tables lie in."""
    for start, end in extents(tables):
        memory.touch(window.pa + start, end - start)


def extents(tables: kallsyms_tables.Tables) -> list[tuple[int, int]]:
    """Where the symbol tables lie, as ``[start, end)`` in the window, with the numbers beside them."""
    groups = -(-tables.count // kallsyms_tables.GROUP)
    return [
        (max(start, 0), end)
        for start, end in (
            (tables.names - 8, tables.markers + tables.marker_width * groups),
            (tables.token_table - 64, tables.token_index + 2 * kallsyms_tables.GROUP),
            (tables.offsets - 16, tables.offsets + 4 * tables.count + 16),
        )
    ]


def find_all(window: Window, pattern: bytes) -> Iterator[int]:
    """Physical addresses of every occurrence of ``pattern``, ascending."""
    raw = window.data.tobytes()
    at = raw.find(pattern)
    while at >= 0:
        yield window.pa + at
        at = raw.find(pattern, at + 1)
