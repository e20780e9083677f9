"""Pages of memory one behind the other, for what wants bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.image.placed import PageState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.image.memory import PhysicalMemory

_LONG = 1 << 18  # bytes that it pays to look for zeros in, before they are copied


def join(
    memory: PhysicalMemory, pas: NDArray[np.uint64], size: int, bounds: NDArray[np.int64]
) -> Iterator[tuple[bytes, int, bool]]:
    """Of each group of items: the ``size`` bytes at all its addresses one behind the other, zeros for what is not
    held; how many items that is; whether it is known that all are zeros, which then are not copied but the same
    object for neighbours. Without any item that is held there are no bytes. For what wants bytes, copied once.

    ``bounds`` has the rows ``[start, stop)`` of each group, in ascending order; none is empty, neighbours may
    overlap. No item crosses a page. What is read next may take the place of what was: not for two at a time.
    """
    starts, stops = bounds[:, 0], bounds[:, 1]
    low = 0
    while low < len(bounds):
        first = int(starts[low])
        high = int(np.searchsorted(stops, first + memory.batch, side="right"))
        if high > low:
            yield from _join(memory, pas[first : int(stops[high - 1])], size, bounds[low:high] - first)
        else:  # longer than what can be located at once
            yield _join_long(memory, pas[first : int(stops[low])], size)
            high = low + 1
        low = high


def _join_long(memory: PhysicalMemory, pas: NDArray[np.uint64], size: int) -> tuple[bytes, int, bool]:
    parts = [pas[at : at + memory.batch] for at in range(0, len(pas), memory.batch)]
    read = [next(_join(memory, part, size, np.array([[0, len(part)]]))) for part in parts]
    lacking = sum(lacks for _, lacks, _ in read)
    whole = (raw or bytes(size * len(part)) for part, (raw, _, _) in zip(parts, read, strict=True))
    return (b"".join(whole) if lacking < len(pas) else b""), lacking, False


def _join(
    memory: PhysicalMemory, pas: NDArray[np.uint64], size: int, bounds: NDArray[np.int64]
) -> Iterator[tuple[bytes, int, bool]]:
    """:func:`join` for what is located at once."""
    pas = np.ascontiguousarray(pas, np.uint64)
    buffer, offsets, states = memory.locate(pas, size)
    lost = np.concatenate([np.zeros(1, np.int64), np.cumsum(states > PageState.ZERO)])
    present = (states == PageState.PRESENT) & (len(buffer) >= size)
    # What lies in the buffer as it is wanted is one piece, and so are zeros; the cuts are between two.
    cuts = np.flatnonzero((present[1:] != present[:-1]) | (present[1:] & (np.diff(offsets) != size))) + 1
    inner = np.stack([np.searchsorted(cuts, bounds[:, 0], "right"), np.searchsorted(cuts, bounds[:, 1])], axis=1)
    heads = bounds[:, 0]
    groups = zip(bounds.tolist(), inner.tolist(), (lost[bounds[:, 1]] - lost[heads]).tolist(), strict=True)
    first = zip(offsets[heads].tolist(), present[heads].tolist(), strict=True)
    rows, places, here = cuts.tolist(), offsets[cuts].tolist(), present[cuts].tolist()
    held, zeros = buffer.data, b""
    for ((start, stop), (low, high), lacks), (place, there) in zip(groups, first, strict=True):
        count = (stop - start) * size
        if lacks == stop - start:
            yield b"", lacks, False
        elif low < high:
            begins = (start, *rows[low:high])
            pieces = zip(begins, (*begins[1:], stop), (place, *places[low:high]), (there, *here[low:high]), strict=True)
            parts = [
                held[at : at + (end - row) * size] if kept else bytes((end - row) * size)
                for row, end, at, kept in pieces
            ]
            yield b"".join(parts), lacks, False
        elif there and not _is_zero(buffer[place : place + count], size):
            yield held[place : place + count].tobytes(), lacks, False
        else:
            zeros = zeros if len(zeros) == count else bytes(count)
            yield zeros, lacks, True


def _is_zero(piece: NDArray[np.uint8], step: int) -> bool:
    """Is this a long piece all of whose bytes are zeros? One byte of each step tells most that are not."""
    return len(piece) >= _LONG and not piece[::step].any() and not piece.max()
