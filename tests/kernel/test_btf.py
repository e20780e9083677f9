from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from work import budget

from vmaforensics.errors import KernelNotFoundError
from vmaforensics.kernel.structures.btf import Btf
from vmaforensics.kernel.structures.layout import Layout, member

from .build import BtfBuilder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray
    from support import Sample


@pytest.fixture
def types() -> BtfBuilder:
    return BtfBuilder()


def test_plain_members_have_offset_size_and_sign(types: BtfBuilder) -> None:
    word, short = types.integer("unsigned long", 8), types.integer("short", 2, signed=True)
    types.composite("point", 16, [("x", word, 0), ("y", short, 64)])
    layout = Btf(types.build()).struct("point")
    assert layout is not None
    assert layout.size == 16
    x, y = layout.fields["x"], layout.fields["y"]
    assert (x.offset, x.size, x.signed, x.count, x.pointer) == (0, 8, False, None, False)
    assert (y.offset, y.size, y.signed) == (8, 2, True)
    assert (x.dtype, y.dtype) == (np.dtype("<u8"), np.dtype("<i2"))


def test_members_of_anonymous_members_belong_to_the_whole(types: BtfBuilder) -> None:
    word = types.integer("unsigned long", 8)
    inner = types.composite("", 16, [("start", word, 0), ("end", word, 64)])
    either = types.composite("", 16, [("", inner, 0), ("rcu", word, 0)], union=True)
    types.composite("area", 32, [("first", word, 0), ("", either, 64), ("mm", word, 192)])
    layout = Btf(types.build()).struct("area")
    assert layout is not None
    assert {name: field.offset for name, field in layout.fields.items()} == {
        "first": 0,
        "start": 8,
        "end": 16,
        "rcu": 8,
        "mm": 24,
    }


def test_an_unnamed_member_may_have_a_named_type(types: BtfBuilder) -> None:
    # struct freelist_counters in struct slab, 7.x: built with -fms-extensions.
    word = types.integer("unsigned long", 8)
    counters = types.composite("freelist_counters", 16, [("freelist", word, 0), ("counters", word, 64)])
    types.composite("slab", 24, [("flags", word, 0), ("", types.alias(10, "", counters), 64)])
    layout = Btf(types.build()).struct("slab")
    assert layout is not None
    assert {name: field.offset for name, field in layout.fields.items()} == {"flags": 0, "freelist": 8, "counters": 16}


def test_bit_fields_say_where_in_the_byte_they_lie(types: BtfBuilder) -> None:
    word = types.integer("unsigned int", 4)
    types.composite("flags", 8, [("low", word, 0), ("odd", word, 3 << 24 | 37), ("one", word, 1 << 24 | 40)], flag=True)
    layout = Btf(types.build()).struct("flags")
    assert layout is not None
    placed = {name: (field.offset, field.bit_offset, field.bit_size) for name, field in layout.fields.items()}
    assert placed == {"low": (0, 0, 0), "odd": (4, 5, 3), "one": (5, 0, 1)}


def test_a_bit_field_with_more_bits_than_its_type_is_none(types: BtfBuilder) -> None:
    word = types.integer("unsigned int", 4)
    members = [
        ("low", word, 0),
        ("wide", word, 200 << 24 | 32),
        ("over", word, 31 << 24 | 34),
        ("odd", word, 3 << 24 | 37),
    ]
    types.composite("flags", 12, members, flag=True)
    layout = Btf(types.build()).struct("flags")
    assert layout is not None
    assert layout.fields.keys() == {"low", "odd"}


def test_arrays_count_their_elements_even_when_nested(types: BtfBuilder) -> None:
    octet = types.integer("char", 1, signed=True)
    rows = types.array(types.array(octet, 16), 4)
    comm, flex = types.array(octet, 16), types.array(octet, 0)
    types.composite("task", 80, [("comm", comm, 0), ("table", rows, 128), ("flex", flex, 640)])
    layout = Btf(types.build()).struct("task")
    assert layout is not None
    assert {name: (field.count, field.extent) for name, field in layout.fields.items()} == {
        "comm": (16, 16),
        "table": (64, 64),
        "flex": (0, 0),
    }


