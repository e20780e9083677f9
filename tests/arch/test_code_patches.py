"""What stands where the kernel patches code (Intel SDM vol. 2; arch/x86/include/asm/nops.h)."""

from __future__ import annotations

import numpy as np
import pytest

from vmaforensics.arch.branches import BranchKind
from vmaforensics.arch.known import DEFAULT

AT = 0xFFFF_FFFF_8100_0000


@pytest.mark.parametrize(
    ("code", "kind", "target"),
    [
        ("0f 1f 44 00 00", BranchKind.NOP, 0),
        ("66 66 66 66 90", BranchKind.NOP, 0),
        ("66 90 48 89 c3", BranchKind.NOP, 0),
        ("e8 fb 0f 00 00", BranchKind.CALL, AT + 0x1000),
        ("e9 fb ff ff ff", BranchKind.JUMP, AT),
        ("eb fe 90 90 90", BranchKind.JUMP, AT),
        ("cc 1f 44 00 00", BranchKind.BREAKPOINT, 0),
        ("f3 0f 1e fa 55", BranchKind.OTHER, 0),
    ],
)
def test_what_an_instruction_is(code: str, kind: BranchKind, target: int) -> None:
    rows = np.frombuffer(bytes.fromhex(code), np.uint8).reshape(1, -1)
    found = DEFAULT.branches(rows, np.array([AT], np.uint64))
    assert (int(found.kind[0]), int(found.target[0])) == (kind, target)
