"""A symbol file from outside: proving that it is this kernel's, and finding a kernel by it alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import SymbolFileError
from vmaforensics.kernel import identify
from vmaforensics.kernel.space.kernel_space import WORD
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.arch.interface import Architecture
    from vmaforensics.image.memory import PhysicalMemory
    from vmaforensics.kernel.kernel import Kernel, Symbols
    from vmaforensics.kernel.space.kernel_space import KernelSpace
    from vmaforensics.kernel.symbols.by_name import NamedSymbols
    from vmaforensics.kernel.symbols.given import SymbolFile
    from vmaforensics.kernel.symbols.kallsyms import Kallsyms
    from vmaforensics.kernel.symbols.vmcoreinfo import Vmcoreinfo

_BANNER = b"Linux version "
_IDLE = (b"swapper", b"swapper/0")  # init_task's name as it is compiled in, and as idle_init gives it
_SAME = 0.9  # of the symbols: names of a damaged table may be wrong


def require_match(given: SymbolFile, text: KernelSpace, symbols: Symbols, info: Vmcoreinfo | None) -> str | None:
    """Compare the banner in memory with the file's, to the byte: no two builds of a kernel share one. A file without a
    banner is compared by its build id; one that has neither is proved by what it says.

    Returns what could not be compared, if so. Raises :class:`SymbolFileError` when the file is another kernel's.
    """
    if given.banner is None:
        own = identify.build_id(text, symbols, info)
        if given.build_id is not None and own is not None and given.build_id != own:
            raise SymbolFileError(
                f"{given.path} is of another kernel: its build id is {given.build_id}, the image's kernel has {own}; "
                "give the file of that very build"
            )
        return None
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


def require_same_places(given: SymbolFile, theirs: NamedSymbols, own: Kallsyms) -> None:
    """The functions that both the file (``theirs``, moved) and kallsyms (``own``) list lie at the same addresses.

    Raises :class:`SymbolFileError` when the file is another kernel's.
    """
    pairs = [(at, found) for symbol in own.items() if (found := theirs.find(symbol.name)) for at in [symbol.address]]
    same = sum(at in found for at, found in pairs)
    if same < len(pairs) * _SAME:
        raise SymbolFileError(
            f"{given.path} is of another kernel: of {len(pairs):,} symbols that the image has too, {same:,} lie where "
            "it says; give the file of that very build"
        )


def require_fitting_types(given: SymbolFile, kernel: Kernel) -> None:
    """The idle task is what the types say that it is: its name and its place in the list of tasks.

    Raises :class:`SymbolFileError` when they are another kernel's. What is not in the dump is not compared.
    """
    start = kernel.symbols.get("init_task")
    wanted = [("task_struct", path) for path in ("comm", "tasks.next", "tasks.prev")]
    if start is None or not all(kernel.has(struct, path) for struct, path in wanted):
        return
    comm, following, previous = (kernel.offset(struct, path) for struct, path in wanted)
    words, ok = kernel.space.gather(np.array([start + comm], np.uint64), 16)
    found = words[0].tobytes().split(b"\0", 1)[0]
    if ok[0] and found not in _IDLE:
        raise _unfit(given, f"a task's name, which init_task would have as {found.decode('ascii', 'replace')!r}")
    link = start + following
    around = kernel.words(np.array([link, start + previous], np.uint64), 1)[0][:, 0]
    back, held = kernel.words(around + np.array([previous - following, 0], np.uint64), 1)
    if held.all() and (back[:, 0] != np.uint64(link)).all():
        raise _unfit(given, "the list of tasks, which would lead nowhere from init_task")


def _unfit(given: SymbolFile, what: str) -> SymbolFileError:
    return SymbolFileError(
        f"{given.path} is of another kernel: its types do not fit {printable(what)}; give that of the very build"
    )


def _mismatch(given: SymbolFile, found: str) -> SymbolFileError:
    return SymbolFileError(
        f"{given.path} is of another kernel: it says '{_line(given.banner or b'')}', the image holds {found}; "
        "give the symbol file of that very build"
    )


def _line(banner: bytes) -> str:
    return banner.split(b"\n", 1)[0].split(b"\0", 1)[0].decode("ascii", "backslashreplace")


def symbols_by_stext(given: SymbolFile, stext: int, arch: Architecture) -> NamedSymbols:
    """The symbols moved as ``_stext`` is. Raises :class:`SymbolFileError` if KASLR cannot have moved it so."""
    linked = given.address("_stext") or 0
    moved = stext - linked
    if not 0 <= moved < arch.image_size or moved % arch.kaslr_step:
        raise SymbolFileError(
            f"{given.path} is of another kernel: its _stext was linked to {linked:#x}, and the image's lies at "
            f"{stext:#x}, where nothing moves it; give the file of that very build"
        )
    return given.symbols(moved, arch.image_start)


def symbols_by_vmcoreinfo(given: SymbolFile, info: Vmcoreinfo, arch: Architecture) -> NamedSymbols | None:
    """The symbols moved as VMCOREINFO says; None if it does not say, or if its own addresses contradict them."""
    moved, stext, linked = info.plain("KERNELOFFSET"), info.symbol("_stext"), given.address("_stext")
    if moved is None or stext is None or linked is None or linked + moved != stext:
        return None
    return given.symbols(moved, arch.image_start)


def locate(memory: PhysicalMemory, arch: Architecture, given: SymbolFile) -> tuple[NamedSymbols, int] | None:
    """(symbols, virtual minus physical address of the image) of the kernel whose banner is the file's, wherever it
    lies; None if there is none. Of a file without a banner, any kernel's that the rest fits.

    From the banner's place follows where ``arch.base_symbol`` lies, and from its value how far the kernel was moved:
    a distance that KASLR can give.
    """
    banner, base = given.address("linux_banner"), given.address(arch.base_symbol)
    if banner is None or base is None:
        return None
    for hit in _occurrences(memory, _BANNER if given.banner is None else given.banner + b"\0"):
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
