"""Where the kernel image lies in physical memory, and its symbols: VMCOREINFO, kallsyms, a symbol file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import KernelNotFoundError
from vmaforensics.image.formats.raw import RawMemory
from vmaforensics.image.formats.segments import PHYSICAL_LIMIT
from vmaforensics.kernel.nothing import nothing_found
from vmaforensics.kernel.place import place_of, tables_at
from vmaforensics.kernel.space.kernel_space import WORD
from vmaforensics.kernel.survey import BANNER, Survey
from vmaforensics.kernel.symbols import kallsyms, symbol_file, vmcoreinfo, window
from vmaforensics.kernel.symbols.kallsyms_tables import BASE_LOST

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet

    from vmaforensics.arch.interface import Architecture
    from vmaforensics.image.image import Image
    from vmaforensics.image.memory import PhysicalMemory
    from vmaforensics.kernel.kernel import Symbols
    from vmaforensics.kernel.place import Place
    from vmaforensics.kernel.symbols.given import SymbolFile
    from vmaforensics.kernel.symbols.kallsyms_tables import Tables
    from vmaforensics.kernel.symbols.vmcoreinfo import Vmcoreinfo

_NOTE = "note of"
_NO_INFO = "VMCOREINFO is neither in the container nor in memory; the kernel was located by its symbol table"
_UTS = 64  # bytes of a uts_namespace within which its first name begins
# Places at which kernels may begin that are searched for symbols, of those that VMCOREINFO names
_MOST_TEXTS, _MOST_UNLIKELY = 16, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """Where the kernel image lies, and its symbols."""

    offset: int  # virtual minus physical address of the kernel image
    symbols: Symbols
    symbols_source: str
    info: Vmcoreinfo | None
    place: Place | None = None  # where the next run may look first


def locate(
    image: Image,
    arch: Architecture,
    given: SymbolFile | None,
    problems: list[str],
    passed: AbstractSet[int] = frozenset(),
    before: Place | None = None,
    survey: Survey | None = None,
) -> Located:
    """Find the kernel image, by whatever of VMCOREINFO, kallsyms and the symbol file ``given`` there is.

    Kernels whose ``offset`` is in ``passed`` are passed by. What is missing and was made up for is added to
    ``problems``. ``before`` is where an earlier run found it: what is still there is not searched for. ``survey`` is
    what is known of the memory by now. Raises :class:`KernelNotFoundError`.
    """
    memory = image.memory
    survey = survey or Survey(memory)
    if before is not None and (again := _as_before(image, arch, before, problems)) is not None:
        return again
    fallback: Located | None = None
    unproved: tuple[Located, window.Window, Tables] | None = None
    infos: list[Vmcoreinfo] = []
    searched: dict[int, tuple[window.Window, Tables] | None] = {}  # by the physical address of a kernel's text
    for info in _infos(image, survey):
        infos.append(info)
        offset, stext = arch.image_offset(info.number), info.symbol("_stext")
        if offset is None or stext is None or offset in passed:
            continue
        found = searched.get(stext - offset)
        if stext - offset not in searched:
            likely = names_fit(memory, info, offset) is not False
            if len(searched) < (_MOST_TEXTS if likely else _MOST_UNLIKELY):
                found = searched[stext - offset] = window.symbols_from(memory, stext - offset, arch)
        here = None if found is None else _by_info(memory, info, offset, stext, *found)
        if here is not None and found is not None:
            fits = _fits(memory, here.symbols, info, offset)
            if fits:
                return _taken(image, here, *found, problems)
            if fits is None and unproved is None:
                unproved = here, *found
        # The container's note is that of the kernel dumped; a text found in memory may be a stale one.
        if fallback is None and (
            image.vmcoreinfo or names_fit(memory, info, offset) or _readable(memory, stext - offset)
        ):
            empty = kallsyms.Kallsyms.of({})
            fallback = Located(offset=offset, symbols=empty, symbols_source="", info=info)
    if given is not None and fallback is not None and fallback.info is not None:
        by_info = symbol_file.symbols_by_vmcoreinfo(given, fallback.info, arch)
        if by_info is not None:
            problems.append("the kernel's symbol table (kallsyms) is damaged or not in the dump")
            source = f"symbol file {given.path.name}, {len(by_info)} symbols"
            return Located(offset=fallback.offset, symbols=by_info, symbols_source=source, info=fallback.info)
    for view, tables in survey.tables(arch):
        if isinstance(memory, RawMemory) and (shift := _shift(memory, arch, view, tables, infos)):
            memory.move(memory.shift + shift)
            return locate(image, arch, given, problems, passed, survey=survey)
        here = _by_tables(memory, arch, view, tables)
        if here is not None and here.offset not in passed:
            window.touch_tables(memory, view, tables)
            if fallback is None or fallback.info is None:
                problems.append(_NO_INFO)
                return here if infos else replace(here, place=place_of(memory, view, tables, None))
            problems.append(
                f"VMCOREINFO ({fallback.info.source}) does not fit the kernel in the image, and is not heeded; "
                "the kernel was located by its symbol table"
            )
            return here
    if unproved is not None:
        return replace(_taken(image, *unproved, problems), place=None)
    if isinstance(memory, RawMemory) and not memory.shift and memory.file_size % memory.page_size:
        # Ranges of RAM one behind the other: only the last one is known to end with a page.
        memory.move(-(memory.file_size % memory.page_size))
        return locate(image, arch, given, problems, passed)
    by_banner = None if given is None else symbol_file.locate(memory, arch, given)
    if given is not None and by_banner is not None and by_banner[1] not in passed:
        problems.append("neither VMCOREINFO nor a symbol table is in the image; the kernel was located by its banner")
        source = f"symbol file {given.path.name}, {len(by_banner[0])} symbols"
        return Located(offset=by_banner[1], symbols=by_banner[0], symbols_source=source, info=None)
    if fallback is not None:
        problems.append(
            "the kernel's symbol table (kallsyms) is damaged or not in the dump; only what VMCOREINFO names "
            "and what can be recognised by its contents is known"
        )
        return fallback
    raise KernelNotFoundError(nothing_found(image, arch, _infos(image, survey), survey.banner()))


def locate_by(image: Image, arch: Architecture, info: Vmcoreinfo, offset: int) -> Located | None:
    """The kernel that VMCOREINFO in memory leads to, whose image lies ``offset`` below its addresses, if what lies
    there says so itself."""
    memory = image.memory
    stext = info.symbol("_stext")
    if stext is None:
        return None
    found = window.symbols_from(memory, stext - offset, arch)
    here = None if found is None else _by_info(memory, info, offset, stext, *found)
    return here if here is not None and _fits(memory, here.symbols, info, offset) else None


def _as_before(image: Image, arch: Architecture, before: Place, problems: list[str]) -> Located | None:
    """The kernel where an earlier run found it; None if it is not there, or cannot be proved as it was then."""
    memory = image.memory
    if isinstance(memory, RawMemory) and before.shift:
        memory.move(before.shift)
    found = tables_at(memory, arch, before)
    info = _of_note(image) if before.info is None else vmcoreinfo.read_at(memory, before.info)
    here: Located | None = None
    if found is not None and info is not None:
        offset, stext = arch.image_offset(info.number), info.symbol("_stext")
        by_info = None if offset is None or stext is None else _by_info(memory, info, offset, stext, *found)
        if by_info is not None and _fits(memory, by_info.symbols, info, by_info.offset):
            here = _taken(image, by_info, *found, problems)
    elif found is not None and before.info is None:
        by_tables = _by_tables(memory, arch, *found)
        if by_tables is not None:
            window.touch_tables(memory, *found)
            problems.append(_NO_INFO)
            here = replace(by_tables, place=before)
    if here is None and isinstance(memory, RawMemory) and before.shift:
        memory.move(0)
    return here


def _by_info(
    memory: PhysicalMemory, info: Vmcoreinfo, offset: int, stext: int, view: window.Window, tables: Tables
) -> Located | None:
    """The kernel with these symbol tables, whose image lies ``offset`` below its addresses by VMCOREINFO; None if they
    are another kernel's."""
    symbols = kallsyms.decode(view.data, tables, view.pa + offset, view.held, view.page_size)
    if tables.relative_base == BASE_LOST and (from_base := symbols.get("_stext")) is not None:
        tables = replace(tables, relative_base=(stext - from_base) % WORD)
        symbols = kallsyms.decode(view.data, tables, view.pa + offset, view.held, view.page_size)
    if symbols.get("_stext") not in (stext, None) or not len(symbols):
        return None
    source = f"kallsyms at physical {view.pa + tables.token_table:#x}, {len(symbols)} symbols"
    place = place_of(memory, view, tables, info)
    return Located(offset=offset, symbols=symbols, symbols_source=source, info=info, place=place)


