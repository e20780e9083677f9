"""What walks could not follow or believe: a row for each, with the address of the word that was wrong."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.views.view import View


class Problem(IntEnum):
    """What a walk met that it could not follow or believe."""

    UNREADABLE = 0  # the structure is not in the dump, or nothing maps its address
    NON_CANONICAL = 1  # the pointer cannot be an address of this kernel
    MISALIGNED = 2  # the pointer cannot be one to such a structure
    BAD_TAG = 3  # type or flag bits that do not occur
    CYCLE = 4  # leads back to where the walk has been
    SHARED = 5  # reached before from another address space
    DEAD = 6  # a maple node that was replaced, still reachable
    NULL_CHILD = 7  # an inner node with an empty slot before its end
    RESERVED = 8  # a maple entry that is no pointer (XA_ZERO_ENTRY: a failed fork)
    CUT_SHORT = 9  # the bound on the walk was reached

    @property
    def text(self) -> str:
        """The problem in a few words."""
        return (
            "not in the dump or not mapped",
            "not a canonical kernel address",
            "misaligned pointer",
            "impossible tag bits",
            "leads back into the walk (cycle)",
            "already reached from another address space",
            "dead node still reachable",
            "empty slot in an inner node",
            "reserved entry",
            "walk cut short at its bound",
        )[self]


PROBLEMS = np.dtype(
    [
        ("view", np.uint8),
        ("problem", np.uint8),
        ("mm", np.uint64),
        ("where", np.uint64),  # address of the word that was wrong
        ("value", np.uint64),  # what it held
    ]
)


class ProblemLog:
    """Collects problem rows, a batch at a time."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.void]] = []

    def add(
        self,
        view: View,
        problem: Problem,
        mm: NDArray[np.uint64] | int,
        where: NDArray[np.uint64] | int,
        value: NDArray[np.uint64] | int = 0,
    ) -> None:
        """Add one row per element; scalars are repeated."""
        mm_, where_, value_ = np.broadcast_arrays(
            *(np.atleast_1d(np.asarray(item, np.uint64)) for item in (mm, where, value))
        )
        rows = np.zeros(len(where_), PROBLEMS)
        rows["view"], rows["problem"] = view, problem
        rows["mm"], rows["where"], rows["value"] = mm_, where_, value_
        if len(rows):
            self._parts.append(rows)

    def met(self, view: View) -> bool:
        """Has ``view`` met any problem so far?"""
        return any((rows["view"] == view).any() for rows in self._parts)

    def table(self) -> NDArray[np.void]:
        """All rows, sorted; dtype ``PROBLEMS``."""
        if not self._parts:
            return np.zeros(0, PROBLEMS)
        rows = np.concatenate(self._parts)
        return np.sort(rows, order=["view", "mm", "where", "problem"])
