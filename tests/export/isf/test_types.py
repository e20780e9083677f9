"""BTF in the words of an ISF, type by type."""

from __future__ import annotations

import pytest
from kernel.build import BtfBuilder

from vmaforensics.export.isf.symbols import declaration
from vmaforensics.export.isf.types import VOID, IsfTypes
from vmaforensics.kernel.structures.btf import Btf


@pytest.fixture
def types() -> BtfBuilder:
    return BtfBuilder()


def made(types: BtfBuilder) -> IsfTypes:
    return IsfTypes(Btf(types.build()))


def base(name: str) -> dict[str, str]:
    return {"kind": "base", "name": name}


def struct(name: str) -> dict[str, str]:
    return {"kind": "struct", "name": name}


def test_members_are_described_with_offsets_in_bytes(types: BtfBuilder) -> None:
    word, char = types.integer("long unsigned int", 8), types.integer("char", 1)
    task = types.composite("task", 40, [])
    types.composite(
        "mm", 40, [("owner", types.pointer(task), 64), ("comm", types.array(char, 16), 128), ("flags", word, 256)]
    )
    assert made(types).user_types["mm"] == {
        "kind": "struct",
        "size": 40,
        "fields": {
            "owner": {"type": {"kind": "pointer", "subtype": struct("task")}, "offset": 8},
            "comm": {"type": {"kind": "array", "count": 16, "subtype": base("char")}, "offset": 16},
            "flags": {"type": base("long unsigned int"), "offset": 32},
        },
    }


def test_bit_fields_count_from_the_byte_they_begin_in(types: BtfBuilder) -> None:
    """As DW_AT_data_bit_offset does, which dwarf2json takes apart in the same way."""
    word = types.integer("unsigned int", 4)
    types.composite("flags", 4, [("low", word, 3 << 24 | 0), ("high", word, 5 << 24 | 13)], flag=True)
    fields = made(types).user_types["flags"]["fields"]
    bits = {"kind": "bitfield", "type": base("unsigned int")}
    assert fields["low"] == {"type": {**bits, "bit_position": 0, "bit_length": 3}, "offset": 0}
    assert fields["high"] == {"type": {**bits, "bit_position": 5, "bit_length": 5}, "offset": 1}


def test_unnamed_members_are_marked_as_such(types: BtfBuilder) -> None:
    word = types.integer("long unsigned int", 8)
    either = types.composite("", 8, [("rcu", word, 0), ("next", word, 0)], union=True)
    types.composite("page", 16, [("flags", word, 0), ("", either, 64)])
    found = made(types).user_types
    member = found["page"]["fields"]["unnamed_field_0"]
    assert member == {"type": {"kind": "union", "name": member["type"]["name"]}, "offset": 8, "anonymous": True}
    assert set(found[member["type"]["name"]]["fields"]) == {"rcu", "next"}


def test_a_typedef_of_a_structure_gives_it_its_name(types: BtfBuilder) -> None:
    counter = types.composite("", 4, [("counter", types.integer("int", 4, signed=True), 0)])
    atomic = types.alias(8, "atomic_t", counter)
    again = types.alias(8, "refs_t", types.alias(10, "", atomic))
    types.composite("file", 8, [("count", again, 0)])
    found = made(types)
    assert found.user_types["file"]["fields"]["count"]["type"] == struct("atomic_t")
    assert set(found.user_types["atomic_t"]["fields"]) == {"counter"}
    assert "refs_t" not in found.user_types


def test_of_structures_with_one_name_each_reference_leads_to_the_right_one(types: BtfBuilder) -> None:
    word = types.integer("long unsigned int", 8)
    small = types.composite("node", 8, [("key", word, 0)])
    large = types.composite("node", 800, [("dev", word, 0)])
    types.composite("holder", 16, [("small", types.pointer(small), 0), ("large", types.pointer(large), 64)])
    found = made(types).user_types
    target = {name: member["type"]["subtype"]["name"] for name, member in found["holder"]["fields"].items()}
    assert target["large"] == "node"
    assert set(found[target["small"]]["fields"]) == {"key"}