def _by_tables(memory: PhysicalMemory, arch: Architecture, view: window.Window, tables: Tables) -> Located | None:
    """The kernel with these symbol tables, if it says itself that they lie there."""
    proved = _prove(memory, arch, view, tables)
    if proved is None:
        return None
    symbols, offset = proved
    source = f"kallsyms at physical {view.pa + tables.token_table:#x}, {len(symbols)} symbols"
    return Located(offset=offset, symbols=symbols, symbols_source=source, info=None)


def _infos(image: Image, survey: Survey) -> Iterator[Vmcoreinfo]:
    if (note := _of_note(image)) is not None:
        yield note
    yield from survey.infos()


def _of_note(image: Image) -> Vmcoreinfo | None:
    if image.vmcoreinfo is None:
        return None
    return vmcoreinfo.parse(image.vmcoreinfo, f"{_NOTE} the {image.format} image")


def _taken(image: Image, here: Located, view: window.Window, tables: Tables, problems: list[str]) -> Located:
    """``here``, by VMCOREINFO and the symbol tables in ``view``, with what is to be said of them."""
    window.touch_tables(image.memory, view, tables)
    assert here.info is not None
    if image.vmcoreinfo is not None and not here.info.source.startswith(_NOTE):
        problems.append(f"VMCOREINFO in the {image.format} image does not fit the kernel in memory, whose own was used")
    lost = here.symbols.lost if isinstance(here.symbols, kallsyms.Kallsyms) else 0
    if lost:
        problems.append(f"{lost} of {tables.count} kernel symbols lie on pages that are not in the dump")
    return here


