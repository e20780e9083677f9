"""Runs: neighbouring rows that belong together, in arrays where what belongs together already stands together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vmaforensics.columns.lookup import distinct

if TYPE_CHECKING:
    from numpy.typing import NDArray


def begins_run(*keys: NDArray[Any]) -> NDArray[np.bool_]:
    """Does a run of equal ``keys`` begin at each row? Arrays of one length; without any, there are no rows.

    >>> begins_run(np.array([5, 5, 7, 5]))
    array([ True, False,  True,  True])
    """
    begins = np.ones(len(keys[0]) if keys else 0, np.bool_)
    if len(begins):
        begins[1:] = False
    for key in keys:
        begins[1:] |= key[1:] != key[:-1]
    return begins


def begins_range(starts: NDArray[Any], ends: NDArray[Any]) -> NDArray[np.bool_]:
    """Does each range ``[start, end)`` begin elsewhere than where the one before it ends?

    >>> begins_range(np.array([0, 4, 9]), np.array([4, 8, 10]))
    array([ True, False,  True])
    """
    begins = np.ones(len(starts), np.bool_)
    begins[1:] = starts[1:] != ends[:-1]
    return begins


def run_starts(begins: NDArray[np.bool_]) -> NDArray[np.int64]:
    """First row of each run, given whether a run begins at each row."""
    return np.flatnonzero(begins).astype(np.int64)


def run_lasts(starts: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Last row of each run, given the first rows and the number of all rows.

    >>> run_lasts(np.array([0, 2]), 5)
    array([1, 4])
    """
    return np.append(starts[1:], count)[: len(starts)] - 1


def run_numbers(begins: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number of the run each row is in, from 0.

    >>> run_numbers(np.array([True, False, True]))
    array([0, 0, 1])
    """
    return np.cumsum(begins, dtype=np.int64) - 1


def places_in_run(begins: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Place of each row within its run, from 0.

    >>> places_in_run(np.array([True, False, True]))
    array([0, 1, 0])
    """
    place = np.arange(len(begins), dtype=np.int64)
    return place - np.maximum.accumulate(np.where(begins, place, 0))


def value_before(values: NDArray[Any], begins: NDArray[np.bool_], fill: int = 0) -> NDArray[Any]:
    """The value one row up within the same run; ``fill`` in the first row of each.

    >>> value_before(np.array([7, 8, 9]), np.array([True, False, True]))
    array([0, 7, 0])
    """
    before = np.full_like(values, fill)
    before[1:] = np.where(begins[1:], values.dtype.type(fill), values[:-1])
    return before


def true_ranges(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Ranges ``[start, end)`` of rows where ``mask`` is True; shape (ranges, 2).

    >>> true_ranges(np.array([False, True, True, False, True]))
    array([[1, 3],
           [4, 5]])
    """
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    return edges.astype(np.int64).reshape(-1, 2)


def ranges_without(ranges: NDArray[Any], cuts: NDArray[Any]) -> NDArray[Any]:
    """What of ``ranges`` lies in none of ``cuts``: both ``[start, end)``, ascending and disjoint, of shape (n, 2).

    >>> ranges_without(np.array([[0, 9], [12, 15]]), np.array([[2, 4], [8, 13]]))
    array([[ 0,  2],
           [ 4,  8],
           [13, 15]])
    """
    starts = np.concatenate([ranges[:, 0], cuts[:, 1]])
    ends = np.concatenate([ranges[:, 1], cuts[:, 0]])
    # Between two of all these places everything is either in a range or not, and in a cut or not.
    places = distinct(np.concatenate([starts, ends]))
    inside = np.searchsorted(ranges[:, 0], places, "right") > np.searchsorted(ranges[:, 1], places, "right")
    inside &= np.searchsorted(cuts[:, 0], places, "right") == np.searchsorted(cuts[:, 1], places, "right")
    edges = np.flatnonzero(np.diff(inside, prepend=False))
    return places[edges].reshape(-1, 2)
