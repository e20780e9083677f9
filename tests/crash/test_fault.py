"""Where a pointer stands that could not be used, in a kernel made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from views.handmade_objects import STRUCTS, Hand

from vmaforensics.arch.known import DEFAULT
from vmaforensics.crash.fault import Fault, find_fault
from vmaforensics.crash.trace import Particulars, TraceFrame, read_particulars
from vmaforensics.views.objects.explain import explain

PLACE = TraceFrame(name="unlink_file_vma", offset=0x12, size=0x60)
LOAD = bytes.fromhex("488b80d8000000")  # mov 0xd8(%rax),%rax


def fault(hand: Hand, registers: dict[str, int], *, address: int | None, code: bytes = LOAD) -> Fault | None:
    surroundings = hand.surroundings()
    said = Particulars(place=None if "RIP" in registers else PLACE, address=address, registers=registers, code=code)
    objects = explain(surroundings, np.array(list(registers.values()), np.uint64), 0)
    return find_fault(surroundings, said, registers, [objects, []], 0)


@pytest.fixture
def hand() -> Hand:
    made = Hand()
    made.cache("vm_area_struct", 256)
    made.cache("filp", 256)
    return made


def test_the_word_that_holds_the_pointer_is_found_and_the_bit_that_is_wrong(hand: Hand) -> None:
    vma, file = hand.object("vm_area_struct", 2), hand.object("filp", 1)
    wrong = file ^ (1 << 62)
    hand.put("vm_area_struct", vma, {"vm_file": wrong})
    found = fault(hand, {"RAX": wrong, "RDI": vma, "RCX": 7}, address=wrong + 0xD8)
    assert found is not None
    assert (found.register, found.displacement, found.exact) == ("RAX", 0xD8, True)
    word = hand.machine.at("vm_area_struct", vma, "vm_file")
    assert [(held.value, held.member) for held in found.held] == [(word, "vm_file")]
    assert [(near.changed, near.meaning.value) for near in found.nearly] == [(1 << 62, file)]


def test_without_code_the_register_that_lies_just_below_counts_and_is_no_proof(hand: Hand) -> None:
    vma = hand.object("vm_area_struct", 2)
    wrong = 0xFFFF_9000_0000_1000
    hand.put("vm_area_struct", vma, {"vm_ops": wrong})
    found = fault(hand, {"RDX": wrong, "RSI": vma, "RBX": wrong - 4096}, address=wrong + 8, code=b"")
    assert found is not None
    assert (found.register, found.exact) == ("RDX", False)
    assert [held.member for held in found.held] == ["vm_ops"]


def test_null_is_the_pointer_whose_type_has_a_member_there() -> None:
    hand = Hand(STRUCTS | {"vm_area_struct": STRUCTS["vm_area_struct"].replace("vm_mm:*", "vm_mm:*mm_struct")})
    hand.cache("vm_area_struct", 256)
    offset = hand.machine.at("mm_struct", 0, "pgd")
    code = bytes.fromhex("488b80") + offset.to_bytes(4, "little")  # mov offset(%rax),%rax
    vma = hand.object("vm_area_struct", 2)
    found = fault(hand, {"RAX": 0, "RSI": vma}, address=offset, code=code)
    assert found is not None
    assert found.pointer is not None
    assert (found.register, found.displacement, found.held) == ("RAX", offset, [])
    assert [(null.holder.member, null.struct, null.member) for null in found.null] == [("vm_mm", "mm_struct", "pgd")]


def test_a_jump_into_poison_is_a_fault_of_its_own_and_poison_is_not_looked_for(hand: Hand) -> None:
    vma = hand.object("vm_area_struct", 2)
    hand.put("vm_area_struct", vma, {"vm_ops": 0x6B6B6B6B6B6B6B6B})
    found = fault(hand, {"RIP": 0x6B6B6B6B6B6B6B6B, "RAX": 0x6B6B6B6B6B6B6B6B, "RDI": vma}, address=None, code=b"")
    assert found is not None
    assert (found.address, found.register, found.held) == (0x6B6B6B6B6B6B6B6B, "RAX", [])


def test_a_complaint_that_names_no_address_has_no_fault(hand: Hand) -> None:
    assert fault(hand, {"RAX": 1}, address=None) is None


def test_the_instruction_is_read_from_the_line_of_code() -> None:
    lines = [
        "BUG: unable to handle page fault for address: ffffcdffdf97aab8",
        "RIP: 0010:acct_collect+0x189/0x230",
        "Code: 31 db eb 07 <48> 03 58 08 48 2b 18",
        "RSP: 0018:ffffd246c06f7b18 EFLAGS: 00000282",
        "RIP: 0033:0x7f10",
        "Code: ff <0f> 05",
    ]
    said = read_particulars(lines, DEFAULT.printed_registers)
    assert said.code == bytes.fromhex("48035808482b18")
    assert said.registers["RSP"] == 0xFFFFD246C06F7B18


def test_a_jump_to_what_is_no_code_leaves_the_address_in_the_registers() -> None:
    lines = ["general protection fault: 0000 [#1] PREEMPT SMP NOPTI", "RIP: 0010:0xaaaaaaaaaaaaaaaa"]
    said = read_particulars(lines, DEFAULT.printed_registers)
    assert said.place is None
    assert said.registers["RIP"] == 0xAAAAAAAAAAAAAAAA


def test_null_without_code_is_still_looked_for() -> None:
    hand = Hand(STRUCTS | {"vm_area_struct": STRUCTS["vm_area_struct"].replace("vm_mm:*", "vm_mm:*mm_struct")})
    hand.cache("vm_area_struct", 256)
    offset = hand.machine.at("mm_struct", 0, "pgd")
    found = fault(hand, {"RSI": hand.object("vm_area_struct", 2)}, address=offset, code=b"")
    assert found is not None
    assert found.register is None
    assert [null.member for null in found.null] == ["pgd"]
