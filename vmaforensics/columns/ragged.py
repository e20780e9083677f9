"""Ragged ranges: every row stands for several things, as many as a count says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def expand(counts: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``counts[row]`` elements for each row: (row of each element, its place within that row, from 0).

    >>> expand(np.array([2, 0, 1]))
    (array([0, 0, 2]), array([0, 1, 0]))
    """
    counts = np.asarray(counts).astype(np.int64)
    row = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    place = np.arange(len(row), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
    return row, place


def expand_ranges(starts: NDArray[Any], ends: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every whole number in ``[start, end)`` for each row: (row of each element, the number).

    >>> expand_ranges(np.array([10, 5]), np.array([12, 6]))
    (array([0, 0, 1]), array([10, 11,  5]))
    """
    starts = np.asarray(starts).astype(np.int64)
    row, place = expand(np.maximum(np.asarray(ends).astype(np.int64) - starts, 0))
    return row, starts[row] + place


def sum_by(groups: NDArray[Any], values: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Sum of ``values`` for each of the groups 0 to ``count - 1``; ``groups`` says which group each row is in.

    >>> sum_by(np.array([0, 2, 0]), np.array([1, 5, 10]), 3)
    array([11,  0,  5])
    """
    total = np.zeros(count, np.int64)
    np.add.at(total, groups, values.astype(np.int64))
    return total