def test_chains_of_typedefs_and_qualifiers_lead_to_the_type(types: BtfBuilder) -> None:
    word = types.integer("unsigned long", 8)
    flags = word
    for kind, name in ((9, ""), (10, ""), (8, "a_t"), (11, ""), (18, "rcu"), (8, "vm_flags_t")):
        flags = types.alias(kind, name, flags)
    context = types.alias(8, "mm_context_t", types.composite("", 8, [("vdso", word, 0)]))
    types.composite("mm", 16, [("def_flags", flags, 0), ("context", context, 64)])
    btf = Btf(types.build())
    layout = btf.struct("mm")
    assert layout is not None
    assert layout.fields["def_flags"].dtype == np.dtype("<u8")
    found = member(btf, "mm", "context.vdso")
    assert found is not None
    assert found.offset == 8
    by_typedef = btf.struct("mm_context_t")
    assert by_typedef is not None
    assert list(by_typedef.fields) == ["vdso"]


def test_pointers_know_what_they_point_to_and_dots_do_not_follow_them(types: BtfBuilder) -> None:
    word = types.integer("unsigned long", 8)
    inode = types.composite("inode", 8, [("i_ino", word, 0)])
    types.composite("file", 24, [("f_inode", types.pointer(inode), 0), ("any", types.pointer(0), 64)])
    btf = Btf(types.build())
    layout = btf.struct("file")
    assert layout is not None
    assert (layout.fields["f_inode"].struct, layout.fields["f_inode"].pointer) == ("inode", True)
    assert layout.fields["any"].size == 8
    assert member(btf, "file", "f_inode.i_ino") is None
    assert member(btf, "file", "absent") is None


def test_a_struct_that_points_to_itself_is_no_trouble(types: BtfBuilder) -> None:
    types.composite("list_head", 16, [("next", 2, 0), ("prev", 2, 64)])
    types.pointer(1)
    layout = Btf(types.build()).struct("list_head")
    assert layout is not None
    assert {name: (field.offset, field.struct) for name, field in layout.fields.items()} == {
        "next": (0, "list_head"),
        "prev": (8, "list_head"),
    }


def test_enumerators_of_either_width_and_sign(types: BtfBuilder) -> None:
    types.enum("maple_type", [("maple_dense", 0), ("maple_leaf_64", 1), ("maple_arange_64", 3)])
    types.enum("", [("minus", -5)], signed=True)
    types.enum64("wide", [("huge", 1 << 40 | 3), ("top", (1 << 64) - 1)])
    types.enum64("below", [("deep", -(1 << 35))], signed=True)
    btf = Btf(types.build())
    assert [btf.constant(name) for name in ("maple_dense", "maple_leaf_64", "maple_arange_64")] == [0, 1, 3]
    assert btf.constant("minus") == -5
    assert btf.constant("huge") == 1 << 40 | 3
    assert btf.constant("top") == (1 << 64) - 1
    assert btf.constant("deep") == -(1 << 35)
    assert btf.constant("wide") is None  # the enum's own name is no enumerator
    assert btf.constant("nowhere") is None


def test_an_enumerator_is_not_taken_from_a_number_that_looks_like_its_name(types: BtfBuilder) -> None:
    at = types.string("answer")
    types.composite("s", at, [("m", types.integer("int", at), at)])
    types.enum("e", [("other", at), ("answer", 42)])
    assert Btf(types.build()).constant("answer") == 42


def test_members_may_be_enums_and_floats(types: BtfBuilder) -> None:
    small, large = types.enum("e", [("a", 1)]), types.enum64("f", [("b", 1)], signed=True)
    real = types.add(16, "double", 8)
    types.composite("s", 24, [("e", small, 0), ("f", large, 64), ("d", real, 128)])
    layout = Btf(types.build()).struct("s")
    assert layout is not None
    assert [(field.size, field.signed) for field in layout.fields.values()] == [(4, False), (8, True), (8, False)]


def test_records_of_every_kind_are_stepped_over(types: BtfBuilder) -> None:
    word = types.integer("int", 4)
    prototype = types.add(13, "", word, 0, word, 0, 0, vlen=2)
    types.add(12, "do_it", prototype)
    types.add(7, "later", 0)
    variable = types.add(14, "counter", word, 1)
    types.add(15, ".data..percpu", 0, variable, 0, 4, vlen=1)
    types.add(17, "tag", word, 0xFFFFFFFF)
    types.alias(18, "user", word)
    types.add(16, "double", 8)
    last = types.composite("last", 4, [("x", word, 0)])
    btf = Btf(types.build())
    assert len(btf) == last == types.count
    assert btf.problem is None
    assert btf.struct("last") is not None
    assert btf.struct("later") is None  # a forward declaration says nothing