def _fits(memory: PhysicalMemory, symbols: Symbols, info: Vmcoreinfo, offset: int) -> bool | None:
    """Whether the banner lies where it has to if the image is ``offset`` above its physical place; None if that page is
    not held. VMCOREINFO may be another kernel's, or made up by what wrote the dump.

    Where kallsyms does not list the banner, the names that VMCOREINFO says ``init_uts_ns`` has do as well. Where they
    are there and the banner is not, that page may have been damaged.
    """
    if symbols.get("_stext") is None:
        return None
    banner = symbols.get("linux_banner")
    if banner is None:
        return names_fit(memory, info, offset)
    found = _lies(memory, banner - offset, len(BANNER), BANNER)
    return None if found is False and names_fit(memory, info, offset) else found


def names_fit(memory: PhysicalMemory, info: Vmcoreinfo, offset: int) -> bool | None:
    """Whether the kernel's names lie where VMCOREINFO says, as in :func:`_fits`."""
    names = info.symbol("init_uts_ns")
    return None if names is None else _lies(memory, names - offset, _UTS, b"Linux\0")


def _lies(memory: PhysicalMemory, pa: int, size: int, text: bytes) -> bool | None:
    """Whether ``text`` lies in the ``size`` bytes from ``pa`` on; None if they are not held."""
    data, ok = memory.gather(np.array([pa % WORD], np.uint64), size)
    return text in data[0].tobytes() if ok[0] else None


def _readable(memory: PhysicalMemory, pa: int) -> bool:
    with memory.untraced():
        return bool(memory.gather(np.array([pa % WORD], np.uint64), 8)[1][0])


def _prove(
    memory: PhysicalMemory, arch: Architecture, view: window.Window, tables: Tables
) -> tuple[kallsyms.Kallsyms, int] | None:
    """(symbols, offset of the image) if the kernel's own ``arch.base_symbol`` confirms where the tables lie.

    A copy that the decompressor left, which was never relocated, fails this.
    """
    symbols = kallsyms.decode(view.data, tables, view.pa, view.held, view.page_size)
    if tables.relative_base is None:
        # Decoded from a physical place, the addresses are physical so far.
        at = symbols.get(arch.base_symbol)
        stored = None if at is None else _word(memory, at)
        if stored is None or symbols.get("linux_banner") is None:
            return None
        banner = memory.gather(np.array([symbols.get("linux_banner")], np.uint64), len(BANNER))
        if banner[0].tobytes() != BANNER:
            return None
        offset = arch.image_offset_of(stored)
        text = symbols.get("_text")
        if text is not None and (text + offset) % arch.kaslr_step:
            return None  # it does not lie where it says
        return symbols.shifted(offset), offset
    banner_va, base_va = symbols.get("linux_banner"), symbols.get(arch.base_symbol)
    if banner_va is None or base_va is None or tables.relative_base == BASE_LOST:
        return None
    around = window.read(memory, max(view.pa + tables.token_table - (64 << 20), 0), 128 << 20)
    for hit in window.find_all(around, BANNER):
        offset = banner_va - hit
        stored = _word(memory, base_va - offset)
        if stored is not None and arch.image_offset_of(stored) == offset:
            symbols.place += offset
            return symbols, offset
    return None


def _shift(
    memory: PhysicalMemory, arch: Architecture, view: window.Window, tables: Tables, infos: list[Vmcoreinfo]
) -> int:
    """By how many bytes the kernel image lies below where it says that it lies; 0 if it does not say.

    VMCOREINFO in memory (all that was found: ``infos``) and ``arch.base_symbol`` in the image have to agree on that.
    """
    symbols = kallsyms.decode(view.data, tables, view.pa, view.held, view.page_size)
    text, base = symbols.get("_stext"), symbols.get(arch.base_symbol)
    if text is None or base is None:
        return 0
    around = window.read(memory, max(view.pa + tables.token_table - (64 << 20), 0), 128 << 20)
    for info in infos:
        offset, stext = arch.image_offset(info.number), info.symbol("_stext")
        if offset is None or stext is None:
            continue
        if tables.relative_base is None:
            offsets = [stext - text]
        elif text == stext and (banner := symbols.get("linux_banner")) is not None:
            offsets = [banner - hit for hit in window.find_all(around, BANNER)]
        else:
            continue
        for here in offsets:
            at = base if tables.relative_base is None else base - here
            stored = _word(memory, at)
            if stored is not None and here != offset and arch.image_offset_of(stored) == offset:
                return here - offset
    return 0


def _word(memory: PhysicalMemory, pa: int) -> int | None:
    if not 0 <= pa < PHYSICAL_LIMIT:
        return None
    data, ok = memory.gather(np.array([pa], np.uint64), 8)
    return int(data.view("<u8")[0, 0]) if ok[0] else None
