"""What walks could not follow or believe: a row for each, with the address of the word that was wrong."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import sort_order
from vmaforensics.columns.runs import begins_run, places_in_run
from vmaforensics.columns.table import Table, column, table
from vmaforensics.columns.types import I64, U8, U64

if TYPE_CHECKING:
    from vmaforensics.views.view import View


MOST = 256  # rows of one kind in one address space: a planted pattern may break a million links
_PENDING = 1 << 16  # rows that are held before what is too many is counted
_ALL = 1 << 17  # rows of all address spaces together, beyond which each has fewer


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
    STALE = 10  # by the allocator's account the memory it leads to holds something else

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
            "leads to memory that holds something else",
        )[self]


@table()
class Problems(Table):
    """What walks met; a row is a word. Sorted by view, mm, where and problem; see :class:`ProblemLog`.

    Of one kind in one address space the first :data:`MOST` have rows, and fewer where these are too many together;
    the last of them counts the others too. Every address space in which a kind was met has one.
    """

    view: U8  # a View
    problem: U8  # a Problem
    mm: U64  # address of the mm_struct whose records were walked; 0 where that is nobody's, or not known
    where: U64  # address of the word that was wrong
    value: U64  # what it held
    count: I64 = column(fill=1)  # words it stands for


class ProblemLog:
    """Collects :class:`Problems`, a batch at a time."""

    def __init__(self) -> None:
        self._parts: list[Problems] = []
        self._pending = 0

    def add(
        self,
        view: View,
        problem: Problem,
        mm: U64 | int,
        where: U64 | int,
        value: U64 | int = 0,
    ) -> None:
        """Add one row per element of the addresses given; scalars are repeated."""
        words = np.broadcast_arrays(*(np.atleast_1d(np.asarray(item, np.uint64)) for item in (mm, where, value)))
        if not len(words[0]):
            return
        rows = Problems.zeros(len(words[0]))
        rows.view[:], rows.problem[:], rows.count[:] = view, problem, 1
        rows.mm[:], rows.where[:], rows.value[:] = words
        self._parts.append(rows)
        self._pending += len(rows)
        if self._pending > _PENDING:
            self._parts, self._pending = [_bounded(Problems.concatenate(self._parts))], 0

    def met(self, view: View) -> bool:
        """Has ``view`` met any problem so far?"""
        return any((rows.view == view).any() for rows in self._parts)

    def table(self) -> Problems:
        """All rows, sorted."""
        rows = _bounded(Problems.concatenate(self._parts))
        return rows.sort_by(rows.view, rows.mm, rows.where, rows.problem)


def _bounded(rows: Problems) -> Problems:
    """The first :data:`MOST` rows of each kind and address space, the last of which stands for the rest too."""
    rows = rows.take(sort_order(rows.view, rows.problem, rows.mm))
    place = places_in_run(begins_run(rows.view, rows.problem, rows.mm))
    most = MOST
    while most > 1 and int((place < most).sum()) > _ALL:
        most //= 2
    kept = np.flatnonzero(place < most)
    if len(kept) == len(rows):
        return rows
    rows.count[kept] = np.add.reduceat(rows.count, kept)
    return rows.take(kept)