@pytest.mark.parametrize("header", [24, 32])
def test_headers_of_either_length(types: BtfBuilder, header: int) -> None:
    types.composite("s", 8, [("x", types.integer("long", 8, signed=True), 0)])
    layout = Btf(types.build(header=header)).struct("s")
    assert layout is not None
    assert list(layout.fields) == ["x"]


def test_structs_of_more_than_65535_members_as_7_x_allows(types: BtfBuilder) -> None:
    word = types.integer("int", 4)
    types.composite("wide", 4, [(f"m{row % 50}", word, 32 * row) for row in range(70_000)])
    types.composite("after", 4, [("x", word, 0)])
    btf = Btf(types.build())
    assert btf.problem is None
    wide = btf.struct("wide")
    assert wide is not None
    assert wide.fields["m49"].offset == 4 * 49
    assert btf.struct("after") is not None


def test_a_type_of_unknown_kind_costs_itself(types: BtfBuilder) -> None:
    word = types.integer("int", 4)
    types.composite("before", 4, [("x", word, 0)])
    types.add(77, "new", 0)
    types.composite("behind", 4, [("x", word, 0)])
    btf = Btf(types.build())
    assert len(btf) == 3
    assert btf.problem is not None
    assert "1 place" in btf.problem
    assert btf.struct("before") is not None
    assert btf.struct("behind") is not None


def test_a_record_that_runs_over_the_end_is_a_problem(types: BtfBuilder) -> None:
    word = types.integer("int", 4)
    types.add(4, "cut", 4, 0, word, 0, vlen=5000)
    btf = Btf(types.build())
    assert btf.problem is not None
    layout = btf.struct("cut")
    assert layout is None or not layout.fields


_HEADER_DAMAGE = {
    "magic": (0, b"\0\0"),
    "version": (2, b"\x02"),
    "header length": (4, b"\xff\xff\xff\x7f"),
    "odd header length": (4, b"\x19"),
    "types": (12, b"\xff\xff\xff\x7f"),
    "strings begin": (16, b"\xff\xff\xff\x7f"),
    "strings": (20, b"\xff\xff\xff\x7f"),
}


@pytest.mark.parametrize(("at", "value"), _HEADER_DAMAGE.values(), ids=_HEADER_DAMAGE)
def test_a_header_with_a_wrong_word_costs_nothing(types: BtfBuilder, at: int, value: bytes) -> None:
    types.composite("s", 4, [("x", types.integer("int", 4), 0)])
    blob = bytearray(types.build())
    blob[at : at + len(value)] = value
    layout = Btf(bytes(blob)).struct("s")
    assert layout is not None
    assert list(layout.fields) == ["x"]


@pytest.mark.parametrize("header", [b"\xff" * 24, bytes(24), b"text" * 6], ids=["ones", "zeros", "text"])
def test_a_header_that_is_lost_costs_nothing(types: BtfBuilder, header: bytes) -> None:
    types.composite("s", 4, [("x", types.integer("int", 4), 0)])
    layout = Btf(header + types.build()[24:]).struct("s")
    assert layout is not None
    assert list(layout.fields) == ["x"]


@pytest.mark.image
def test_a_foreign_page_of_strings_costs_names_and_no_records(maple_sample: Sample) -> None:
    sound = maple_sample.analysis.kernel.types
    assert isinstance(sound, Btf)
    start = (len(sound.blob) - (1 << 17)) & -4096
    foreign = np.random.default_rng(0).integers(0, 256, 4096, np.uint8).tobytes()
    types = Btf(sound.blob[:start] + foreign + sound.blob[start + 4096 :])
    assert types.problem is not None
    # A record whose name lies in the very last bytes before the page may be lost.
    assert len(sound) - 8 <= len(types) <= len(sound)
    layout, whole = types.struct("task_struct"), sound.struct("task_struct")
    assert layout is not None
    assert whole is not None
    assert {name: layout.fields[name].offset for name in ("pid", "tasks", "mm")} == {
        name: whole.fields[name].offset for name in ("pid", "tasks", "mm")
    }


def test_a_blob_of_zeros_has_no_types() -> None:
    with pytest.raises(KernelNotFoundError, match="BTF header"):
        Btf(bytes(4096))


