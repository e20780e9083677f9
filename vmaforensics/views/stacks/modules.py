"""Where the code of modules lies, and their own symbols (kernel/module/kallsyms.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U32, U64, Bools
from vmaforensics.kernel.symbols.by_address import ByAddress

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_MOST_SYMBOLS = 1 << 18  # of one module
_NAME_LIMIT = 512  # KSYM_NAME_LEN since 6.1
_SHN_UNDEF = 0  # ELF: the symbol is another module's


@table(struct="mod_kallsyms")
class _SymbolTables(Table):
    """Where the symbols of a module lie."""

    symtab: U64 = member("symtab")  # Elf64_Sym[]
    num_symtab: U32 = member("num_symtab")
    strtab: U64 = member("strtab")


@table(struct="elf64_sym")
class _ElfSymbols(Table):
    """Symbols of a module, as the linker of modules left them: values are addresses."""

    st_name: U32 = member("st_name")  # from the start of strtab
    st_shndx: U32 = member("st_shndx")
    st_value: U64 = member("st_value")


class Part(NamedTuple):
    """A part of the code of each module; 0 where it has none."""

    start: U64
    end: U64  # behind the last byte


def module_text(kernel: Kernel, modules: U64) -> Part:
    """The code of the ``struct module`` at each address."""
    return _part(kernel, modules, "core_layout", "MOD_TEXT")


def module_init_text(kernel: Kernel, modules: U64) -> Part:
    """The code that runs only while a module is loaded; none when it was given back."""
    return _part(kernel, modules, "init_layout", "MOD_INIT_TEXT")


def module_memory(kernel: Kernel, modules: U64) -> list[Part]:
    """Every part of the memory of each module, its data too: one for each place of ``mem[]``, or core and init."""
    if kernel.has("module", "mem"):
        return [_memory(kernel, modules, place) for place in range(kernel.member("module", "mem").count or 1)]
    found = []
    for layout in ("core_layout", "init_layout"):
        start, ok = kernel.gather_member("module", f"{layout}.base?", modules)
        size, ok_size = kernel.gather_member("module", f"{layout}.size?", modules)
        found.append(_believed(kernel, start, size, ok & ok_size))
    return found


def _part(kernel: Kernel, modules: U64, layout: str, kind: str) -> Part:
    """A part of each module.

    Up to 6.3 a module has two ``module_layout``, then an array of ``module_memory`` by kind (ac3b43283923).
    """
    if kernel.has("module", "mem"):
        return _memory(kernel, modules, kernel.types.constant(kind) or 0)
    start, ok = kernel.gather_member("module", f"{layout}.base?", modules)
    size, ok_size = kernel.gather_member("module", f"{layout}.text_size?", modules)
    return _believed(kernel, start, size, ok & ok_size)


def _memory(kernel: Kernel, modules: U64, place: int) -> Part:
    """One place of the array ``mem`` of each module."""
    with np.errstate(over="ignore"):
        at = modules + np.uint64(kernel.offset("module", "mem") + place * kernel.sizeof("module_memory"))
    start, ok = kernel.gather_member("module_memory", "base", at)
    size, ok_size = kernel.gather_member("module_memory", "size", at)
    return _believed(kernel, start, size, ok & ok_size)


def _believed(kernel: Kernel, start: U64, size: U64, ok: Bools) -> Part:
    """Parts that can be some; 0 for the others."""
    known = ok & (start != 0) & (size != 0) & kernel.arch.kernel_pointer(start)
    with np.errstate(over="ignore"):
        end = start + size
    known &= end > start
    return Part(np.where(known, start, np.uint64(0)), np.where(known, end, np.uint64(0)))


def module_symbols(kernel: Kernel, module: int) -> ByAddress:
    """The symbols of the ``struct module`` at that address, in the order of theirs; none if they cannot be read."""
    none = ByAddress(np.zeros(0, np.uint64), lambda _: "")
    if not kernel.has("module", "kallsyms"):
        return none
    at, ok = kernel.gather_member("module", "kallsyms", np.array([module], np.uint64))
    tables, ok_tables = kernel.gather(_SymbolTables, at)
    if not (ok & ok_tables).all():
        return none
    count = min(int(tables.num_symtab[0]), _MOST_SYMBOLS)
    size = kernel.sizeof("elf64_sym")
    with np.errstate(over="ignore"):
        places = tables.symtab[0] + np.arange(count, dtype=np.uint64) * np.uint64(size)
    symbols, readable = kernel.gather(_ElfSymbols, places)
    symbols = symbols.take(readable & (symbols.st_shndx != _SHN_UNDEF) & (symbols.st_name != 0))
    strtab = tables.strtab[0]

    def name(place: int) -> str:
        with np.errstate(over="ignore"):
            at = (strtab + symbols.st_name[place : place + 1].astype(np.uint64)).astype(np.uint64)
        text = kernel.strings(at, _NAME_LIMIT)[0]
        return "" if text is None else text.decode("utf-8", "backslashreplace")

    return ByAddress(symbols.st_value, name)
