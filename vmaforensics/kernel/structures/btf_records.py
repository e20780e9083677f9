"""The records of a BTF blob: how long each is, and whether its words can be what they should (uapi/linux/btf.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.ragged import expand

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.columns.types import I64, Bools

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT = range(1, 12)
FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(12, 20)

ALIASES = {TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG}

HEAD = 3  # 32-bit words that every record begins with: name, info, size or type

# Words after those: a fixed number, and a number for each of the vlen elements.
_FIXED = {INT: 1, ARRAY: 3, VAR: 1, DECL_TAG: 1}
_EACH = {STRUCT: 3, UNION: 3, ENUM: 2, FUNC_PROTO: 2, DATASEC: 3, ENUM64: 3}
_NAMED = (INT, FWD, TYPEDEF, FUNC, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG)
_UNNAMED = (PTR, ARRAY, VOLATILE, CONST, RESTRICT, FUNC_PROTO)
_REFERRING = (PTR, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FUNC_PROTO, VAR, DECL_TAG, TYPE_TAG)
_FLAGGED = (STRUCT, UNION, ENUM, FWD, DECL_TAG, TYPE_TAG, ENUM64)
_NEAR = 64  # bytes around what no string has
_LARGEST = 1 << 28  # bytes of a type nobody writes
_MOST_LINKAGE = 2  # BTF_FUNC_EXTERN: a function has its linkage in place of a number


def _by_kind(values: dict[int, int]) -> I64:
    table = np.zeros(128, np.int64)
    table[list(values)] = list(values.values())
    return table


def _among(kinds: tuple[int, ...]) -> Bools:
    table = np.zeros(128, np.bool_)
    table[list(kinds)] = True
    return table


FIXED, EACH = _by_kind(_FIXED), _by_kind(_EACH)
_IS_NAMED, _IS_UNNAMED, _IS_REFERRING, _IS_FLAGGED = map(_among, (_NAMED, _UNNAMED, _REFERRING, _FLAGGED))
_HAS_MEMBERS, _HAS_VALUES = _among((STRUCT, UNION)), _among((ENUM, ENUM64, DATASEC))


class Records:
    """The words of the type section beside the strings that they name."""

    def __init__(self, words: NDArray[np.uint32], strings: bytes) -> None:
        self.words = words
        octets = np.frombuffer(strings, np.uint8)
        # pahole shares no string's end with another: a name begins behind a NUL.
        self._begins = np.zeros(len(octets) + 1, np.bool_)
        self._begins[1:-1] = octets[:-1] == 0
        self._begins[0] = True
        # Where strings are lost, any may have begun: that costs their names, and not the records that they name.
        lost = (octets < ord(" ")) & (octets > 0) | (octets > ord("~"))
        lost[1:] |= (octets[1:] == 0) & (octets[:-1] == 0)
        self.names_lost = bool(lost.any())
        if self.names_lost:
            parts = np.flatnonzero(np.add.reduceat(lost, np.arange(0, len(lost), _NEAR), dtype=np.int64))
            for part in parts.tolist():
                self._begins[max((part - 1) * _NEAR, 0) : min((part + 2) * _NEAR, len(lost))] = True

    def names(self, offsets: NDArray[np.uint32]) -> Bools:
        """Which offsets are those of a string, or 0."""
        return self._begins[np.minimum(offsets, len(self._begins) - 1)]

    def kinds(self, starts: I64) -> I64:
        """The kind of the record at each word; it has 7 bits from 7.x on, those added were zero before."""
        return ((self.words[starts + 1] >> np.uint32(24)) & np.uint32(0x7F)).astype(np.int64)

    def counts(self, starts: I64) -> I64:
        """vlen of the record at each word; it has 24 bits from 7.x on."""
        return (self.words[starts + 1] & np.uint32(0xFFFFFF)).astype(np.int64)

    def lengths(self) -> I64:
        """Words that a record at each word would take; 0 where none can begin."""
        info = self.words[1:]
        kind = ((info >> np.uint32(24)) & np.uint32(0x7F)).astype(np.intp)
        length = HEAD + FIXED[kind] + EACH[kind] * (info & np.uint32(0xFFFFFF))
        length[(kind == 0) | (kind > ENUM64)] = 0
        return length

    def heads(self, starts: I64) -> Bools:
        """Can the first three words of each record be those of one of its kind?"""
        kind, count, third = self.kinds(starts), self.counts(starts), self.words[starts + 2]
        name = self.words[starts]
        good: Bools = (kind >= INT) & (kind <= ENUM64) & self.names(name)
        good &= np.where(name != 0, ~_IS_UNNAMED[kind], ~_IS_NAMED[kind])
        good &= _IS_FLAGGED[kind] | (self.words[starts + 1] >> np.uint32(31) == 0)
        good &= (EACH[kind] > 0) | (count == 0) | ((kind == FUNC) & (count <= _MOST_LINKAGE))
        good &= third < np.where(_IS_REFERRING[kind], np.uint32(self.most), np.uint32(_LARGEST))
        good &= (kind != ARRAY) | (third == 0)
        return good

    @property
    def most(self) -> int:
        """No type id is as large."""
        return len(self.words) // HEAD + 1

    def bodies(self, starts: I64) -> Bools:
        """Can the words after those be what they should? Records must lie in the section whole."""
        kind, count, most = self.kinds(starts), self.counts(starts), np.uint32(self.most)
        good = np.ones(len(starts), np.bool_)
        for width in (2, 3):
            rows = np.flatnonzero(EACH[kind] == width)
            row, place = expand(count[rows])
            at, what = starts[rows][row] + HEAD + width * place, kind[rows][row]
            first, second = self.words[at], self.words[at + 1]
            named = np.where(what == DATASEC, first < most, self.names(first))
            typed = (_HAS_VALUES[what] | (second < most)) & (~_HAS_MEMBERS[what] | (second > 0))
            good[rows[row[~(named & typed)]]] = False
        array = np.flatnonzero(kind == ARRAY)
        for behind in (HEAD, HEAD + 1):
            word = self.words[starts[array] + behind]
            good[array[(word == 0) | (word >= most)]] = False
        number = np.flatnonzero(kind == INT)
        good[number[self.words[starts[number] + HEAD] >> np.uint32(28) != 0]] = False
        return good