@pytest.mark.image
@pytest.mark.parametrize("page", [0, 3, 700, 900])
def test_a_page_of_zeros_costs_the_types_on_it(maple_sample: Sample, page: int) -> None:
    """The types of the sound blob are what is expected; what is found of the damaged one is as there, or missing."""
    sound = maple_sample.analysis.kernel.types
    assert isinstance(sound, Btf)
    start = page * 4096
    types = Btf(sound.blob[:start] + bytes(4096) + sound.blob[start + 4096 :])
    assert types.problem is not None
    names = ("task_struct", "mm_struct", "vm_area_struct", "maple_node", "file", "inode", "page", "super_block")
    kept = 0
    for name in names:
        found, whole = types.struct(name), sound.struct(name)
        assert whole is not None
        for path, field in (found.fields if found else {}).items():
            assert (field.offset, field.size) == (whole.fields[path].offset, whole.fields[path].size), f"{name}.{path}"
            kept += 1
    assert kept > 100


@pytest.mark.image
@pytest.mark.parametrize("kind", ["zeros", "another"])
def test_the_first_page_costs_few_members(any_kernel: Sample, kind: str) -> None:
    """It has the header; of most kernels, the integers, ``list_head`` and ``atomic_t`` as well."""
    sound, start = any_kernel.analysis.kernel.types, any_kernel.analysis.kernel.symbols.get("__start_BTF")
    assert isinstance(sound, Btf)
    assert start is not None
    size = 4096 - start % 4096
    page = bytes(size) if kind == "zeros" else sound.blob[8 * 4096 : 8 * 4096 + size]
    types = Btf(page + sound.blob[size:])
    assert types.problem is not None
    assert "derived" in types.problem
    for name in ("task_struct", "mm_struct", "vm_area_struct", "signal_struct", "file", "inode", "dentry", "anon_vma"):
        found, whole = types.struct(name), sound.struct(name)
        assert whole is not None
        assert found is not None
        assert len(found.fields) > 0.95 * len(whole.fields)
        for path, field in found.fields.items():
            assert (field.offset, field.size) == (whole.fields[path].offset, whole.fields[path].size), f"{name}.{path}"
    for path in ("tasks.next", "tasks.prev", "pid", "tgid", "comm", "mm", "signal", "thread_node.next"):
        found_at, is_at = member(types, "task_struct", path), member(sound, "task_struct", path)
        assert found_at is not None
        assert is_at is not None
        assert (found_at.offset, found_at.extent) == (is_at.offset, is_at.extent)


def test_a_lost_type_is_as_large_as_the_least_room_that_members_leave_it(types: BtfBuilder) -> None:
    lost, wide = types.integer("lost", 4), types.integer("wide", 8)
    for row in range(6):  # in every other one, the next member is aligned to 8 bytes
        types.composite(f"s{row}", 16, [("x", lost, 0), ("y", lost if row % 2 else wide, 32 if row % 2 else 64)])
    blob = types.build()
    found = Btf(blob[:24] + bytes(16) + blob[40:])  # behind the header, four words of an integer
    assert found.problem is not None
    assert "1 type derived" in found.problem
    layout = found.struct("s0")
    assert layout is not None
    assert (layout.fields["x"].offset, layout.fields["x"].size) == (0, 4)
    assert (layout.fields["y"].offset, layout.fields["y"].size) == (8, 8)


@pytest.mark.parametrize("size", [0, 3, 23])
def test_a_blob_too_short_for_a_header_is_refused(types: BtfBuilder, size: int) -> None:
    with pytest.raises(KernelNotFoundError, match="BTF header"):
        Btf(types.build()[:size])


def test_a_blob_without_types_knows_nothing(types: BtfBuilder) -> None:
    btf = Btf(types.build())
    assert len(btf) == 0
    assert btf.struct("task_struct") is None
    assert btf.constant("maple_dense") is None


def test_broken_chains_end(types: BtfBuilder) -> None:
    loop = types.alias(8, "loop_t", 1)
    array = types.array(2, 3)
    types.composite("s", 8, [("x", loop, 0), ("y", array, 0), ("z", 999, 64), ("", 4, 0), ("", 998, 0)])
    layout = Btf(types.build()).struct("s")
    assert layout is not None
    assert not {"x", "y", "z"} & set(layout.fields)  # their types are not known, so neither are they


