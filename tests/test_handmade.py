"""The hand-made kernel lays structures out as a compiler would, and the engine reads back what was put in."""

from __future__ import annotations

import numpy as np
from handmade import BASE, LINUX, LINUX_5_10, Machine, Value, circular_list

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I32, U64, Bytes16, U64Wide


@table(struct="thing")
class Things(Table):
    """What the tests read."""

    small: I32 = member("small")
    inner: U64 = member("inner.second")
    name: Bytes16 = member("name")
    many: U64Wide = member("many")
    absent: I32 = member("absent?", fill=-1)


STRUCTS = {"pair": "first:u8 second:u64", "thing": "tag:u8 small:i32 inner:pair name:u8[16] many:u64[3] overlay@0:u64"}


def test_members_lie_at_their_natural_alignment() -> None:
    layout = Machine(STRUCTS).types.struct("thing")
    assert layout is not None
    assert {name: field.offset for name, field in layout.fields.items()} == {
        "tag": 0, "small": 4, "inner": 8, "name": 24, "many": 40, "overlay": 0,
    }  # fmt: skip
    assert layout.size == 64


def test_a_gather_fills_the_columns_of_a_table() -> None:
    machine = Machine(STRUCTS)
    members: dict[str, Value] = {"small": -5, "inner.second": 1 << 63, "name": b"bash", "many": [1, 2, 3]}
    things = [machine.put("thing", members), machine.put("thing", {"small": 9})]
    rows, ok = machine.kernel().gather(Things, np.array(things, np.uint64))
    assert ok.all()
    assert rows.small.tolist() == [-5, 9]
    assert rows.inner.tolist() == [1 << 63, 0]
    assert rows.name.tolist() == [b"bash", b""]
    assert rows.many.tolist() == [[1, 2, 3], [0, 0, 0]]
    assert rows.absent.tolist() == [-1, -1]


def test_what_is_not_in_the_dump_is_not_zero_but_unread() -> None:
    machine = Machine(STRUCTS)
    here, _, lost = machine.put("thing", {"small": 3}), machine.room(4096), machine.put("thing", {"small": 4})
    machine.drop(lost)
    rows, ok = machine.kernel().gather(Things, np.array([here, lost, 0x1000], np.uint64))
    assert ok.tolist() == [True, False, False]
    assert rows.small.tolist() == [3, 0, 0]
    assert rows.absent.tolist() == [-1, -1, -1]


def test_one_member_alone_keeps_its_sign() -> None:
    machine = Machine(STRUCTS)
    at = np.array([machine.put("thing", {"small": -1})], np.uint64)
    kernel = machine.kernel()
    assert kernel.gather_signed("thing", "small", at)[0].tolist() == [-1]
    assert kernel.gather_member("thing", "absent?", at)[0].tolist() == [0]


def test_every_structure_described_can_be_laid_out() -> None:
    for structs in (LINUX, LINUX_5_10):
        machine = Machine(structs)
        for name in structs:
            assert machine.types.struct(name) is not None


def test_a_circular_list_leads_around() -> None:
    machine = Machine()
    first, second = machine.put("list_head"), machine.put("list_head")
    circular_list(machine, first, second)
    words, ok = machine.kernel().words(np.array([first, second], np.uint64), 2)
    assert ok.all()
    assert words.tolist() == [[second, second], [first, first]]
    assert first >= BASE
