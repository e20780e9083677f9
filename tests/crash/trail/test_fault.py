"""The address that could not be used, and the pointer it was made of, in a kernel made by hand with slabs."""

from __future__ import annotations

import pytest
from checks.handmade_views import views_of
from views.handmade_objects import STRUCTS, Hand

from vmaforensics.arch.known import DEFAULT
from vmaforensics.crash.complaints import Complaint
from vmaforensics.crash.patterns import Kind
from vmaforensics.crash.trace import Particulars, TraceFrame, read_particulars
from vmaforensics.crash.trail.pointers import follow_pointer
from vmaforensics.crash.trail.records import Records
from vmaforensics.crash.trail.word import Sure, Trail

PLACE = TraceFrame(name="unlink_file_vma", offset=0x12, size=0x60)
LOAD = bytes.fromhex("488b80d8000000")  # mov 0xd8(%rax),%rax
POINTERS = STRUCTS["vm_area_struct"].replace("vm_mm:*", "vm_mm:*mm_struct").replace("vm_file:*", "vm_file:*file")


def followed(hand: Hand, registers: dict[str, int], *, address: int | None, code: bytes = LOAD) -> Trail:
    said = Particulars(place=None if "RIP" in registers else PLACE, address=address, registers=registers, code=code)
    complaint = Complaint(kind=Kind.PAGE_FAULT, row=0, time=0, caller=0, title="", said=said)
    return follow_pointer(Records(hand.machine.kernel(), views_of()), complaint)


@pytest.fixture
def hand() -> Hand:
    made = Hand(STRUCTS | {"vm_area_struct": POINTERS})
    made.cache("vm_area_struct", 256)
    made.cache("filp", 256)
    return made


def test_the_word_that_holds_the_pointer_is_found_and_the_bit_that_is_wrong(hand: Hand) -> None:
    vma, file = hand.object("vm_area_struct", 2), hand.object("filp", 1)
    wrong = file ^ (1 << 62)
    hand.put("vm_area_struct", vma, {"vm_file": wrong})
    trail = followed(hand, {"RAX": wrong, "RDI": vma, "RCX": 7}, address=wrong + 0xD8)
    found = trail.fault
    assert found is not None
    assert (found.register, found.displacement, found.exact) == ("RAX", 0xD8, True)
    assert [(near.changed, near.meaning.value) for near in found.nearly] == [(1 << 62, file)]
    (word,) = trail.words
    assert word.address == hand.machine.at("vm_area_struct", vma, "vm_file")
    assert (word.found, word.expected, word.sure) == (hex(wrong), hex(file), Sure.CERTAIN)


def test_without_code_the_register_that_lies_just_below_counts_and_is_no_proof(hand: Hand) -> None:
    vma = hand.object("vm_area_struct", 2)
    wrong = 0xFFFF_9000_0000_1000
    hand.put("vm_area_struct", vma, {"vm_ops": wrong})
    trail = followed(hand, {"RDX": wrong, "RSI": vma, "RBX": wrong - 4096}, address=wrong + 8, code=b"")
    assert trail.fault is not None
    assert (trail.fault.register, trail.fault.exact) == ("RDX", False)
    assert [word.address for word in trail.words] == [hand.machine.at("vm_area_struct", vma, "vm_ops")]


def test_null_is_the_pointer_whose_type_has_a_member_there(hand: Hand) -> None:
    offset = hand.machine.at("mm_struct", 0, "pgd")
    code = bytes.fromhex("488b80") + offset.to_bytes(4, "little")  # mov offset(%rax),%rax
    vma = hand.object("vm_area_struct", 2)
    for registers, register in (({"RAX": 0, "RSI": vma}, "RAX"), ({"RSI": vma}, None)):
        trail = followed(hand, registers, address=offset, code=code)
        assert trail.fault is not None
        assert trail.fault.register == register
        assert [word.address for word in trail.words] == [hand.machine.at("vm_area_struct", vma, "vm_mm")]
        assert "NULL->pgd" in trail.words[0].why[0]


def test_a_jump_into_poison_is_a_fault_of_its_own_and_poison_is_not_looked_for(hand: Hand) -> None:
    vma = hand.object("vm_area_struct", 2)
    hand.put("vm_area_struct", vma, {"vm_ops": 0x6B6B6B6B6B6B6B6B})
    registers = {"RIP": 0x6B6B6B6B6B6B6B6B, "RAX": 0x6B6B6B6B6B6B6B6B, "RDI": vma}
    trail = followed(hand, registers, address=None, code=b"")
    assert trail.fault is not None
    assert (trail.fault.address, trail.fault.register, trail.words) == (0x6B6B6B6B6B6B6B6B, "RAX", [])


def test_a_link_that_led_to_another_link_of_the_same_kind_is_put_right() -> None:
    hand = Hand(STRUCTS | {"rb_node": "__rb_parent_color:u64 rb_right:*rb_node rb_left:*rb_node"})
    hand.cache("vm_area_struct", 256)
    vma, parent = hand.object("vm_area_struct", 2), hand.object("vm_area_struct", 5)
    right = hand.machine.at("vm_area_struct", parent, "shared.rb")
    wrong = right ^ (1 << 46)
    hand.put("vm_area_struct", vma, {"shared.rb.__rb_parent_color": wrong | 1})  # black
    (word,) = followed(hand, {"RDX": wrong, "RBP": vma}, address=wrong + 16, code=b"").words
    assert (word.address, word.expected, word.sure) == (
        hand.machine.at("vm_area_struct", vma, "shared.rb"),
        hex(right | 1),
        Sure.CERTAIN,
    )


def test_memory_of_no_slab_is_looked_at_too_and_proves_less_but_not_the_stack_of_the_code(hand: Hand) -> None:
    wrong = 0xFFFF_9000_0000_1000
    timer = hand.machine.put("file", {"f_mapping": wrong})
    stack = hand.machine.room(32768, 16384) + 16384
    hand.machine.word(stack + 64, wrong)
    trail = followed(hand, {"RSI": wrong, "RDI": timer, "RSP": stack + 56, "RBP": stack + 60}, address=wrong, code=b"")
    assert [(word.address, word.sure) for word in trail.words] == [
        (hand.machine.at("file", timer, "f_mapping"), Sure.LIKELY)
    ]


def test_a_complaint_that_names_no_address_has_no_fault(hand: Hand) -> None:
    assert followed(hand, {"RAX": 1}, address=None).fault is None


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