def test_structs_that_hold_themselves_unnamed_end_soon(types: BtfBuilder) -> None:
    word = types.integer("long", 8)
    types.composite("s", 8, [("x", word, 0), ("", 2, 0), ("", 2, 64), ("", 2, 128)])
    blob = types.build()
    with budget(calls=200_000):  # 1,024 structures, and not 3**n
        layout = Btf(blob).struct("s")
    assert layout is not None
    assert layout.fields["x"].offset == 0


def test_long_chains_of_nested_structs_do_not_exhaust_the_stack(types: BtfBuilder) -> None:
    word = types.integer("long", 8)
    inner = types.composite("", 8, [("end", word, 0)])
    for _ in range(5000):
        inner = types.composite("", 8, [("deep", inner, 0)])
    types.composite("s", 8, [("x", inner, 0), ("y", word, 64)])
    layout = Btf(types.build()).struct("s")
    assert layout is not None
    assert layout.fields["y"].offset == 8


def test_random_damage_gives_an_answer_or_a_refusal(types: BtfBuilder) -> None:
    word = types.integer("long", 8)
    inner = types.composite("", 16, [("a", word, 0), ("b", types.pointer(word), 64)])
    types.enum("e", [("one", 1), ("two", 2)])
    types.composite("t", 64, [("", inner, 0), ("c", types.array(word, 4), 128), ("n", inner, 384)])
    clean = types.build()
    rng = np.random.default_rng(1)
    answers = 0
    for _ in range(500):
        blob = np.frombuffer(clean, np.uint8).copy()
        blob[rng.integers(0, len(blob), 3)] = rng.integers(0, 256, 3)
        try:
            btf = Btf(blob.tobytes())
        except KernelNotFoundError:
            continue
        layout = btf.struct("t")
        answers += layout is not None
        assert btf.constant("two") is None or isinstance(btf.constant("two"), int)
    assert answers > 100


# Damaged records ---------------------------------------------------------------------------------------------


def kernel_like(types: BtfBuilder) -> tuple[bytes, dict[str, Layout | None]]:
    """A blob with what kernels have: structs, pointers to them, functions; and its structs as they should be."""
    word, octet = types.integer("long", 8), types.integer("char", 1, signed=True)
    rng = np.random.default_rng(0)
    for row in range(600):
        for _ in range(int(rng.integers(4))):  # no period: what follows what says which type is which
            types.alias(10, "", types.count)
        before = types.count
        inner = types.composite("", 16, [("a", word, 0), ("b", types.pointer(before), 64)])
        name = types.array(octet, 8 + row % 24)
        size = 32 + 8 + row % 24
        types.composite(
            f"s{row}", size + -size % 8, [("first", word, 0), ("", inner, 64), ("p", word, 192), ("name", name, 256)]
        )
        types.add(12, f"do_{row}", types.add(13, "", word, types.string("x"), word, vlen=1))
    while len(types.strings) % 4:  # so that the whole blob is words
        types.strings += b"\0"
    blob = types.build()
    return blob, {f"s{row}": Btf(blob).struct(f"s{row}") for row in range(600)}


def place_of(words: NDArray[np.uint32], name: int) -> int:
    """Where in a sound blob the struct of this name begins."""
    return int(np.flatnonzero((words[:-1] == name) & (words[1:] >> np.uint32(24) == 4))[0])


def structs_of(blob: bytes, names: Iterable[str]) -> dict[str, Layout | None]:
    btf = Btf(blob)
    return {name: btf.struct(name) for name in names}


def differing(found: Mapping[str, Layout | None], expected: Mapping[str, Layout | None]) -> set[str]:
    """Structs that are not as they should be, apart from members that are not known."""
    wrong = set()
    for name, layout in expected.items():
        assert layout is not None
        other = found[name]
        if other is not None and (other.size != layout.size or not other.fields.items() <= layout.fields.items()):
            wrong.add(name)
    return wrong


@pytest.mark.parametrize("step", [-1, 1, 2, 5, 300])
def test_a_wrong_number_of_members_costs_nothing(types: BtfBuilder, step: int) -> None:
    blob, expected = kernel_like(types)
    words = np.frombuffer(blob, np.uint32).copy()
    at = place_of(words, types.string("s77"))
    words[at + 1] = int(words[at + 1]) + step
    found = structs_of(words.tobytes(), expected)
    # A member too few cannot be told from a record that is no more.
    assert {name for name in expected if found[name] != expected[name]} <= ({"s77"} if step < 0 else set())
    assert not differing(found, expected)


