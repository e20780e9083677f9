"""Symbols by address."""

from __future__ import annotations

import numpy as np
import pytest

from vmaforensics.kernel.symbols.by_address import ByAddress
from vmaforensics.kernel.symbols.by_name import NamedSymbols
from vmaforensics.kernel.symbols.kallsyms import Kallsyms

TABLE = {"b": 0x300, "first": 0x100, "alias": 0x100, "c": 0xFFFF_FFFF_8000_0000}
LAST = (1 << 64) - 1


@pytest.mark.parametrize("symbols", [Kallsyms.of(TABLE).by_address(), NamedSymbols(TABLE.items()).by_address()])
def test_an_address_lies_in_the_last_symbol_that_is_not_above_it(symbols: ByAddress) -> None:
    wanted = np.array([0xFF, 0x100, 0x2FF, 0x300, 0xFFFF_FFFF_8000_0001], np.uint64)
    found = symbols.nearest(wanted)
    assert found.row.tolist() == [-1, 0, 0, 1, 2]
    assert found.start.tolist() == [0, 0x100, 0x100, 0x300, 0xFFFF_FFFF_8000_0000]
    assert found.end.tolist()[1:] == [0x300, 0x300, 0xFFFF_FFFF_8000_0000, LAST]


def test_of_aliases_the_first_in_the_table_is_the_name() -> None:
    symbols = Kallsyms.of(TABLE).by_address()
    assert [symbols.name(row) for row in range(len(symbols))] == ["first", "b", "c"]


def test_without_symbols_no_address_has_one() -> None:
    found = ByAddress(np.zeros(0, np.uint64), lambda _: "").nearest(np.array([5], np.uint64))
    assert (found.row.tolist(), found.start.tolist(), found.end.tolist()) == ([-1], [0], [LAST])


def test_the_order_is_made_once() -> None:
    symbols = Kallsyms.of(TABLE)
    assert symbols.by_address() is symbols.by_address()


def test_names_that_static_symbols_share_are_all_kept() -> None:
    """As raw_data of the two vDSO images: each is its own place, whatever adds the symbols."""
    shared = [("raw_data", 0x1000), ("one", 0x1800), ("raw_data", 0x2000)]
    named = NamedSymbols(shared)
    added = Kallsyms.of({"first": 0x500}).plus(named.items())
    for symbols in (named, added):
        assert symbols.find("raw_data") == [0x1000, 0x2000]
        assert symbols.by_address().nearest(np.array([0x2001], np.uint64)).start.tolist() == [0x2000]
    assert len(added) == 4
