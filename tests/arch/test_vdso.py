"""Where functions lead at once (Intel SDM vol. 2)."""

from __future__ import annotations

import numpy as np
import pytest

from vmaforensics.arch.x86_64.architecture import X86_64

ENDBR = bytes.fromhex("f30f1efa")


@pytest.mark.parametrize(
    ("code", "jumps", "leads"),
    [
        ("5548 89e5", False, None),  # push rbp; mov rbp, rsp
        ("48b8 1122334455667788 c3", False, None),  # movabs rax; ret
        ("e8 00010000", False, None),  # a call comes back
        ("e9 00010000", True, 0x1000 + 5 + 0x100),
        ("e9 fbffffff", True, 0x1000),
        ("eb 10", True, 0x1012),
        ("eb fe", True, 0x1000),
        ("ff25 00010000", True, -1),  # jmp *0x100(%rip)
        ("ffe0", True, -1),  # jmp *%rax
        ("ffd0", False, None),  # call *%rax
        ("48b8 1122334455667788 ffe0", True, -1),
        ("68 11223344 c3", True, -1),  # push; ret
        ("cc", True, -1),
    ],
)
def test_jumps_are_told_with_where_they_lead(code: str, jumps: bool, leads: int | None) -> None:
    for before in (b"", ENDBR):
        piece = np.frombuffer((before + bytes.fromhex(code)).ljust(16, b"\x90"), np.uint8)[None]
        found, where = X86_64().first_jumps(piece, np.array([0x1000 - len(before)]))
        assert found.tolist() == [jumps]
        if leads is not None:
            assert where.tolist() == [leads]
