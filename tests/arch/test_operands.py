"""Operands in memory: encodings as the assembler makes them (Intel SDM vol. 2, tables 2-2 and 2-3)."""

from __future__ import annotations

import pytest

from vmaforensics.arch.known import DEFAULT
from vmaforensics.arch.registers import MemoryOperand


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("48 8b a8 d8 00 00 00", ("RAX", None, 1, 0xD8)),  # mov 0xd8(%rax),%rbp
        ("48 03 58 08", ("RAX", None, 1, 8)),  # add 0x8(%rax),%rbx
        ("48 83 b8 b8 03 00 00 00", ("RAX", None, 1, 0x3B8)),  # cmpq $0,0x3b8(%rax)
        ("48 33 19", ("RCX", None, 1, 0)),  # xor (%rcx),%rbx
        ("49 8b 45 f8", ("R13", None, 1, -8)),  # mov -0x8(%r13),%rax
        ("48 8b 44 24 20", ("RSP", None, 1, 0x20)),  # mov 0x20(%rsp),%rax
        ("4a 8b 04 c8", ("RAX", "R09", 8, 0)),  # mov (%rax,%r9,8),%rax
        ("49 8b 0c 24", ("R12", None, 1, 0)),  # mov (%r12),%rcx
        ("f0 48 0f b1 16", ("RSI", None, 1, 0)),  # lock cmpxchg %rdx,(%rsi)
        ("0f b6 40 10", ("RAX", None, 1, 0x10)),  # movzbl 0x10(%rax),%eax
        ("66 0f 38 f0 02", ("RDX", None, 1, 0)),  # movbe (%rdx),%ax
        ("ff 50 18", ("RAX", None, 1, 0x18)),  # call *0x18(%rax)
        ("8b 14 25 94 fe ff ff", (None, None, 1, -0x16C)),  # mov 0xfffffffffffffe94,%edx
        ("f3 48 ab", ("RDI", None, 1, 0)),  # rep stos %rax,%es:(%rdi)
        ("48 89 c3", None),  # mov %rax,%rbx
        ("0f 0b", None),  # ud2
        ("65 48 8b 00", None),  # mov %gs:(%rax),%rax
        ("48 8b 05 10 00 00 00", None),  # mov 0x10(%rip),%rax
        ("e8 00 00 00 00", None),  # call
        ("48", None),
        ("48 8b 80 00", None),  # cut off
        ("", None),
    ],
)
def test_what_an_instruction_accesses(code: str, expected: tuple[str | None, str | None, int, int] | None) -> None:
    found = DEFAULT.operand(bytes.fromhex(code))
    assert found == (None if expected is None else MemoryOperand(*expected))


def test_the_address_is_made_of_registers_that_are_known() -> None:
    operand = MemoryOperand("RAX", "R09", 8, -8)
    assert operand.address({"RAX": 0x1000, "R09": 2}) == 0x1008
    assert operand.address({"RAX": 0}) is None
    assert MemoryOperand("RAX", None, 1, -8).address({"RAX": 0}) == (1 << 64) - 8
