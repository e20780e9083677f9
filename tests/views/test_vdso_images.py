"""The dynamic symbols of the kernel's vDSO: shared objects made by hand (System V ABI, chapter 5)."""

from __future__ import annotations

import struct

import pytest

from vmaforensics.views.pages.vdso_images import functions_of

NAMES = b"\0__vdso_time\0clock_gettime\0"


def shared_object(*, wide: bool, dynamic: int = 2) -> bytes:
    """A shared object of a page with two functions and an object among its dynamic symbols."""
    word, symbol = ("Q", 24) if wide else ("I", 16)
    step = struct.calcsize(word)
    symtab, strtab, table = 0x200, 0x200 + 4 * symbol, 0x400
    content = bytearray(4096)
    content[:5] = b"\x7fELF" + bytes([2 if wide else 1])
    struct.pack_into(f"<{word}", content, 32 if wide else 28, 64)
    struct.pack_into("<HH", content, 54 if wide else 42, 56 if wide else 32, 2)
    for at, kind in ((64, 1), (64 + (56 if wide else 32), dynamic)):
        struct.pack_into("<I", content, at, kind)
        struct.pack_into(f"<{word}", content, at + (16 if wide else 8), table)
    for at, (tag, value) in enumerate(((5, strtab), (6, symtab), (0, 0))):
        struct.pack_into(f"<{word}{word}", content, table + 2 * step * at, tag, value)
    for at, (name, info, value) in enumerate(((0, 0, 0), (1, 0x12, 0x680), (13, 0x22, 0x700), (1, 0x11, 0x800))):
        if wide:
            struct.pack_into("<IBBHQQ", content, symtab + symbol * at, name, info, 0, 1, value, 16)
        else:
            struct.pack_into("<IIIBBH", content, symtab + symbol * at, name, value, 16, info, 0, 1)
    content[strtab : strtab + len(NAMES)] = NAMES
    return bytes(content)


def test_a_function_that_lies_nowhere_has_a_place_that_columns_can_hold() -> None:
    wild = bytearray(shared_object(wide=True))
    struct.pack_into("<Q", wild, 0x200 + 24 + 8, (1 << 64) - 16)
    assert functions_of(bytes(wild))[0] == (b"__vdso_time", (1 << 63) - 1)


@pytest.mark.parametrize("wide", [True, False])
def test_functions_are_read_by_name_and_place(wide: bool) -> None:
    assert functions_of(shared_object(wide=wide)) == [(b"__vdso_time", 0x680), (b"clock_gettime", 0x700)]


def test_what_is_no_shared_object_has_none() -> None:
    good = shared_object(wide=True)
    assert functions_of(bytes(4096)) == []
    assert functions_of(b"\x7fELF\x02" + b"\xff" * 4091) == []
    assert functions_of(shared_object(wide=True, dynamic=3)) == []
    assert functions_of(good[:0x210]) == []
    wild = bytearray(good)
    struct.pack_into("<QQ", wild, 0x400, 5, 1 << 63)
    assert functions_of(bytes(wild)) == []
