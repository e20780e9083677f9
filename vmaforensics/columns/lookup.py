"""Rows found by key. All look-ups are binary searches over ascending arrays; -1 stands for "no row"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_S = TypeVar("_S", bound=np.generic)


def rows_of(keys: NDArray[_S], wanted: NDArray[_S]) -> NDArray[np.int64]:
    """Row of each of ``wanted`` in the ascending ``keys``, -1 where it is not there; of equal keys the first.

    >>> rows_of(np.array([10, 20, 30]), np.array([20, 25]))
    array([ 1, -1])
    """
    if not len(keys):
        return np.full(len(wanted), -1, np.int64)
    row = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[row] == wanted, row, -1)


def last_rows_of(keys: NDArray[_S], wanted: NDArray[_S]) -> NDArray[np.int64]:
    """Last row of the ascending ``keys`` that is not above each of ``wanted``, -1 where all are.

    >>> last_rows_of(np.array([10, 20, 30]), np.array([5, 20, 29]))
    array([-1,  1,  1])
    """
    return np.searchsorted(keys, wanted, "right").astype(np.int64) - 1


def covering_rows(starts: NDArray[Any], ends: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.int64]:
    """Row of the range ``[start, end)`` that holds each of ``wanted``, -1 where none does.

    ``starts`` ascend; of ranges that overlap, the one that begins last is asked.

    >>> covering_rows(np.array([10, 20]), np.array([15, 30]), np.array([12, 17, 29]))
    array([ 0, -1,  1])
    """
    row = last_rows_of(starts, wanted)
    return np.where((row >= 0) & (wanted < values_at(ends, row)), row, -1)


def distances_to(keys: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """How far each of ``wanted`` is from the nearest of the ascending ``keys``, of which there is at least one.

    >>> distances_to(np.array([10, 20]), np.array([12, 20, 31]))
    array([ 2,  0, 11])
    """
    above = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    below = np.maximum(last_rows_of(keys, wanted), 0)
    away: NDArray[np.int64] = np.minimum(np.abs(keys[above] - wanted), np.abs(wanted - keys[below]))
    return away


def values_at(values: NDArray[_S], rows: NDArray[np.signedinteger[Any]], fill: int = 0) -> NDArray[_S]:
    """``values[rows]``, with ``fill`` where the row is -1; ``values`` may be empty then.

    >>> values_at(np.array([7, 8]), np.array([1, -1]))
    array([8, 0])
    """
    found = np.full((len(rows), *values.shape[1:]), fill, values.dtype)
    known = rows >= 0
    found[known] = values[rows[known]]
    return found


def bounds_of(keys: NDArray[_S], wanted: Any) -> tuple[int, int]:  # noqa: ANN401 - a scalar of the keys' kind
    """First and one past the last row of the ascending ``keys`` that equal ``wanted``.

    >>> bounds_of(np.array([10, 20, 20, 30]), 20)
    (1, 3)
    """
    key = np.asarray(wanted, keys.dtype)
    return int(np.searchsorted(keys, key, "left")), int(np.searchsorted(keys, key, "right"))


def distinct(*values: NDArray[_S]) -> NDArray[_S]:
    """The distinct ``values``, of one array or several of any shape, ascending.

    As :func:`numpy.unique`, which since NumPy 2.3 hashes integers and takes a hundred times as long.

    >>> distinct(np.array([30, 10, 30]))
    array([10, 30])
    """
    ordered = np.sort(np.concatenate(values, axis=None) if len(values) > 1 else values[0], axis=None)
    first = np.ones(len(ordered), np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    found: NDArray[_S] = ordered[first]
    return found


def is_in(values: NDArray[_S], among: NDArray[_S]) -> NDArray[np.bool_]:
    """Is each of ``values`` one of ``among``, both in any order? As :func:`numpy.isin`, for many addresses.

    >>> is_in(np.array([30, 10]), np.array([20, 10]))
    array([False,  True])
    """
    found: NDArray[np.bool_] = rows_of(among if is_sorted(among) else np.sort(among), values) >= 0
    return found


def difference(values: NDArray[_S], among: NDArray[_S]) -> NDArray[_S]:
    """The distinct ``values`` that are not ``among`` others, ascending. As :func:`numpy.setdiff1d`, which hashes too.

    >>> difference(np.array([30, 10, 30]), np.array([10, 20]))
    array([30])
    """
    mine = distinct(values)
    return mine[~is_in(mine, among)]


def first_rows(keys: NDArray[Any]) -> NDArray[np.int64]:
    """Row at which each distinct value of ``keys``, in any order, occurs first; by ascending value.

    >>> first_rows(np.array([30, 10, 30]))
    array([1, 0])
    """
    return np.unique(keys, return_index=True)[1].astype(np.int64)


def is_first(keys: NDArray[Any]) -> NDArray[np.bool_]:
    """Is each row of ``keys``, in any order, the first with its value?

    >>> is_first(np.array([30, 10, 30]))
    array([ True,  True, False])
    """
    first = np.zeros(len(keys), np.bool_)
    first[first_rows(keys)] = True
    return first


def sort_order(*keys: NDArray[Any]) -> NDArray[np.int64]:
    """Rows in ascending order of ``keys``, the weightiest first; rows that are equal keep their order.

    >>> sort_order(np.array([2, 1, 1]), np.array([0, 9, 8]))
    array([2, 1, 0])
    """
    if len(keys) == 1:
        return np.argsort(keys[0], kind="stable").astype(np.int64)
    return np.lexsort(keys[::-1]).astype(np.int64)


def is_sorted(*keys: NDArray[Any]) -> bool:
    """Do rows ascend by ``keys``, the weightiest first? Rows may be equal.

    >>> is_sorted(np.array([1, 1, 2]), np.array([5, 7, 0]))
    True
    """
    left = np.ones(max(len(keys[0]) - 1, 0), np.bool_)  # pairs of neighbours that are equal in every key so far
    for key in keys:
        before, after = key[:-1], key[1:]
        if (left & (before > after)).any():
            return False
        left &= before == after
    return True


def composite_key(major: NDArray[np.integer[Any]], minor: NDArray[np.uint64], minor_bits: int) -> NDArray[np.uint64]:
    """One number that sorts by ``major``, then by ``minor``; a ``minor`` of more bits counts as the largest.

    ``major`` has to be below ``2**(64 - minor_bits)``; a negative one counts as 0.

    >>> composite_key(np.array([1]), np.array([5], np.uint64), 45) == (1 << 45 | 5)
    array([ True])
    """
    low = np.minimum(minor, np.uint64((1 << minor_bits) - 1))
    key: NDArray[np.uint64] = np.maximum(major, 0).astype(np.uint64) << np.uint64(minor_bits) | low
    return key