@pytest.mark.parametrize(
    ("other", "value"), [(False, -1), (True, 0xFFFFFFFF)], ids=["before there was a flag", "with flags"]
)
def test_enumerators_are_signed_where_the_kernel_says_so(types: BtfBuilder, other: bool, value: int) -> None:
    types.enum("kind", [("ALL_ONES", -1)])
    if other:  # one enumeration that has the flag shows that this kernel knows it
        types.enum("signed", [("MINUS", -1)], signed=True)
    assert made(types).enums["kind"]["constants"] == {"ALL_ONES": value}


def test_wide_enumerators_keep_their_values(types: BtfBuilder) -> None:
    types.enum64("wide", [("TOP", 1 << 63), ("BOTH", 1 << 40 | 1)])
    types.enum64("negative", [("LOW", -(1 << 40))], signed=True)
    enums = made(types).enums
    assert enums["wide"] == {"size": 8, "base": "long unsigned int", "constants": {"TOP": 1 << 63, "BOTH": 1 << 40 | 1}}
    assert (enums["negative"]["base"], enums["negative"]["constants"]) == ("long int", {"LOW": -(1 << 40)})


def test_functions_and_what_is_only_declared(types: BtfBuilder) -> None:
    function = types.add(13, "", 0)
    forward = types.add(7, "opaque", 0, flag=True)
    types.composite("ops", 24, [("open", types.pointer(function), 0), ("data", types.pointer(forward), 64)])
    fields = made(types).user_types["ops"]["fields"]
    assert fields["open"]["type"] == {"kind": "pointer", "subtype": {"kind": "function"}}
    assert fields["data"]["type"] == {"kind": "pointer", "subtype": {"kind": "union", "name": "opaque"}}


def test_types_that_lead_to_themselves_come_to_an_end(types: BtfBuilder) -> None:
    types.add(2, "", 1)  # a pointer to itself
    types.add(8, "loop", 2)  # a typedef of itself
    types.add(3, "", 0, 3, 1, 2)  # an array of itself
    types.composite("self", 8, [("", 4, 0), ("p", 1, 0), ("t", 2, 0), ("a", 3, 0)])
    types.composite("gone", 8, [("nothing", 999, 0)])
    found = made(types)
    assert found.user_types["gone"]["fields"]["nothing"]["type"] == VOID
    # volatility3 follows unnamed members without an end of its own.
    assert set(found.user_types["self"]["fields"]) == {"p", "t", "a"}


def test_plain_char_is_signed_where_btf_does_not_tell(types: BtfBuilder) -> None:
    types.integer("char", 1)
    assert not made(types).base_types["char"]["signed"]  # -funsigned-char, from Linux 6.2 on
    types.integer("signed char", 1)  # an old pahole: it has forgotten the sign of this one too
    assert made(types).base_types["char"]["signed"]


def test_declarations_of_variables(types: BtfBuilder) -> None:
    word = types.integer("long unsigned int", 8)
    types.composite("list_head", 16, [("next", word, 0), ("prev", word, 64)])
    types.composite("", 24, [("seq", word, 0), ("timekeeper", word, 64), ("shadow", word, 128)])
    found = made(types)

    def declared(text: str) -> object:
        return declaration(text, found, lambda: b"\1" * 40 + bytes(24))

    pointer = {"kind": "pointer", "subtype": struct("list_head")}
    assert declared("struct list_head") == struct("list_head")
    assert declared("struct list_head*[32]") == {"kind": "array", "count": 32, "subtype": pointer}
    assert declared("struct list_head[]") == {"kind": "array", "count": 0, "subtype": struct("list_head")}
    assert declared("long unsigned int[*]") == {"kind": "array", "count": 5, "subtype": base("long unsigned int")}
    functions = {"kind": "pointer", "subtype": {"kind": "function"}}
    assert declared("()*[]") == {"kind": "array", "count": 0, "subtype": functions}
    unnamed = declaration("{seq, timekeeper}", found, bytes)
    assert unnamed is not None
    assert set(found.user_types[unnamed["name"]]["fields"]) == {"seq", "timekeeper", "shadow"}
    assert declared("struct no_such") is None
    assert declared("{seq, nothing}") is None
