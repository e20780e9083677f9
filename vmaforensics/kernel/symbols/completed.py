"""Symbols that the image's own table lacks, out of what else there is.

A kernel without CONFIG_KALLSYMS_ALL lists functions alone, one without CONFIG_KALLSYMS nothing, and the table may be
damaged or not in the dump. Then variables are known by a symbol file, by VMCOREINFO and by the table of what the kernel
exports to modules; ``init_task`` also by its contents.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import KernelNotFoundError
from vmaforensics.kernel.symbols import kallsyms, symbol_file, window
from vmaforensics.kernel.symbols.exports import exported_symbols
from vmaforensics.kernel.symbols.vmcoreinfo import symbols_of

if TYPE_CHECKING:
    from vmaforensics.arch.interface import Architecture
    from vmaforensics.image.memory import PhysicalMemory
    from vmaforensics.kernel.kernel import Symbols
    from vmaforensics.kernel.locate import Located
    from vmaforensics.kernel.space.kernel_space import KernelSpace
    from vmaforensics.kernel.structures.layout import Types
    from vmaforensics.kernel.symbols.given import SymbolFile


def lists_functions_alone(table: Symbols, arch: Architecture) -> bool:
    """Is it the table of a kernel without CONFIG_KALLSYMS_ALL? Three variables that every kernel has are not in it."""
    return table.get("_stext") is not None and all(
        table.get(name) is None for name in ("init_task", "linux_banner", arch.base_symbol)
    )


def completed(
    memory: PhysicalMemory, arch: Architecture, located: Located, given: SymbolFile | None, problems: list[str]
) -> Located:
    """``located`` with the variables that its table of symbols lacks, if it lacks them all.

    ``given`` is a file of symbols; what is said of the rest is added to ``problems``. Raises
    :class:`SymbolFileError` if the file is another kernel's.
    """
    table = located.symbols
    if len(table) and not lists_functions_alone(table, arch):
        return located
    stext = _stext(located)
    if stext is None or not isinstance(table, kallsyms.Kallsyms):
        return located
    found: dict[str, list[int]] = {}  # static variables may share a name
    sources = []
    if given is not None:
        theirs = symbol_file.symbols_by_stext(given, stext, arch)
        symbol_file.require_same_places(given, theirs, table)
        found |= {name: theirs.find(name) for name, _ in theirs.items()}
        sources.append(f"symbol file {given.path.name}")
    if located.info is not None:
        stated = symbols_of(located.info)
        found = {name: [at] for name, at in stated.items()} | found
        sources += ["VMCOREINFO"] if stated else []
    exports = None if given is not None else exported_symbols(memory, stext - located.offset, located.offset)
    if exports is not None:
        found = {name: [at] for name, at in exports.addresses.items()} | found
        sources.append("the table of exported symbols")
    listed = {symbol.name for symbol in table.items()}
    new = [(name, at) for name, places in found.items() if name not in listed for at in places]
    if given is None:
        what = "kallsyms lists functions alone (no CONFIG_KALLSYMS_ALL)" if len(table) else "there is no kallsyms"
        problems.append(
            f"{what}: {len(new):,} symbols are those of {' and '.join(sources) or 'nothing else'}; what is reached "
            "only by a variable that is not among them is not assessed (System.map of this kernel has them: --symbols)"
        )
    source = " and ".join([*([located.symbols_source] if len(table) else []), *sources])
    return replace(located, symbols=table.plus(new), symbols_source=source if len(table) or exports else "")


def with_idle_task(text: KernelSpace, located: Located, types: Types, problems: list[str]) -> Symbols:
    """The symbols, with init_task by its contents if it has no name: everything begins there.

    Raises :class:`KernelNotFoundError` if it cannot be found so either, and nothing else is known.
    """
    table = located.symbols
    stext = _stext(located)
    if table.get("init_task") is not None or not stext or not isinstance(table, kallsyms.Kallsyms):
        return table
    found = _idle_task(text, stext, located.offset, types)
    if found is not None:
        if located.symbols_source:
            problems.append(
                "no symbol init_task is in the dump, or it is damaged; the task was recognised by its contents"
            )
        return table.plus([("init_task", found)])
    if not located.symbols_source:
        raise KernelNotFoundError(
            "the kernel's symbol table (kallsyms) is not in the dump, and init_task could not be recognised "
            "by its contents either; acquire the image again without filtering kernel pages"
        )
    return table


def _stext(located: Located) -> int | None:
    return located.symbols.get("_stext") or (located.info.symbol("_stext") if located.info else None)


def _idle_task(text: KernelSpace, stext: int, offset: int, types: Types) -> int | None:
    """Address of init_task by its contents, behind ``_stext``; ``offset`` is virtual minus physical address."""
    layout = types.struct("task_struct")
    if layout is None or not {"comm", "parent", "real_parent"} <= layout.fields.keys():
        return None
    comm, parent, real = (layout.fields[name].offset for name in ("comm", "parent", "real_parent"))
    for hit in window.find_all(window.read(text.memory, stext - offset, 128 << 20), b"swapper/0\0\0\0\0\0\0\0"):
        va = hit - comm + offset
        # The idle task is its own parent, so it says itself where it lies.
        words, ok = text.gather(np.array([va + parent, va + real], np.uint64), 8)
        if ok.all() and (words.view("<u8")[:, 0] == np.uint64(va)).all():
            return va
    return None
