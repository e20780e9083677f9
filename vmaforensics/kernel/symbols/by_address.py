"""Symbols in the order of their addresses: which function an address lies in."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import first_rows, last_rows_of, values_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmaforensics.columns.types import I64, U64


class Nearest(NamedTuple):
    """The symbol that each of some addresses lies in; arrays of one length."""

    row: I64  # of :class:`ByAddress`, -1 where every symbol lies above the address
    start: U64  # address of the symbol, 0 where there is none
    end: U64  # address of the next symbol, ``2**64 - 1`` behind the last


class ByAddress:
    """Symbols sorted by address, each address once: of several symbols the first of the table.

    ``kallsyms_lookup`` takes the same one (get_symbol_pos of kernel/kallsyms.c), and takes the distance to the next
    address for the size.
    """

    def __init__(self, addresses: U64, name: Callable[[int], str]) -> None:
        """``addresses`` are those of a table of symbols in its order; ``name`` gives the name of one of its rows."""
        self._place = first_rows(addresses)  # row of the table
        self.addresses = addresses[self._place]  # ascending
        self._name = name

    def __len__(self) -> int:
        return len(self.addresses)

    def nearest(self, addresses: U64) -> Nearest:
        """The last symbol that does not lie above each of ``addresses``.

        >>> ByAddress(np.array([32, 16], np.uint64), ["b", "a"].__getitem__).nearest(np.array([20], np.uint64)).start
        array([16], dtype=uint64)
        """
        row = last_rows_of(self.addresses, addresses)
        last = np.uint64((1 << 64) - 1)
        following = np.where(row + 1 < len(self), row + 1, -1)
        end = np.where(following >= 0, values_at(self.addresses, following), last)
        return Nearest(row=row, start=values_at(self.addresses, row), end=end)

    def name(self, row: int) -> str:
        """Name of the symbol in one row of :meth:`nearest`."""
        return self._name(int(self._place[row]))
