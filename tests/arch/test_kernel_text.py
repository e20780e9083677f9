"""What the kernel changes in its own code: each form that may stand in a place, and what may not."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import Machine

from vmaforensics.arch.reference_text import LinkedSection, PatchedPlaces, ReferenceText
from vmaforensics.arch.x86_64.filler import is_filler
from vmaforensics.arch.x86_64.kernel_text import explained

LINKED, MOVED, SIZE = 0xFFFF_FFFF_8100_0000, 0x0120_0000, 0x100
START = LINKED + MOVED
PLACE = 0x20
THUNK = START + 0xF0
TABLE = LINKED + 0x10_0000
NONE = np.zeros(0, np.uint64)


def branch(opcode: int, at: int, target: int) -> bytes:
    """A call or jump at an offset to an address in memory."""
    return bytes([opcode]) + ((target - START - at - 5) % (1 << 32)).to_bytes(4, "little")


def distance(section: int, place: int) -> bytes:
    """From an element of a table, as linked, to a place in the text."""
    return ((LINKED + place - section) % (1 << 32)).to_bytes(4, "little")


def left(found: str | bytes, linked: str | bytes, sections: dict[str, bytes] | None = None, **places: list[int]) -> int:
    """How many bytes are not explained where ``found`` stands instead of ``linked``."""
    texts = []
    for code in (found, linked):
        text = np.full(SIZE, 0x55, np.uint8)
        raw = bytes.fromhex(code) if isinstance(code, str) else code
        text[PLACE : PLACE + len(raw)] = np.frombuffer(raw, np.uint8)
        texts.append(text)
    machine = Machine({"alt_instr": "instr_offset:u32 repl_offset:u32 instrlen:u8 replacementlen:u8"})
    machine.symbols["__fentry__"] = machine.symbols["__x86_indirect_thunk_rdx"] = THUNK
    machine.symbols["x86_return_thunk"] = machine.room(8)
    machine.word(machine.symbols["x86_return_thunk"], THUNK)
    machine.symbols["d_hash_shift"] = machine.room(8)
    machine.word(machine.symbols["d_hash_shift"], 0x10)
    named = PatchedPlaces(*(np.array(places.get(name, []), np.uint64) for name in PatchedPlaces._fields))
    held = {
        name: LinkedSection(TABLE + 0x1000 * number, np.frombuffer(data, np.uint8))
        for number, (name, data) in enumerate((sections or {}).items())
    }
    reference = ReferenceText(start=START, found=texts[0], linked=texts[1], moved=MOVED, sections=held)
    return int((~explained(machine.kernel(), reference, named)).sum())


def test_a_byte_that_no_table_names_is_not_explained() -> None:
    assert left("74", "75") == 1
    assert left("75", "75") == 0


def test_words_that_were_moved_as_the_kernel_was_are_explained_and_no_others() -> None:
    linked = 0x8123_4567
    assert left((linked + MOVED).to_bytes(4, "little"), linked.to_bytes(4, "little")) == 0
    assert left((linked - MOVED).to_bytes(4, "little"), linked.to_bytes(4, "little")) == 0
    assert left((linked + 2 * MOVED).to_bytes(4, "little"), linked.to_bytes(4, "little")) > 0


@pytest.mark.parametrize(
    ("found", "fine"),
    [("c3cccccccc", True), ("c3cccccc90", False), ("31c0c3cccc", False), (branch(0xE9, PLACE, START + 8), False)],
)
def test_a_return_is_one_of_two_forms(found: str | bytes, fine: bool) -> None:
    sections = {".return_sites": distance(TABLE, PLACE)}
    assert (left(found, branch(0xE9, PLACE, THUNK - 0x40), sections) == 0) is fine


def test_a_return_through_the_thunk_that_the_kernel_chose_is_explained() -> None:
    sections = {".return_sites": distance(TABLE, PLACE)}
    assert left(branch(0xE9, PLACE, THUNK), branch(0xE9, PLACE, THUNK - 0x40), sections) == 0


@pytest.mark.parametrize(
    ("found", "fine"),
    [("ffd20f1f00", True), ("0faee8ffd2", True), ("ffd00f1f00", False), ("ffe20f1f00", False)],
)
def test_a_call_through_a_register_is_of_the_register_that_was_linked(found: str, fine: bool) -> None:
    sections = {".retpoline_sites": distance(TABLE, PLACE)}
    assert (left(found, branch(0xE8, PLACE, THUNK), sections) == 0) is fine


def test_entries_are_those_of_functions_that_the_file_lets_trace() -> None:
    assert left("0f1f440000", branch(0xE8, PLACE, THUNK), entries=[START + PLACE]) == 0
    assert left("0f1f440000", "4889d1f3a4", entries=[START + PLACE]) > 0  # a record that was made up
    assert left("4889d1f3a4", branch(0xE8, PLACE, THUNK), entries=[START + PLACE]) > 0


def test_a_jump_label_leads_to_its_target_or_does_nothing() -> None:
    to = START + 0x80
    for found, fine in ((branch(0xE9, PLACE, to), True), (branch(0xE9, PLACE, to + 1), False), ("31c031c031", False)):
        assert (left(found, "0f1f440000", labels=[START + PLACE], label_targets=[to]) == 0) is fine


def test_a_trampoline_of_a_static_call_leads_to_what_its_key_calls() -> None:
    to, linked = START + 0x80, branch(0xE9, PLACE, START)
    for found, fine in ((branch(0xE9, PLACE, to), True), (branch(0xE9, PLACE, to + 8), False)):
        assert (left(found, linked, trampolines=[START + PLACE], trampoline_targets=[to]) == 0) is fine


@pytest.mark.parametrize(
    ("found", "linked", "name"), [("3e", "f0", ".smp_locks"), ("10", "0c", "runtime_shift_d_hash_shift")]
)
def test_a_single_byte_becomes_what_it_may_become(found: str, linked: str, name: str) -> None:
    sections = {name: distance(TABLE, PLACE)}
    assert left(found, linked, sections) == 0
    assert left("99", linked, sections) == 1


def alternative(replacement: bytes, size: int) -> dict[str, bytes]:
    """One entry of the table, and its replacement."""
    there = TABLE + 0x1000
    to = ((there - TABLE - 4) % (1 << 32)).to_bytes(4, "little")
    entry = distance(TABLE, PLACE) + to + bytes([size, len(replacement)])
    return {".altinstructions": entry + bytes(-len(entry) % 4), ".altinstr_replacement": replacement}


def test_an_alternative_is_what_was_linked_or_its_replacement_with_filler() -> None:
    other = alternative(bytes.fromhex("0f01cb"), 5)
    for found, fine in (("0f01cb6690", True), ("0f1f440000", True), ("0f01cb9031", False), ("0f01ca6690", False)):
        assert (left(found, "9090909090", other) == 0) is fine


def test_a_call_in_a_replacement_leads_to_the_same_function_from_its_new_place() -> None:
    to = LINKED + 0x80
    call = b"\xe8" + ((to - (TABLE + 0x1000) - 5) % (1 << 32)).to_bytes(4, "little")
    other = alternative(call, 5)
    assert left(branch(0xE8, PLACE, START + 0x80), "9090909090", other) == 0
    assert left(branch(0xE8, PLACE, START + 0x81), "9090909090", other) > 0


def test_filler_is_nothing_but_filler() -> None:
    assert is_filler(bytes.fromhex("0f1f4400006690"))
    assert is_filler(bytes.fromhex("eb03313131"))
    assert not is_filler(bytes.fromhex("0f1f44000031"))
