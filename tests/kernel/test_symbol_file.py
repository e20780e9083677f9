"""A symbol file is proved to be the kernel's, and a kernel is found by its file alone."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from handmade import Symbols

from vmaforensics.arch.x86_64.architecture import X86_64
from vmaforensics.errors import SymbolFileError
from vmaforensics.kernel.space.kernel_space import KernelSpace, LinearPiece
from vmaforensics.kernel.symbols.isf import Isf
from vmaforensics.kernel.symbols.symbol_file import locate, require_match, symbols_by_vmcoreinfo
from vmaforensics.kernel.symbols.vmcoreinfo import parse

from .build import PAGE, memory_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from vmaforensics.image.memory import PhysicalMemory

ARCH = X86_64()
BANNER = b"Linux version 6.6.1 (builder@host) #1 SMP\n"
LINKED = 0xFFFF_FFFF_8100_0000  # where _text is linked to
BANNER_AT, BASE_AT = LINKED + 0x2000, LINKED + 0x3000
MOVED = 0x1E00_0000  # by KASLR, a multiple of CONFIG_PHYSICAL_ALIGN
FRAME = 8  # the page frame in which _text lies
OFFSET = LINKED + MOVED - FRAME * PAGE  # virtual minus physical


@pytest.fixture
def given(tmp_path: Path) -> Isf:
    """The file of the kernel."""
    symbols = {
        "linux_banner": {"address": BANNER_AT, "constant_data": base64.b64encode(BANNER).decode()},
        "_stext": {"address": LINKED},
        ARCH.base_symbol: {"address": BASE_AT},
    }
    path = tmp_path / "kernel.json"
    path.write_text(json.dumps({"metadata": {}, "base_types": {}, "user_types": {}, "enums": {}, "symbols": symbols}))
    return Isf(path)


def base_value(offset: int) -> bytes:
    """What the variable ``phys_base`` holds: how far below 0xffffffff80000000 the image's offset is."""
    return ((0xFFFF_FFFF_8000_0000 - offset) % (1 << 64)).to_bytes(8, "little")


def memory(banner: bytes = BANNER, offset: int = OFFSET) -> PhysicalMemory:
    """The kernel image at :data:`FRAME`, and before it a copy of the banner that no kernel belongs to."""
    held = {
        2: banner + b"\0",
        FRAME + 2: banner + b"\0",
        FRAME + 3: base_value(offset),
    }
    return memory_of(held, ram=32)


def test_it_is_found_by_the_banner_and_the_base_that_agree(given: Isf) -> None:
    found = locate(memory(), ARCH, given)
    assert found is not None
    symbols, offset = found
    assert offset == OFFSET
    assert symbols.get("_stext") == LINKED + MOVED


@pytest.mark.parametrize(
    "offset",
    [
        OFFSET + 0x1000,  # no step of KASLR
        OFFSET - MOVED - ARCH.kaslr_step,  # below where it is linked to
        OFFSET + ARCH.image_size,  # beyond the mapping of the image
    ],
)
def test_a_base_that_kaslr_cannot_give_is_no_kernel(given: Isf, offset: int) -> None:
    assert locate(memory(offset=offset), ARCH, given) is None


def test_another_banner_is_another_kernel(given: Isf) -> None:
    assert locate(memory(BANNER.replace(b"#1", b"#2")), ARCH, given) is None


def test_a_banner_across_two_pieces_of_memory_is_found_but_not_across_a_hole(
    given: Isf, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = memory()
    cut = (FRAME + 2) * PAGE + 11  # within the banner

    def pieces(hole: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        whole = np.frombuffer(b"".join(image.read(pa, PAGE) for pa in range((FRAME + 2) * PAGE, cut, PAGE)), np.uint8)
        yield cut - 11, whole[:11]
        yield cut + hole, whole[11:]

    for hole, expected in ((0, True), (1, False)):
        monkeypatch.setattr(image, "scan", lambda size, hole=hole: pieces(hole))
        assert (locate(image, ARCH, given) is not None) is expected


@pytest.mark.parametrize(
    ("info", "proved"),
    [
        (f"KERNELOFFSET={MOVED:x}\nSYMBOL(_stext)={LINKED + MOVED:x}\n", True),
        (f"KERNELOFFSET={MOVED:x}\nSYMBOL(_stext)={LINKED:x}\n", False),
        (f"KERNELOFFSET={MOVED:x}\n", False),
        (f"SYMBOL(_stext)={LINKED + MOVED:x}\n", False),
    ],
)
def test_vmcoreinfo_moves_the_symbols_if_its_own_addresses_agree(given: Isf, info: str, proved: bool) -> None:
    symbols = symbols_by_vmcoreinfo(given, parse(info.encode(), ""), ARCH)
    assert (symbols is not None) is proved
    if symbols is not None:
        assert symbols.get("linux_banner") == BANNER_AT + MOVED


def test_the_banner_in_memory_is_the_file_s_to_the_byte(given: Isf) -> None:
    symbols = Symbols({"linux_banner": BANNER_AT + MOVED})
    run = [LinearPiece(LINKED + MOVED, LINKED + MOVED + 8 * PAGE - 1, FRAME * PAGE)]
    assert require_match(given, KernelSpace.linear(memory(), run), symbols, None) is None
    other = KernelSpace.linear(memory(BANNER.replace(b"#1", b"#2")), run)
    with pytest.raises(SymbolFileError, match="is of another kernel"):
        require_match(given, other, symbols, None)


@pytest.mark.parametrize("known", [{}, {"linux_banner": 0xFFFF_9000_0000_0000}])
def test_without_the_banner_the_release_decides(given: Isf, known: dict[str, int]) -> None:
    space = KernelSpace.linear(memory(), [])
    for info in (None, parse(b"OSRELEASE=6.6.1\n", "")):
        said = require_match(given, space, Symbols(known), info)
        assert said is not None
        assert "could not be checked" in said
    with pytest.raises(SymbolFileError, match=r"the image holds Linux 6\.6\.2"):
        require_match(given, space, Symbols(known), parse(b"OSRELEASE=6.6.2\n", ""))
