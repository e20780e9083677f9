"""What a memory must answer, given every byte it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from vmaforensics.errors import MemoryReadError
from vmaforensics.image.placed import PageState

from .build import PAGE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmaforensics.image.memory import PhysicalMemory


def pfns(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.uint64)


def check(memory: PhysicalMemory, held: Mapping[int, int], ram: Mapping[int, int] | set[int], top: int) -> None:
    """``held`` maps physical addresses below ``top`` to byte values; ``ram`` lists RAM not held as well.

    Rows of many sizes, at random places, over page crossings and the ends of runs: gather, read and chunks
    all have to say the same as the truth; what is absent reads as an error and never as zeros.
    """
    rng = np.random.default_rng(top)
    value = np.zeros(top + 3 * PAGE, dtype=np.uint8)
    known = np.zeros(len(value), dtype=np.bool_)
    known[list(held)] = True
    value[list(held)] = list(held.values())
    edges = np.flatnonzero(np.diff(known.astype(np.int8))) + 1
    for size in (1, 2, 8, 24, 257, PAGE, PAGE + 100, 2 * PAGE):
        near = (edges[:, None] + np.array([-size, -size + 1, -1, 0, 1])).ravel()
        rows = np.concatenate([rng.integers(0, top + PAGE - 1, 40), near, np.arange(0, top, PAGE)])
        rows = np.unique(rows[(rows >= 0) & (rows + size <= len(value))]).astype(np.uint64)
        data, ok = memory.gather(rows, size)
        index = rows[:, None].astype(np.int64) + np.arange(size)
        np.testing.assert_array_equal(ok, known[index].all(axis=1))
        np.testing.assert_array_equal(data[ok], value[index][ok])
        assert not data[~ok].any()
        few = slice(int(rng.integers(0, len(rows))), None, 1 + len(rows) // 20)  # they are read another way
        for part in (rows[few], rows[few][::-1], rows[few][:1]):
            again, held_again = memory.gather(part, size)
            np.testing.assert_array_equal(held_again, ok[np.searchsorted(rows, part)])
            np.testing.assert_array_equal(again, data[np.searchsorted(rows, part)])
            one = memory.word(int(part[0]))
            whole = part[:1].astype(np.int64) + np.arange(8)
            if whole[-1] < len(value):
                assert one == (int(value[whole].view("<u8")[0]) if known[whole].all() else None)
        for row in rows[:: max(1, len(rows) // 12)].tolist():
            if known[row : row + size].all():
                assert memory.read(row, size) == value[row : row + size].tobytes()
            else:
                with pytest.raises(MemoryReadError):
                    memory.read(row, size)
    is_ram = known.copy()
    is_ram[list(ram)] = True
    expected = np.zeros(len(value), dtype=np.bool_)
    for start, end in memory.ranges.tolist():
        expected[start:end] = True
    np.testing.assert_array_equal(expected, is_ram)
    check_chunks(memory, value, known)


def check_chunks(memory: PhysicalMemory, value: np.ndarray, known: np.ndarray) -> None:
    for size in (1 << 24, 3 * PAGE):
        seen = np.zeros(len(value), dtype=np.bool_)
        last = 0
        for pa, piece in memory.chunks(size):
            assert last <= pa
            assert 0 < len(piece) <= size
            last = pa + len(piece)
            np.testing.assert_array_equal(piece, value[pa:last])
            seen[pa:last] = True
        assert not (seen & ~known).any()
        assert not value[known & ~seen].any()  # only what is zero may be left out


def bytes_of(pages: Mapping[int, bytes | None], page_size: int = PAGE) -> dict[int, int]:
    return {
        pfn * page_size + at: octet for pfn, data in pages.items() if data is not None for at, octet in enumerate(data)
    }


def states(memory: PhysicalMemory, count: int) -> str:
    """One letter per page frame: present, zero, absent, or ``-`` for not RAM."""
    return "".join("pza-"[state] for state in memory.page_states(np.arange(count, dtype=np.uint64)))


assert [state.name[0].lower() for state in PageState] == ["p", "z", "a", "n"]
