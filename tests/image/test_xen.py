"""Cores as ``xl dump-core`` writes them (xen, docs/misc/dump-core-format.txt; tools/libs/ctrl/xc_core.c)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from vmaforensics.errors import UnsupportedFormatError

from .build import PAGE, page
from .truth import bytes_of, check, states

if TYPE_CHECKING:
    from .conftest import Opener

INVALID = 2**64 - 1


def core(frames: list[int], index: str = ".xen_pfn", machine: int = 62) -> bytes:
    """Section headers first, as there; page n holds ``page(n)``."""
    names = ["", ".shstrtab", ".note.Xen", ".xen_prstatus", ".xen_pages", index]
    strings = b"\0".join(name.encode() for name in names) + b"\0"
    body = [b"", strings, b"", bytes(5168), b"".join(page(n) for n in range(len(frames)))]
    body.append(b"".join(struct.pack("<Q", frame) for frame in frames))
    at = 64 + 64 * len(names)
    table, data = b"", b""
    for name, part in zip(names, body, strict=True):
        if name == ".xen_pages":
            data += bytes(-(at + len(data)) % PAGE)
        table += struct.pack(
            "<IIQQQQIIQQ", strings.index(name.encode() + b"\0"), 1, 0, 0, at + len(data), len(part), 0, 0, 8, 0
        )
        data += part
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 4, machine, 1, 0, 0, 64, 0, 64, 56, 0, 64, len(names), 1)
    return header + table + data


def test_page_n_is_the_nth_frame_of_the_list(opened: Opener) -> None:
    image = opened(core([3, 4, INVALID, 9, 1]))
    check(image.memory, bytes_of({3: page(0), 4: page(1), 9: page(3), 1: page(4)}), set(), 10 * PAGE)
    assert states(image.memory, 11) == "-p-pp----p-"
    assert (image.format, image.details["pages"]) == ("elf", "4")
    assert image.problems == ()


def test_a_paravirtual_guest_is_refused_with_the_reason(opened: Opener) -> None:
    with pytest.raises(UnsupportedFormatError, match="paravirtual"):
        opened(core([1, 2], index=".xen_p2m"))


def test_a_core_that_is_cut_off_says_so(opened: Opener) -> None:
    whole = core([1, 2, 3])
    image = opened(whole[:-8])
    assert states(image.memory, 4) == "-pp-"
    assert "the numbers of 1 page frame are missing" in image.problems[0]
    with pytest.raises(UnsupportedFormatError, match="program headers"):
        opened(whole[:300])