@pytest.mark.parametrize("kind", [0, 2, 3, 12, 63])
def test_a_wrong_kind_costs_the_type(types: BtfBuilder, kind: int) -> None:
    blob, expected = kernel_like(types)
    words = np.frombuffer(blob, np.uint32).copy()
    at = place_of(words, types.string("s77"))
    words[at + 1] = kind << 24 | 4
    found = structs_of(words.tobytes(), expected)
    assert {name for name in expected if found[name] != expected[name]} == {"s77"}
    assert found["s77"] is None


def test_a_member_of_impossible_type_or_place_is_unknown_and_its_neighbours_are_not(types: BtfBuilder) -> None:
    blob, expected = kernel_like(types)
    for member_word, value in ((1, 1 << 20), (2, 1 << 30)):
        words = np.frombuffer(blob, np.uint32).copy()
        at = place_of(words, types.string("s77"))
        words[at + 3 + 3 * 2 + member_word] = value
        found = structs_of(words.tobytes(), expected)
        layout, whole = found.pop("s77"), expected["s77"]
        assert layout is not None
        assert whole is not None
        assert whole.fields.keys() - layout.fields.keys() == {"p"}
        assert layout.fields.items() < whole.fields.items()
        assert all(found[name] == expected[name] for name in found)


@pytest.mark.parametrize("page", range(1, 9))
@pytest.mark.parametrize("kind", ["zeros", "noise", "another"])
def test_a_wrong_page_costs_the_types_on_it(types: BtfBuilder, page: int, kind: str) -> None:
    blob, expected = kernel_like(types)
    hurt = bytearray(blob)
    there = slice(4096 * page, 4096 * page + 4096)
    hurt[there] = {
        "zeros": bytes(4096),
        "noise": np.random.default_rng(page).bytes(4096),
        "another": blob[4096 * (page + 2) : 4096 * (page + 3)],
    }[kind]
    found = structs_of(bytes(hurt), expected)
    assert not differing(found, expected)
    words = np.frombuffer(blob, np.uint32)
    lost = {name for name in expected if found[name] != expected[name]}
    places = {4 * place_of(words, types.string(name)) for name in lost}
    if kind != "another":  # what is there twice may be lost in both places
        assert all(there.start - 400 <= place < there.stop + 400 for place in places)
    assert len(lost) < 60


