"""Lengths and branches of instructions, as GNU objdump 2.40 takes them apart; and what a compiled switch does."""

from __future__ import annotations

import numpy as np
import pytest

from vmaforensics.arch.branches import FlowKind
from vmaforensics.arch.x86_64.instructions import far_branches, flow
from vmaforensics.arch.x86_64.switches import follow_switch
from vmaforensics.columns.types import U64, Bools

BASE = 0xFFFF_FFFF_8100_0000

# Each is one instruction, as objdump shows it.
ONE = {
    "55": "push %rbp",
    "4157": "push %r15",
    "f30f1efa": "endbr64",
    "0f1f440000": "nopl 0x0(%rax,%rax,1)",
    "66666666662e0f1f840000000000": "data16 cs nopw 0x0(%rax,%rax,1)",
    "488b4720": "mov 0x20(%rdi),%rax",
    "65488b042528000000": "mov %gs:0x28,%rax",
    "48c7c000000000": "mov $0x0,%rax",
    "66c7450a3412": "movw $0x1234,0xa(%rbp)",
    "49bc0000000000fcffdf": "movabs $0xdffffc0000000000,%r12",
    "f7c600020000": "test $0x200,%esi",
    "f6430801": "testb $0x1,0x8(%rbx)",
    "48f7d8": "neg %rax",
    "0fba2d00000000 0a": "btsl $0xa,0x0(%rip)",
    "f0480fba280d": "lock btsq $0xd,(%rax)",
    "0f38f0 07".replace(" ", ""): "movbe (%rdi),%eax",
    "660f3a0fc104": "palignr $0x4,%xmm1,%xmm0",
    "c5f8 77".replace(" ", ""): "vzeroupper",
    "c4e27d58c0": "vpbroadcastd %xmm0,%ymm0",
    "62f17c484807": "vmovups-like EVEX with a displacement of none",
    "0f0b": "ud2",
    "0f00c8": "str %eax",
    "a1 8877665544332211".replace(" ", ""): "movabs 0x1122334455667788,%eax",
    "c8100000": "enter $0x10,$0x0",
}


def apart(code: bytes) -> tuple[list[int], list[int], list[int]]:
    """(size, kind, target) of what would begin at each byte."""
    data = np.frombuffer(code, np.uint8)
    found = flow(data, BASE + np.arange(len(data), dtype=np.uint64))
    return found.size.tolist(), found.kind.tolist(), found.target.tolist()


@pytest.mark.parametrize("text", ONE, ids=lambda text: ONE[text])
def test_an_instruction_is_as_long_as_objdump_says(text: str) -> None:
    code = bytes.fromhex(text)
    assert apart(code + bytes(16))[0][0] == len(code)
    assert apart(code[:-1])[0][:1] in ([0], []), "what is cut off is no instruction"


@pytest.mark.parametrize(
    ("text", "kind", "target"),
    [
        ("e8fb0f0000", FlowKind.CALL, BASE + 0x1000),
        ("e9fbffffff", FlowKind.JUMP, BASE),
        ("ebfe", FlowKind.JUMP, BASE),
        ("7510", FlowKind.BRANCH, BASE + 0x12),
        ("0f84fa0f0000", FlowKind.BRANCH, BASE + 0x1000),
        ("2e0f85f90f0000", FlowKind.BRANCH, BASE + 0x1000),
        ("c3", FlowKind.RETURN, 0),
        ("cc", FlowKind.BREAKPOINT, 0),
        ("0f0b", FlowKind.TRAP, 0),
        ("ffe0", FlowKind.INDIRECT, 0),
        ("41ffd4", FlowKind.INDIRECT, 0),
        ("ff2500010000", FlowKind.INDIRECT, BASE + 0x106),
        ("ff142578563412", FlowKind.INDIRECT, 0x12345678),
        ("6878563492", FlowKind.PUSH, 0xFFFF_FFFF_9234_5678),
        ("48b8efcdab8967452301", FlowKind.LOAD, 0x0123_4567_89AB_CDEF),
        ("4889e5", FlowKind.OTHER, 0),
    ],
)
def test_where_an_instruction_leads(text: str, kind: FlowKind, target: int) -> None:
    _, kinds, targets = apart(bytes.fromhex(text) + bytes(16))
    assert (FlowKind(kinds[0]), targets[0]) == (kind, target)


