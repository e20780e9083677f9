"""A symbol file (ISF) from outside: proving that it is this kernel's, and finding a kernel by it alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import SymbolFileError
from vmaforensics.kernel.space.kernel_space import WORD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.arch.interface import Architecture
    from vmaforensics.image.memory import PhysicalMemory
    from vmaforensics.kernel.kernel import Symbols
    from vmaforensics.kernel.space.kernel_space import KernelSpace
    from vmaforensics.kernel.symbols.isf import Isf, IsfSymbols
    from vmaforensics.kernel.symbols.vmcoreinfo import Vmcoreinfo


def require_match(given: Isf, text: KernelSpace, symbols: Symbols, info: Vmcoreinfo | None) -> str | None:
    """Compare the banner in memory with the file's, to the byte: no two builds of a kernel share one.

    Returns what could not be compared, if so. Raises :class:`SymbolFileError` when the file is another kernel's.
    """
    theirs = _line(given.banner)
    release = info.release if info else ""
    at = symbols.get("linux_banner")
    if at is not None:
        data, ok = text.gather(np.array([at], np.uint64), len(given.banner) + 1)
        if ok[0]:
            if data.tobytes() != given.banner + b"\0":
                raise _mismatch(given, f"'{_line(data.tobytes())}'")
            return None
    if release and theirs.split()[2:3] != [release]:
        raise _mismatch(given, f"Linux {release}")
    return f"the kernel's banner is not in the dump: that {given.path.name} is of this very build could not be checked"


def _mismatch(given: Isf, found: str) -> SymbolFileError:
    return SymbolFileError(
        f"{given.path} is of another kernel: it says '{_line(given.banner)}', the image holds {found}; "
        "give the symbol file of that very build"
    )


def _line(banner: bytes) -> str:
    return banner.split(b"\n", 1)[0].split(b"\0", 1)[0].decode("ascii", "replace")


def symbols_by_vmcoreinfo(given: Isf, info: Vmcoreinfo, arch: Architecture) -> IsfSymbols | None:
    """The symbols moved as VMCOREINFO says; None if it does not say, or if its own addresses contradict them."""
    moved, stext, linked = info.plain("KERNELOFFSET"), info.symbol("_stext"), given.address("_stext")
    if moved is None or stext is None or linked is None or linked + moved != stext:
        return None
    return given.symbols(moved, arch.image_start)


def locate(memory: PhysicalMemory, arch: Architecture, given: Isf) -> tuple[IsfSymbols, int] | None:
    """(symbols, virtual minus physical address of the image) of the kernel whose banner is the file's, wherever it
    lies; None if there is none.

    From the banner's place follows where ``arch.base_symbol`` lies, and from its value how far the kernel was moved:
    a distance that KASLR can give.
    """
    banner, base = given.address("linux_banner"), given.address(arch.base_symbol)
    if banner is None or base is None:
        return None
    for hit in _occurrences(memory, given.banner + b"\0"):
        as_linked = banner - hit  # virtual address as linked, minus physical address
        data, ok = memory.gather(np.array([(base - as_linked) % WORD], np.uint64), 8)
        offset = arch.image_offset_of(int(data.view("<u8")[0, 0]))
        moved = offset - as_linked
        if ok[0] and 0 <= moved < arch.image_size and moved % arch.kaslr_step == 0:
            return given.symbols(moved, arch.image_start), offset
    return None


def _occurrences(memory: PhysicalMemory, pattern: bytes) -> Iterator[int]:
    """Physical addresses of ``pattern``, ascending."""
    before, follows = b"", 0
    for pa, chunk in memory.scan(64 << 20):
        if pa != follows:
            before = b""
        raw = before + chunk.tobytes()
        at = raw.find(pattern)
        while at >= 0:
            yield pa - len(before) + at
            at = raw.find(pattern, at + 1)
        before, follows = raw[-len(pattern) + 1 :], pa + len(chunk)
