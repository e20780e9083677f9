"""Byte strings of many rows, of which most share a few: each string is kept once, rows have its number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vmaforensics.columns.table import Rows
    from vmaforensics.columns.types import I32


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """A string for each row: ``strings[which[row]]``.

    >>> Texts.of([b"[heap]", b"", b"[heap]"])[2]
    b'[heap]'
    """

    strings: Sequence[bytes]  # those there are; two may be equal, and some nobody's
    which: I32  # of each row

    @classmethod
    def of(cls, rows: Iterable[bytes]) -> Texts:
        """The strings of ``rows``, equal ones kept once."""
        known: dict[bytes, int] = {}
        which = [known.setdefault(text, len(known)) for text in rows]
        return cls(tuple(known), np.array(which, np.int32))

    @classmethod
    def concatenate(cls, parts: Iterable[Texts]) -> Texts:
        """The rows of all ``parts``, one after the other."""
        strings: list[bytes] = []
        which = [np.zeros(0, np.int32)]
        for part in parts:
            which.append(part.which + np.int32(len(strings)))
            strings += part.strings
        return cls(strings, np.concatenate(which))

    def take(self, rows: Rows) -> Texts:
        """Some of the rows: by number, by a mask, or by a slice."""
        return Texts(self.strings, self.which[rows])

    def tolist(self) -> list[bytes]:
        """The string of every row."""
        return list(self)

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, row: int) -> bytes:
        return self.strings[int(self.which[row])]

    def __iter__(self) -> Iterator[bytes]:
        return map(self.strings.__getitem__, self.which.tolist())