def test_what_may_reach_far_is_found_wherever_it_begins() -> None:
    code = bytearray(b"\x90" * 96)
    code[3:8] = b"\xe8" + (0x2000).to_bytes(4, "little")
    code[20:26] = b"\x0f\x85" + (0x3000).to_bytes(4, "little")
    code[32:44] = b"\x48\xb8" + (BASE + 0x4000).to_bytes(8, "little") + b"\xff\xe0"
    code[50:56] = b"\x68" + (0x1234).to_bytes(4, "little") + b"\xc3"
    place, target = far_branches(np.frombuffer(bytes(code), np.uint8), BASE)
    found = dict(zip(place.tolist(), target.tolist(), strict=True))
    assert found[3] == BASE + 8 + 0x2000
    assert found[20] == BASE + 26 + 0x3000
    assert found[42] == BASE + 0x4000
    assert found[55] == 0x1234


def switch(*, first: bytes = b"") -> bytes:
    """``switch (nr) { case 0: A; case 1..3: B; case 4: C; default: D; }``; A to D lie 0x1000 apart behind it."""
    code = bytearray(first)

    def out(opcode: bytes, number: int) -> None:
        target = 0x1000 * (1 + number)
        code.extend(opcode + (target - len(code) - len(opcode) - 4).to_bytes(4, "little", signed=True))

    code += bytes.fromhex("85f6")  # test %esi,%esi
    out(b"\x0f\x85", 9)  # jne over the jump: patched below
    jne = len(code)
    out(b"\xe9", 0)
    code[jne - 4 : jne] = (len(code) - jne).to_bytes(4, "little")
    code += bytes.fromhex("83fe03")  # cmp $3,%esi
    code += bytes.fromhex("7705")  # ja over the jump
    out(b"\xe9", 1)
    code += bytes.fromhex("81ee04000000")  # sub $4,%esi
    code += bytes.fromhex("7405")  # je over the jump
    out(b"\xe9", 3)
    out(b"\xe8", 2)
    return bytes(code)


def nowhere(at: U64) -> tuple[U64, Bools]:
    """Words of memory that is not there."""
    return np.zeros(len(at), np.uint64), np.zeros(len(at), np.bool_)


@pytest.mark.parametrize("first", [b"", bytes.fromhex("f30f1efa0f1f440000")])
def test_a_switch_is_followed_for_every_number(first: bytes) -> None:
    code = switch(first=first)
    found = follow_switch(np.frombuffer(code, np.uint8), BASE, np.arange(7, dtype=np.uint64), nowhere)
    places = [(target - BASE) // 0x1000 - 1 for target in found.target.tolist()]
    assert places == [0, 1, 1, 1, 2, 3, 3]
    assert (found.at >= BASE).all()


@pytest.mark.parametrize(
    "jump",
    [
        "89f6 ff24f5 00200080",  # mov %esi,%esi; jmp *TABLE(,%rsi,8), of gcc 12 in x64_sys_call
        "89f0 3eff24c5 00200080",  # mov %esi,%eax; notrack jmp *TABLE(,%rax,8)
    ],
)
def test_a_switch_that_jumps_by_a_table_is_followed(jump: str) -> None:
    by_table = bytes.fromhex(jump)
    code = bytes.fromhex("83fe02 77") + bytes([len(by_table)]) + by_table  # cmp $2,%esi; ja over the jump
    default = len(code)
    for number in (9, 1, 2):  # jmp, to each
        code += b"\xe9" + (0x1000 * number - len(code) - 5).to_bytes(4, "little", signed=True)
    table = 0xFFFF_FFFF_8000_2000
    held = {table: BASE + default + 5, table + 8: BASE + default + 10, table + 16: BASE + 0x70_0000}

    def words(at: U64) -> tuple[U64, Bools]:
        values = np.array([held.get(one, 0) for one in at.tolist()], np.uint64)
        return values, values != 0

    raw = np.frombuffer(code, np.uint8)
    found = follow_switch(raw, BASE, np.arange(4, dtype=np.uint64), words)
    assert found.target.tolist() == [BASE + 0x1000, BASE + 0x2000, BASE + 0x70_0000, BASE + 0x9000]
    assert found.at.tolist() == [BASE + default + 5, BASE + default + 10, table + 16, BASE + default]
    assert follow_switch(raw, BASE, np.arange(4, dtype=np.uint64), nowhere).at.tolist() == [0, 0, 0, BASE + default]


def test_a_switch_that_cannot_be_followed_says_so() -> None:
    code = bytes.fromhex("4889f0") + switch()  # mov %rsi,%rax
    found = follow_switch(np.frombuffer(code, np.uint8), BASE, np.arange(3, dtype=np.uint64), nowhere)
    assert found.at.tolist() == [0, 0, 0]
    loop = np.frombuffer(bytes.fromhex("ebfe"), np.uint8)
    assert follow_switch(loop, BASE, np.arange(2, dtype=np.uint64), nowhere).at.tolist() == [0, 0]
