from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import bundled

from vmaforensics.image.overlay import Overlay
from vmaforensics.kernel.find import find_kernel
from vmaforensics.kernel.symbols import kallsyms as reader
from vmaforensics.kernel.symbols import kallsyms_repair, kallsyms_tables

from .build import FORMS, PAGE, Blob, Form, Symbol, kallsyms, many_symbols

if TYPE_CHECKING:
    from support import Sample

IMAGE_START = 0xFFFFFFFF_80000000  # no address of the kernel image is lower
PLACE = 0xFFFFFFFF_9A000000


def decoded(blob: Blob, form: Form) -> reader.Kallsyms:
    """What the reader makes of the blob, from the token table on."""
    assert blob.tables in list(kallsyms_tables.token_tables(blob.data))
    tables = kallsyms_tables.locate(blob.data, *blob.tables, IMAGE_START)
    assert tables is not None
    assert tables.names == blob.at["names"]
    assert tables.markers == blob.at["markers"]
    assert tables.offsets == blob.at["offsets"]
    assert (tables.relative_base is None) == (form.addresses == "place")
    return reader.decode(blob.data, tables, PLACE)


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    return FORMS[request.param]


@pytest.fixture
def symbols(form: Form) -> list[Symbol]:
    return many_symbols(form)


@pytest.mark.parametrize("count", [6000, 23 * 256, 23 * 256 + 1])
def test_every_encoding_gives_back_every_symbol(form: Form, count: int) -> None:
    symbols = many_symbols(form, count)
    found = decoded(kallsyms(form, symbols, place=PLACE), form)
    assert list(found.items()) == symbols
    assert found.lost == 0
    assert len(found) == count


@pytest.mark.parametrize("shift", [4, 8, 12, 4092])
def test_tables_need_not_begin_on_a_page(form: Form, symbols: list[Symbol], shift: int) -> None:
    before = (1 << 16) + shift
    if before % form.align:
        before += 4
    found = decoded(kallsyms(form, symbols, place=PLACE, before=before), form)
    assert list(found.items()) == symbols


def test_symbols_are_looked_up_by_name_and_address(form: Form, symbols: list[Symbol]) -> None:
    symbols[50] = (symbols[50][0], "t", "twice")
    symbols[4000] = (symbols[4000][0], "d", "twice")
    symbols[60:62] = [(symbols[row][0], "t", f"alike_up_to_{row}") for row in (60, 61)]  # as long, with one head
    found = decoded(kallsyms(form, symbols, place=PLACE), form)
    assert found.find("twice") == [symbols[50][0], symbols[4000][0]]
    assert found.get("twice") == symbols[50][0]
    assert [found.find(f"alike_up_to_{row}") for row in (60, 61, 62)] == [[symbols[60][0]], [symbols[61][0]], []]
    assert found.get("W" * (500 if form.long_names else 110)) == symbols[777][0]
    assert found.name_of(symbols[50][0]) == "twice"
    assert found.get("wice") is None
    assert found.find("") == []
    assert found.name_of(0x1234) is None
    assert found.shifted(-0x1000).get("z") == symbols[778][0] - 0x1000