# Of the very builds that the reference's tables of offsets (its section 9) were decoded from, by another
# program; a dash there is None here.
_BUILDS = (
    "5.10.0-46-amd64",
    "6.1.0-50-amd64",
    "6.12.107+deb13-amd64",
    "6.16.12+deb13-amd64",
    "7.2.13+deb14-amd64",
    "7.3.4+deb13-amd64",
)
_OFFSETS = """
task_struct sizeof 9408 9792 9792 5888 6080 6144
task_struct mm 2056 2272 2304 2576 2680 2744
task_struct tasks 1976 2192 2224 2496 2600 2664
task_struct thread_group 2408 2592 - - - -
task_struct thread_node 2424 2608 2608 2880 2984 3048
task_struct signal 2832 3072 3072 3344 3448 3520
task_struct pid 2232 2416 2432 2704 2808 2872
task_struct comm 2736 2976 2976 3248 3344 3408
task_struct state 16 - - - - -
task_struct __state - 24 24 24 24 24
task_struct rss_stat 2112 2288 - - - -
task_struct start_boottime 2544 2784 2784 3056 3160 3224
signal_struct sizeof 1096 1112 1104 1112 1144 1144
signal_struct thread_head 16 16 16 16 16 16
mm_struct sizeof 1032 1088 1344 1408 1728 1728
mm_struct mmap 0 - - - - -
mm_struct mm_rb 8 - - - - -
mm_struct mm_mt - 0 64 64 64 64
mm_struct task_size 64 64 112 112 112 112
mm_struct highest_vm_end 72 - - - - -
mm_struct pgd 80 72 120 120 120 120
mm_struct map_count 112 104 160 176 400 400
mm_struct mmap_lock 120 112 168 184 408 408
mm_struct total_vm 192 184 248 272 608 608
mm_struct stack_vm 232 224 288 312 648 648
mm_struct env_end 336 328 392 416 752 752
mm_struct context 752 760 984 1008 1376 1376
mm_struct owner 912 920 1144 1176 1528 1528
mm_struct user_ns 920 928 1152 1184 - -
mm_struct exe_file 928 936 1160 1192 1536 1536
mm_struct lru_gen - 1056 1288 1320 1664 1664
vm_area_struct sizeof 200 152 176 192 192 192
vm_area_struct vm_start 0 0 0 0 0 0
vm_area_struct vm_end 8 8 8 8 8 8
vm_area_struct vm_rcu - - 0 - - -
vm_area_struct vm_freeptr - - - 0 0 0
vm_area_struct vm_next 16 - - - - -
vm_area_struct vm_rb 32 - - - - -
vm_area_struct rb_subtree_gap 56 - - - - -
vm_area_struct vm_mm 64 16 16 16 16 16
vm_area_struct vm_flags 80 32 32 32 32 32
vm_area_struct __vm_flags - - 32 32 - -
vm_area_struct flags - - - - 32 32
vm_area_struct detached - - 40 - - -
vm_area_struct vm_refcnt - - - 128 128 128
vm_area_struct shared 88 40 56 136 136 136
vm_area_struct anon_vma 136 88 104 64 64 64
vm_area_struct vm_ops 144 96 112 72 72 72
vm_area_struct vm_file 160 112 128 88 88 88
vm_area_struct anon_name - 40 - - - -
vm_area_struct vm_userfaultfd_ctx 192 144 168 168 168 168
maple_tree sizeof - 24 16 16 16 16
maple_tree ma_flags - 16 4 4 4 4
maple_tree ma_root - 8 8 8 8 8
kmem_cache sizeof 8408 8408 8408 8408 16592 16592
kmem_cache cpu_slab 0 0 0 0 - -
kmem_cache random 184 184 184 184 176 176
file sizeof 256 232 184 184 176 176
file f_path 16 16 64 64 64 64
file __f_path - - - - 64 64
file f_inode 32 32 40 32 32 32
file f_mode 68 68 12 4 4 4
file f_mapping 240 216 24 16 16 16
inode sizeof 600 632 624 624 560 560
inode i_ino 64 64 64 64 64 64
super_block sizeof 1408 1472 1408 1408 1408 1408
super_block s_magic 96 96 96 96 96 112
"""


def test_offsets_of_a_real_kernel_are_those_of_the_reference(any_kernel: Sample) -> None:
    release = any_kernel.analysis.kernel.identity.release
    if release not in _BUILDS:
        pytest.skip(f"the reference has no offsets for {release}")
    column = 2 + _BUILDS.index(release)
    rows = [line.split() for line in _OFFSETS.strip().splitlines()]
    expected = {(row[0], row[1]): None if row[column] == "-" else int(row[column]) for row in rows}
    found: dict[tuple[str, str], int | None] = {}
    for struct, name in expected:
        layout = any_kernel.analysis.kernel.types.struct(struct)
        if layout is None:
            found[struct, name] = None
        elif name == "sizeof":
            found[struct, name] = layout.size
        else:
            found[struct, name] = layout.fields[name].offset if name in layout.fields else None
    assert found == expected


def test_the_blob_of_a_real_kernel_has_the_size_sysfs_gives_it(any_kernel: Sample) -> None:
    symbols = any_kernel.analysis.kernel.symbols
    start, stop = symbols.get("__start_BTF"), symbols.get("__stop_BTF")
    assert start is not None
    assert stop is not None
    assert stop - start == int(any_kernel.truth["sys/kernel/btf/vmlinux.size"])
    types = any_kernel.analysis.kernel.types
    assert isinstance(types, Btf)
    assert types.problem is None
    assert len(types) > 50_000


def test_a_page_of_something_else_where_types_end_and_names_begin_costs_what_lay_on_it(any_kernel: Sample) -> None:
    types = any_kernel.analysis.kernel.types
    assert isinstance(types, Btf)
    blob = bytearray(types.blob)
    strings = int(np.frombuffer(types.blob, "<u4", 6)[[1, 4]].sum())  # hdr_len, str_off
    blob[strings - 1024 : strings + 1024] = bytes(range(128, 256)) * 16
    left = Btf(bytes(blob))
    assert left.problem is not None
    assert len(left.words) == len(types.words)
    assert len(left) > 0.99 * len(types)
