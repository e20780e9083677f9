"""Tables: what a declaration makes, what is refused, and that rows stay together."""

from __future__ import annotations

import numpy as np
import pytest

from vmaforensics.columns.table import Table, column, columns_of, member, table
from vmaforensics.columns.types import I64, U64, Bools, Bytes16, U64Wide


@table(struct="thing")
class Things(Table):
    """A table as views declare them."""

    address: U64
    size: U64 = member("size")
    count: I64 = member("refs.counter?", fill=-1)
    comm: Bytes16 = member("comm")
    slots: U64Wide = member("slot")
    row: I64 = column(fill=-1)
    ok: Bools


def things(*addresses: int) -> Things:
    return Things.of(address=addresses, ok=[True] * len(addresses))


def test_a_declaration_says_how_each_column_is_read() -> None:
    known = columns_of(Things)
    assert list(known) == ["address", "size", "count", "comm", "slots", "row", "ok"]
    assert (known["count"].path, known["count"].fill) == ("refs.counter?", -1)
    assert known["count"].dtype == np.int64
    assert known["comm"].dtype == "S16"
    assert known["slots"].wide
    assert Things.struct == "thing"


def test_what_is_not_given_holds_its_fill() -> None:
    made = things(5, 6)
    assert made.count.tolist() == [-1, -1]
    assert made.size.tolist() == [0, 0]
    assert made.slots.shape == (2, 0)


def test_an_unknown_column_is_refused() -> None:
    with pytest.raises(TypeError, match="no column sizes"):
        Things.of(sizes=[1])


def test_columns_of_different_length_are_refused() -> None:
    made = things(5, 6)
    with pytest.raises(ValueError, match="size has 1 rows, the columns before it 2"):
        made.replace(size=np.zeros(1, np.uint64))


def test_a_column_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="size must be uint64, not float64"):
        things(5).replace(size=np.zeros(1))


def test_columns_lie_in_one_piece() -> None:
    wide = np.zeros((3, 2), np.uint64)
    made = things(1, 2, 3).replace(size=wide[:, 0])
    assert made.size.flags.c_contiguous


def test_rows_are_taken_sorted_and_joined_whole() -> None:
    made = Things.concatenate([things(3, 1), things(2)])
    made.size[:] = made.address * np.uint64(10)
    ordered = made.sort_by(made.address)
    assert ordered.size.tolist() == [10, 20, 30]
    assert ordered.take(ordered.address > 1).address.tolist() == [2, 3]
    assert ordered.take(slice(0, 1)).address.tolist() == [1]
    assert len(Things.concatenate([])) == 0


def test_a_row_that_is_not_there_holds_the_fill() -> None:
    assert things(7).take_or_fill(np.array([-1, 0])).address.tolist() == [0, 7]
    assert len(things().take_or_fill(np.array([-1]))) == 1


def test_a_structured_array_has_the_same_values() -> None:
    made = things(7).replace(slots=np.array([[1, 2]], np.uint64))
    rows = made.to_structured()
    assert rows.dtype.names == tuple(columns_of(Things))
    assert rows["slots"].tolist() == [[1, 2]]
    assert rows["address"].tolist() == [7]


def test_arrow_has_the_same_values() -> None:
    pytest.importorskip("pyarrow")
    arrow = things(7, 8).replace(slots=np.array([[1, 2], [3, 4]], np.uint64)).to_arrow()
    assert arrow.column("address").to_pylist() == [7, 8]
    assert arrow.column("slots").to_pylist() == [[1, 2], [3, 4]]


def test_a_table_is_made_of_all_its_columns_and_keeps_them() -> None:
    made = things(1)
    with pytest.raises(TypeError, match="not so: address, sizes"):
        Things(**{("sizes" if name == "address" else name): values for name, values in made.columns().items()})
    with pytest.raises(AttributeError, match="frozen"):
        made.size = made.count  # type: ignore[misc, assignment]


def test_a_table_has_the_columns_of_the_one_it_extends() -> None:
    @table(struct="other")
    class More(Things):
        extra: U64

    assert list(columns_of(More)) == [*columns_of(Things), "extra"]
    assert (More.struct, Things.struct) == ("other", "thing")