def test_a_lost_page_of_names_loses_its_groups_and_no_other(form: Form, symbols: list[Symbol]) -> None:
    blob = kallsyms(form, symbols, place=PLACE)
    first, last = blob.at["names"], blob.at["markers"]
    starts = group_starts(blob, form)
    for page in (first // PAGE + 1, (first + last) // 2 // PAGE, last // PAGE - 1):
        hurt = Blob(data=blob.data.copy(), at=blob.at)
        low, high = page * PAGE, (page + 1) * PAGE
        hurt.data[low:high] = 0
        edges = [*starts, last]
        gone = {group for group in range(len(starts)) if edges[group] < high and edges[group + 1] > low}
        kept = [symbol for row, symbol in enumerate(symbols) if row // 256 not in gone]
        found = decoded(hurt, form)
        assert list(found.items()) == kept
        assert found.lost == len(symbols) - len(kept) > 0


def group_starts(blob: Blob, form: Form) -> list[int]:
    """Where each group of 256 names begins, by the lengths of the names themselves."""
    starts, at, row = [], blob.at["names"], 0
    while row < 6000:
        if row % 256 == 0:
            starts.append(at)
        length = int(blob.data[at])
        at += 1
        if length & 0x80 and form.long_names:
            length = length & 0x7F | int(blob.data[at]) << 7
            at += 1
        at += length
        row += 1
    return starts


@pytest.mark.parametrize("kind", ["digits alone", "digits and 198 strings", "digits and a wrong index"])
def test_digits_that_are_no_token_table_are_passed_over(form: Form, symbols: list[Symbol], kind: str) -> None:
    blob = kallsyms(form, symbols, place=PLACE)
    digits = b"".join(b"%d\0" % digit for digit in range(10))
    decoy = digits + b"\xffno end" * 20
    if kind != "digits alone":
        decoy = b"".join(b"t%d\0" % one for one in range(48)) + digits + b"".join(b"u%d\0" % one for one in range(198))
        decoy += b"\0" * (-len(decoy) % 8)
    if kind == "digits and a wrong index":
        decoy += np.arange(256, dtype="<u2").tobytes()
    for spot in (0x1000, blob.at["end"] + 0x800):
        blob.data[spot : spot + len(decoy)] = np.frombuffer(decoy, np.uint8)
    assert list(kallsyms_tables.token_tables(blob.data)) == [blob.tables]
    assert list(decoded(blob, form).items()) == symbols


def test_noise_has_no_tables() -> None:
    noise = np.random.default_rng(5).integers(0, 256, 1 << 20, np.uint8)
    assert list(kallsyms_tables.token_tables(noise)) == []
    assert kallsyms_tables.locate(noise, 1 << 19, (1 << 19) + 1024, IMAGE_START) is None


def test_a_token_table_without_the_others_is_not_taken(form: Form, symbols: list[Symbol]) -> None:
    blob = kallsyms(form, symbols, place=PLACE)
    blob.data[blob.at["names"] : blob.at["markers"]] = 0
    assert kallsyms_tables.locate(blob.data, *blob.tables, IMAGE_START) is None


def test_symbols_of_a_real_kernel_are_those_its_proc_kallsyms_lists(any_kernel: Sample) -> None:
    if "proc/kallsyms" not in any_kernel.truth:
        pytest.skip("the truth of this sample has no kallsyms")
    # A line of a module or of a BPF program has its name behind a tab; neither is in the kernel's own table.
    expected = {
        (int(address, 16), name)
        for address, _, name, *owner in map(str.split, any_kernel.truth["proc/kallsyms"].decode().splitlines())
        if not owner
    }
    symbols = any_kernel.analysis.kernel.symbols
    assert isinstance(symbols, reader.Kallsyms)
    found = {(address, name) for address, _, name in symbols.items()}
    assert found == expected
    assert len(expected) > 50_000


def test_a_lost_page_of_offsets_gives_no_address_at_all(form: Form, symbols: list[Symbol]) -> None:
    blob = kallsyms(form, symbols, place=PLACE)
    tables = kallsyms_tables.locate(blob.data, *blob.tables, IMAGE_START)
    assert tables is not None
    held = np.ones(-(-len(blob.data) // PAGE), np.bool_)
    page = blob.at["offsets"] // PAGE + 2
    held[page] = False
    blob.data[page * PAGE : (page + 1) * PAGE] = 0
    found = reader.decode(blob.data, tables, PLACE, held, PAGE)
    kept = [symbol for row, symbol in enumerate(symbols) if (blob.at["offsets"] + 4 * row) // PAGE != page]
    assert list(found.items()) == kept
    assert found.lost == len(symbols) - len(kept) == PAGE // 4


def test_a_name_that_ends_on_a_lost_page_is_lost_with_its_group(form: Form, symbols: list[Symbol]) -> None:
    # Only the last bytes of a group's last name are gone: the group still leads to the next marker.
    starts = group_starts(kallsyms(form, symbols, place=PLACE), form)
    after = min(range(3, len(starts) - 3), key=lambda row: starts[row] % form.align or 99)
    over = starts[after] % form.align
    blob = kallsyms(form, symbols, place=PLACE, before=(1 << 18) + (over - starts[after]) % PAGE)
    starts = group_starts(blob, form)
    assert 0 < starts[after] % PAGE == over < 4
    tables = kallsyms_tables.locate(blob.data, *blob.tables, IMAGE_START)
    assert tables is not None
    held = np.ones(-(-len(blob.data) // PAGE), np.bool_)
    page = starts[after] // PAGE
    held[page] = False
    blob.data[page * PAGE : (page + 1) * PAGE] = 0
    edges = [*starts, blob.at["markers"]]
    gone = {row for row in range(len(starts)) if edges[row] < (page + 1) * PAGE and edges[row + 1] > page * PAGE}
    assert {after - 1, after} <= gone
    found = reader.decode(blob.data, tables, PLACE, held, PAGE)
    assert list(found.items()) == [symbol for row, symbol in enumerate(symbols) if row // 256 not in gone]


# Damaged tables ------------------------------------------------------------------------------------------------


def mended(blob: Blob) -> reader.Kallsyms | None:
    """What is read of tables found by most of their contents."""
    for table, index, right in kallsyms_repair.damaged_token_tables(blob.data):
        blob.data[table : table + len(right)] = right
        tables = kallsyms_tables.locate(blob.data, table, index, IMAGE_START)
        if tables is not None:
            return reader.decode(blob.data, tables, PLACE)
    return None


def filled(form: Form) -> Blob:
    """Tables as a kernel's: every token stands for something."""
    rng = np.random.default_rng(3)
    words = ["".join(rng.choice(list("abcdefgh_"), 3 + row % 5)) for row in range(240)]
    symbols = [
        (address, kind, f"{words[row % 240]}{words[(row * 7 + 1) % 240]}_{row}")
        for row, (address, kind, _) in enumerate(many_symbols(form))
    ]
    return kallsyms(form, symbols, place=PLACE)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("table", ["markers", "num_syms"])
def test_a_wrong_marker_or_count_costs_few_names(form: Form, symbols: list[Symbol], table: str, part: float) -> None:
    blob = kallsyms(form, symbols, place=PLACE)
    at = blob.at[table]
    if table == "markers":
        at += int(part * 24) * (8 if form.marker == "Q" else 4)
    blob.data[at : at + 4] = np.frombuffer(np.uint32(0x12345678 * part).tobytes(), np.uint8)
    if table == "markers" and int(part * 24) == 0:
        pytest.skip("the first marker is where the others are counted from")
    # Too few groups for the count to be found without its word.
    tables = kallsyms_tables.locate(blob.data, *blob.tables, IMAGE_START)
    if table == "num_syms":
        assert tables is None
        return
    assert tables is not None
    found = reader.decode(blob.data, tables, PLACE)
    assert set(found.items()) <= set(symbols)
    assert found.lost == len(symbols) - len(found) <= 512


def test_a_wrong_number_of_symbols_is_found_by_the_names(form: Form) -> None:
    symbols = many_symbols(form, 70 * 256 + 17)
    blob = kallsyms(form, symbols, place=PLACE)
    blob.data[blob.at["num_syms"] : blob.at["num_syms"] + 4] = 0xFF
    if form.count == "Q":
        pytest.skip("num_syms is looked for right before the names")
    found = decoded(blob, form)
    assert list(found.items()) == symbols


@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("value", [0x00, 0xFF])
def test_a_wrong_word_of_the_token_tables_costs_the_names_that_use_it(form: Form, part: float, value: int) -> None:
    blob = filled(form)
    clean = set(decoded(blob, form).items())
    table, index = blob.tables
    at = table + int(part * (index + 512 - table))
    at -= at % 8
    blob.data[at : at + 8] = value
    found = mended(blob)
    assert found is not None
    assert len(found) == 6000
    assert len(clean - set(found.items())) < 3000


def test_an_index_of_tokens_that_is_noise_costs_names_and_nothing_else(form: Form, symbols: list[Symbol]) -> None:
    blob = kallsyms(form, symbols, place=PLACE)
    tables = kallsyms_tables.locate(blob.data, *blob.tables, IMAGE_START)
    assert tables is not None
    damaged = blob.data.copy()
    noise = np.random.default_rng(1).integers(0, 256, 512, dtype=np.uint8)
    damaged[tables.token_index : tables.token_index + 512] = noise
    found = reader.decode(damaged, tables, PLACE)
    assert len(list(found.items())) == len(symbols)


@pytest.mark.image
@pytest.mark.parametrize("name", ["debian-6.12", "debian-7.3"])
def test_a_page_with_the_number_of_symbols_costs_the_names_on_it(name: str) -> None:
    sample = next(sample for sample in bundled() if sample.name == name)
    kernel = sample.analysis.kernel
    sound = kernel.symbols
    assert isinstance(sound, reader.Kallsyms)
    assert sound.tables is not None
    at = (sound.tables.num_syms + sound.place) % (1 << 64) & -4096
    pas, _, _ = kernel.space.translate(np.array([at], np.uint64))
    memory = Overlay(sample.analysis.image.memory)
    memory.write(int(pas[0]), bytes(4096))
    found = find_kernel(replace(sample.analysis.image, memory=memory)).symbols
    assert isinstance(found, reader.Kallsyms)
    assert len(sound) - 512 <= len(found) < len(sound)
    for symbol in ("init_task", "linux_banner", "__start_BTF", "_etext", "seq_read"):
        assert found.get(symbol) == sound.get(symbol), symbol


@pytest.mark.image
def test_a_page_with_the_base_of_the_addresses_costs_what_else_lies_on_it(any_kernel: Sample) -> None:
    """VMCOREINFO has the address of one symbol; the others are where they are in the undamaged tables."""
    kernel, image = any_kernel.analysis.kernel, any_kernel.analysis.image
    sound = kernel.symbols
    assert isinstance(sound, reader.Kallsyms)
    tables = sound.tables
    assert tables is not None
    if tables.relative_base is None:
        pytest.skip("addresses count from their own places")
    late = tables.offsets > tables.names
    base = tables.offsets + -(-4 * tables.count // 8) * 8 if late else tables.num_syms - 8
    va = np.array([(base + sound.place) % (1 << 64) & -4096 % (1 << 64)], np.uint64)
    memory = Overlay(image.memory)
    memory.drop(kernel.space.translate(va).pa >> np.uint64(12))
    found = find_kernel(replace(image, memory=memory)).symbols
    assert isinstance(found, reader.Kallsyms)
    assert len(found) > 0.97 * len(sound)
    assert set(found.items()) <= set(sound.items())
