"""The kernel's table of exported symbols: names of variables that kallsyms may lack (include/linux/export.h).

``__ksymtab`` and ``__ksymtab_gpl`` lie behind each other. An entry (``struct kernel_symbol``) has 32-bit distances from
their own places: to the symbol, to its name and, since 5.4, to the name of a namespace.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.kernel.symbols import window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.image.memory import PhysicalMemory

_ANCHORS = (b"init_task\0", b"jiffies\0", b"loops_per_jiffy\0")  # exported by every kernel
_NEAR = 8 << 20  # bytes between the names and the tables, at most
_MOST = 1 << 17  # entries
_LEAST = 64  # entries that fit each other: fewer may do so by chance
_MOST_NAMES = 1 << 12  # places of each anchor
_MOST_TRIED = 256  # words that may belong to the table
_AT_ONCE = 1 << 18  # words: what fits into a cache of the CPU
_REACH = 128 << 20
_NAME = 512  # KSYM_NAME_LEN


class Exports(NamedTuple):
    """Exported symbols."""

    addresses: dict[str, int]
    pa: int  # physical address of the first entry
    size: int  # bytes of the table


def exported_symbols(memory: PhysicalMemory, text: int, offset: int) -> Exports | None:
    """The exported symbols of the kernel whose text begins at the physical address ``text``; None if not found.

    ``offset`` is virtual minus physical address of the image. What is found is traced.
    """
    seen = window.read(memory, text, _REACH)
    pages = np.flatnonzero(seen.held)
    data = seen.data[: (int(pages[-1]) + 1) * seen.page_size if len(pages) else 0]
    raw = data.tobytes()
    words = data[: len(data) // 4 * 4].view("<i4")
    for row in _rows_of(
        [name for anchor in _ANCHORS for name in islice(_occurrences(raw, anchor), _MOST_NAMES)], words
    ):
        for width in (3, 2):
            table = _entries(data, words, row, width)
            if len(table) >= _LEAST:
                return _read(memory, seen, raw, table, offset)
    return None


def _occurrences(raw: bytes, pattern: bytes) -> Iterator[int]:
    at = raw.find(pattern)
    while at >= 0:
        yield at
        at = raw.find(pattern, at + 1)


def _rows_of(names: list[int], words: NDArray[np.int32]) -> list[int]:
    """The words that are the distances from their own places to one of ``names``; those of the first name first."""
    wanted = np.array(names, np.int32)
    found: list[tuple[int, int]] = []
    for low in range(0, len(words) if names else 0, _AT_ONCE):
        part = words[low : low + _AT_ONCE]
        leads = part + np.arange(4 * low, 4 * (low + len(part)), 4, dtype=np.int32)
        rows = np.flatnonzero(np.isin(leads, wanted))
        rows = rows[np.abs(part[rows]) <= _NEAR][: _MOST_TRIED - len(found)]
        found += [(names.index(int(leads[row])), low + int(row)) for row in rows]
    return [row for _, row in sorted(found)]


def _entries(data: NDArray[np.uint8], words: NDArray[np.int32], row: int, width: int) -> NDArray[np.int64]:
    """Places (within ``data``) of the names' distances around ``words[row]``: entries of ``width`` words, whose names
    are text, as far as they go on."""
    before = min(row // width, _MOST)
    rows = row + width * np.arange(-before, min((len(words) - 1 - row) // width, _MOST) + 1, dtype=np.int64)
    places = 4 * rows
    names = places + words[rows]
    inside = (names > 0) & (names < len(data))
    first = data[np.where(inside, names, 0)]
    letters = inside & (((first | 0x20) >= ord("a")) & ((first | 0x20) <= ord("z")) | (first == ord("_")))
    wrong = np.flatnonzero(~letters)
    start = int(wrong[wrong < before].max(initial=-1)) + 1
    end = int(wrong[wrong > before].min(initial=len(rows)))
    found: NDArray[np.int64] = places[start:end]
    return found


def _read(memory: PhysicalMemory, seen: window.Window, raw: bytes, table: NDArray[np.int64], offset: int) -> Exports:
    addresses: dict[str, int] = {}
    reach = np.zeros(2, np.int64)
    for place in table.tolist():
        name = place + int.from_bytes(raw[place : place + 4], "little", signed=True)
        end = raw.find(b"\0", name, name + _NAME)
        text = raw[name:end].decode("ascii", "replace")
        if end < 0 or not text.isprintable():
            continue
        reach = np.array([min(reach[0] or name, name), max(reach[1], end)])
        value = int.from_bytes(raw[place - 4 : place], "little", signed=True)
        addresses.setdefault(text, (seen.pa + place - 4 + value + offset) % (1 << 64))
    first, size = int(table[0]) - 4, int(table[-1] - table[0]) + 12
    memory.touch(seen.pa + first, size)
    memory.touch(seen.pa + int(reach[0]), int(reach[1] - reach[0]) + 1)
    return Exports(addresses, seen.pa + first, size)
