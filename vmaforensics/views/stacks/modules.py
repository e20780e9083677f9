"""Loaded modules: where their code lies, and their own symbols (kernel/module/kallsyms.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U32, U64, Bools, U8Wide
from vmaforensics.kernel.symbols.by_address import ByAddress
from vmaforensics.views.structures.circular_lists import follow_list

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_MOST = 1 << 14  # modules
_MOST_SYMBOLS = 1 << 18  # of one module
_NAME_LIMIT = 512  # KSYM_NAME_LEN since 6.1
_SHN_UNDEF = 0  # ELF: the symbol is another module's


@table(struct="module")
class Modules(Table):
    """Loaded modules in the order of the list ``modules``, the youngest first: a row is a ``struct module``."""

    module: U64  # address of the struct module
    name: U8Wide = member("name")  # NULs behind the text; see :func:`module_name`
    text: U64  # first address of its code, 0 if it was not found
    text_end: U64  # behind its code
    init: U64  # first address of the code that runs only while it is loaded; 0 when that was given back
    init_end: U64
    ok: Bools  # False: the struct module is not in the dump


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


def read_modules(kernel: Kernel) -> Modules:
    """The modules of the kernel's list; none for a kernel without."""
    head = kernel.symbols.get("modules")
    if head is None or not kernel.has("module", "list.next"):
        return Modules.zeros(0)
    nodes, _ = follow_list(kernel, head, _MOST)
    addresses = nodes - np.uint64(kernel.offset("module", "list"))
    rows, ok = kernel.gather(Modules, addresses)
    rows.module[:], rows.ok[:] = addresses, ok
    rows.text[:], rows.text_end[:] = _code(kernel, addresses, "core_layout", "MOD_TEXT")
    rows.init[:], rows.init_end[:] = _code(kernel, addresses, "init_layout", "MOD_INIT_TEXT")
    return rows


def module_name(modules: Modules, row: int) -> bytes:
    """Name of a module; whatever bytes the image has there."""
    name: bytes = modules.name[row].tobytes()
    return name.split(b"\0", 1)[0]


def _code(kernel: Kernel, modules: U64, layout: str, kind: str) -> tuple[U64, U64]:
    """(first address, address behind) of a part of each module's code; 0 where it has none.

    Up to 6.3 a module has two ``module_layout``, then an array of ``module_memory`` by kind (ac3b43283923).
    """
    if kernel.has("module", "mem"):
        place = kernel.types.constant(kind) or 0
        with np.errstate(over="ignore"):
            at = modules + np.uint64(kernel.offset("module", "mem") + place * kernel.sizeof("module_memory"))
        start, ok = kernel.gather_member("module_memory", "base", at)
        size, ok_size = kernel.gather_member("module_memory", "size", at)
    else:
        start, ok = kernel.gather_member("module", f"{layout}.base?", modules)
        size, ok_size = kernel.gather_member("module", f"{layout}.text_size?", modules)
    known = ok & ok_size & (start != 0) & (size != 0) & kernel.arch.kernel_pointer(start)
    with np.errstate(over="ignore"):
        end = start + size
    known &= end > start
    return np.where(known, start, np.uint64(0)), np.where(known, end, np.uint64(0))


def module_symbols(kernel: Kernel, modules: Modules, row: int) -> ByAddress:
    """The symbols of one module in the order of addresses; none if they cannot be read."""
    none = ByAddress(np.zeros(0, np.uint64), lambda _: "")
    if not kernel.has("module", "kallsyms") or not modules.ok[row]:
        return none
    at, ok = kernel.gather_member("module", "kallsyms", modules.module[row : row + 1])
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
