"""Finding the kernel in an image, from the image alone: VMCOREINFO → kallsyms → BTF → page tables.

Every step is checked against the next, and each has a second way when the first is missing:

=================  =================================  =====================================================
what               first                              otherwise
=================  =================================  =====================================================
where it lies      VMCOREINFO, from a note or a scan  kallsyms tables anywhere, proved by ``phys_base``
symbols            kallsyms                           init_task by its name, roots by VMCOREINFO
types              BTF between its symbols            any whole copy of a BTF blob
the three above    the image                          a symbol file that was given, if it is this kernel's
translation        the kernel's page tables           the linear mappings, then some process's page tables
=================  =================================  =====================================================
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.errors import KernelNotFoundError, MemoryReadError
from vmaforensics.kernel import identify
from vmaforensics.kernel.kernel import Identity, Kernel, Symbols
from vmaforensics.kernel.space import paging
from vmaforensics.kernel.space.kernel_space import KernelSpace
from vmaforensics.kernel.space.translation import kernel_space, translate_through_a_process
from vmaforensics.kernel.structures import btf
from vmaforensics.kernel.symbols import kallsyms, symbol_file, vmcoreinfo, window
from vmaforensics.kernel.symbols.isf import Isf
from vmaforensics.kernel.symbols.window import IMAGE_SIZE, START_KERNEL_MAP, WORD
from vmaforensics.progress import unheard

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from vmaforensics.image.image import Image
    from vmaforensics.image.memory import PhysicalMemory
    from vmaforensics.kernel.structures.layout import Types
    from vmaforensics.kernel.symbols.vmcoreinfo import Vmcoreinfo
    from vmaforensics.progress import Progress

log = logging.getLogger(__name__)

_BTF_LIMIT = 64 << 20
_BANNER = b"Linux version "
# What only the second ways read. It is traced all the same: an excerpt stays as robust as its image.
_SPARE = ("phys_base", "page_offset_base", "linux_banner")


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """Where the kernel image lies, and its symbols."""

    phys_base: int  # physical = virtual - START_KERNEL_MAP + phys_base, signed
    symbols: Symbols
    symbols_source: str
    info: Vmcoreinfo | None


def find_kernel(image: Image, progress: Progress = unheard, symbols: str | os.PathLike[str] | None = None) -> Kernel:
    """Find and understand the kernel of ``image``.

    ``symbols`` is a symbol file (ISF) that stands in for symbols and types the image lacks; by default, the one
    that was given with the image. Raises :class:`SymbolFileError` when it cannot be read or is another kernel's.
    Raises :class:`KernelNotFoundError` with one sentence when there is none, or when its symbols or types
    are in no way to be had. What was missing but could be made up for is in ``identity.problems``.
    """
    memory = image.memory
    progress("kernel")
    memory.watch = partial(progress, "kernel")
    problems: list[str] = []
    given_path = symbols or image.symbols
    given = None if given_path is None else Isf(given_path)
    located = _locate(image, given, problems)
    base = located.phys_base
    text = KernelSpace.linear(memory, [(START_KERNEL_MAP, START_KERNEL_MAP + IMAGE_SIZE - 1, base % WORD)])
    if given is not None:
        doubt = symbol_file.require_match(given, text, located.symbols, located.info)
        problems += [] if doubt is None else [doubt]
    types, types_source = _types(memory, text, located, given, problems)
    table = located.symbols
    if not len(table):
        table = _symbols_by_name(text, located, types, problems)
    banner = identify.banner(text, table, located.info)
    mask = paging.ADDRESS_MASK & ~((located.info.number("sme_mask") or 0) if located.info else 0)
    space, levels, translation, root = kernel_space(image, text, table, base, located.info, mask, problems)
    release = located.info.release if located.info else ""
    kernel = Kernel(
        memory=memory,
        space=space,
        symbols=table,
        types=types,
        vmcoreinfo=located.info,
        pte_mask=mask,
        root=root,
        identity=Identity(
            release=release or identify.release(banner),
            banner=banner,
            build_id=identify.build_id(text, table, located.info),
            levels=levels,
            pti=identify.pti(memory, root),
            kaslr_offset=identify.kaslr(table, located.info),
            phys_base=base,
            vmcoreinfo_source=located.info.source if located.info else None,
            symbols_source=located.symbols_source,
            types_source=types_source,
            translation_source=translation,
            problems=problems,
        ),
    )
    if root is None:
        translate_through_a_process(kernel, levels, mask)
    for name in _SPARE:
        at = table.get(name)
        if at is not None:
            memory.touch((at - START_KERNEL_MAP + base) % WORD, 8)
    return kernel


# Where it lies, and its symbols -------------------------------------------------------------------


def _locate(image: Image, given: Isf | None, problems: list[str]) -> Located:
    memory = image.memory
    fallback: Located | None = None
    for info in _infos(image):
        base, stext = info.number("phys_base"), info.symbol("_stext")
        if base is None or stext is None:
            continue
        found = window.symbols_from(memory, stext - START_KERNEL_MAP + base)
        if found is not None:
            view, tables = found
            symbols = kallsyms.decode(view.data, tables, view.pa - base + START_KERNEL_MAP, view.held)
            if symbols.get("_stext") in (stext, None) and len(symbols):
                window.touch_tables(memory, view, tables)
                if symbols.lost:
                    problems.append(
                        f"{symbols.lost} of {tables.count} kernel symbols lie on pages that are not in the dump"
                    )
                source = f"kallsyms at physical {view.pa + tables.token_table:#x}, {len(symbols)} symbols"
                return Located(phys_base=base, symbols=symbols, symbols_source=source, info=info)
        # The container's note is that of the kernel dumped; a text found in memory may be a stale one.
        if fallback is None and (image.vmcoreinfo or _readable(memory, stext - START_KERNEL_MAP + base)):
            empty = kallsyms.Kallsyms.of({})
            fallback = Located(phys_base=base, symbols=empty, symbols_source="", info=info)
    if given is not None and fallback is not None and fallback.info is not None:
        by_info = symbol_file.symbols_by_vmcoreinfo(given, fallback.info)
        if by_info is not None:
            problems.append("the kernel's symbol table (kallsyms) is damaged or not in the dump")
            source = f"symbol file {given.path.name}, {len(by_info)} symbols"
            return Located(phys_base=fallback.phys_base, symbols=by_info, symbols_source=source, info=fallback.info)
    for view, tables in window.symbols_anywhere(memory):
        proved = _prove(memory, view, tables)
        if proved is not None:
            symbols, base = proved
            window.touch_tables(memory, view, tables)
            problems.append(
                "VMCOREINFO is neither in the container nor in memory; the kernel was located by its symbol table"
            )
            source = f"kallsyms at physical {view.pa + tables.token_table:#x}, {len(symbols)} symbols"
            return Located(phys_base=base, symbols=symbols, symbols_source=source, info=None)
    by_banner = None if given is None else symbol_file.locate(memory, given)
    if given is not None and by_banner is not None:
        problems.append("neither VMCOREINFO nor a symbol table is in the image; the kernel was located by its banner")
        source = f"symbol file {given.path.name}, {len(by_banner[0])} symbols"
        return Located(phys_base=by_banner[1], symbols=by_banner[0], symbols_source=source, info=None)
    if fallback is not None:
        problems.append(
            "the kernel's symbol table (kallsyms) is damaged or not in the dump; only what VMCOREINFO names "
            "and what can be recognised by its contents is known"
        )
        return fallback
    raise KernelNotFoundError(_nothing_found(image))


def _infos(image: Image) -> Iterator[Vmcoreinfo]:
    if image.vmcoreinfo is not None:
        info = vmcoreinfo.parse(image.vmcoreinfo, f"note of the {image.format} image")
        if info.number("phys_base") is not None:
            yield info
            return
    yield from vmcoreinfo.scan(image.memory)


def _readable(memory: PhysicalMemory, pa: int) -> bool:
    with memory.untraced():
        return bool(memory.gather(np.array([pa % WORD], np.uint64), 8)[1][0])


def _prove(
    memory: PhysicalMemory, view: window.Window, tables: kallsyms.Tables
) -> tuple[kallsyms.Kallsyms, int] | None:
    """(symbols, phys_base) if the kernel's own ``phys_base`` confirms where the tables lie.

    A copy that the decompressor left, which was never relocated, fails this.
    """
    symbols = kallsyms.decode(view.data, tables, view.pa, view.held)
    if tables.relative_base is None:
        # Decoded from a physical place, the addresses are physical so far.
        at = symbols.get("phys_base")
        stored = None if at is None else _word(memory, at)
        if stored is None or symbols.get("linux_banner") is None:
            return None
        banner = memory.gather(np.array([symbols.get("linux_banner")], np.uint64), len(_BANNER))
        if banner[0].tobytes() != _BANNER:
            return None
        return symbols.shifted(START_KERNEL_MAP - stored), _signed(stored)
    banner_va, base_va = symbols.get("linux_banner"), symbols.get("phys_base")
    if banner_va is None or base_va is None:
        return None
    around = window.read(memory, max(view.pa + tables.token_table - (64 << 20), 0), 128 << 20)
    for hit in window.find_all(around, _BANNER):
        base = hit - (banner_va - START_KERNEL_MAP)
        stored = _word(memory, base_va - START_KERNEL_MAP + base)
        if stored is not None and stored == base % WORD:
            symbols.place += START_KERNEL_MAP - base
            return symbols, base
    return None


def _word(memory: PhysicalMemory, pa: int) -> int | None:
    if not 0 <= pa < 1 << 52:
        return None
    data, ok = memory.gather(np.array([pa], np.uint64), 8)
    return int(data.view("<u8")[0, 0]) if ok[0] else None


def _signed(value: int) -> int:
    return value - WORD if value >> 63 else value


def _nothing_found(image: Image) -> str:
    banner = None
    for _, chunk in image.memory.scan():
        raw = chunk.tobytes()
        at = raw.find(_BANNER)
        while at >= 0 and banner is None:
            line = re.match(rb"Linux version \d[\x20-\x7e]{10,200}", raw[at : at + 256])
            banner = line.group().decode() if line else None
            at = raw.find(_BANNER, at + 1)
        if banner:
            break
    if banner is None:
        return (
            f"no Linux kernel in {image.path}: neither VMCOREINFO nor a kernel symbol table nor a "
            "'Linux version' banner is in the image; expected physical memory of an x86-64 Linux machine"
        )
    return (
        f"{image.path} holds the banner '{banner}', but no VMCOREINFO and no symbol table that fits it; the "
        "image lacks the kernel's own pages, or the kernel is not x86-64; acquire it again without filtering"
    )


# Types ----------------------------------------------------------------------------------------------


def _types(
    memory: PhysicalMemory, text: KernelSpace, located: Located, given: Isf | None, problems: list[str]
) -> tuple[btf.Btf | Isf, str]:
    start, stop = located.symbols.get("__start_BTF"), located.symbols.get("__stop_BTF")
    why = "its symbols __start_BTF and __stop_BTF are not known"
    if start is not None and stop is not None and 0 < stop - start <= _BTF_LIMIT:
        try:
            blob = text.read(start, stop - start)
            types = btf.Btf(blob)
            if types.problem is None and types.struct("task_struct"):
                return types, f"BTF at {start:#x}, {len(types)} types"
            why = types.problem or "it has no task_struct"
        except (MemoryReadError, KernelNotFoundError) as error:
            why = str(error)
    elif located.symbols.get("_stext") is not None:
        why = "the kernel was built without it (CONFIG_DEBUG_INFO_BTF)"
    if given is not None:
        problems.append(f"the kernel's BTF cannot be used ({why}); types are those of the symbol file")
        return given, f"symbol file {given.path.name}, {len(given)} types"
    for pa, types in _btf_copies(memory):
        problems.append(f"the kernel's BTF cannot be used ({why}); a copy of it was found elsewhere")
        return types, f"copy of the BTF at physical {pa:#x}, {len(types)} types"
    raise KernelNotFoundError(
        f"no type information for kernel {located.info.release if located.info else '(release unknown)'}: "
        f"its BTF cannot be used ({why}); structure layouts come from BTF, so the image has to hold it, "
        "or a symbol file has to be given with --symbols"
    )


def _btf_copies(memory: PhysicalMemory) -> Iterator[tuple[int, btf.Btf]]:
    """Whole vmlinux BTF blobs anywhere in physical memory; they lie in one piece in the kernel image."""
    for pa, chunk in memory.scan(64 << 20):
        raw = chunk.tobytes()
        at = raw.find(btf.MAGIC)
        while at >= 0:
            head = np.frombuffer(raw[at : at + 24].ljust(24, b"\0"), "<u4")
            size = int(head[1]) + int(head[4]) + int(head[5])
            if 24 <= int(head[1]) <= 64 and 1 << 20 <= size <= _BTF_LIMIT:
                try:
                    types = btf.Btf(memory.read(pa + at, size))
                    if types.problem is None and types.struct("task_struct"):
                        yield pa + at, types
                except (MemoryReadError, KernelNotFoundError) as error:
                    log.debug("no BTF at %#x: %s", pa + at, error)
            at = raw.find(btf.MAGIC, at + 1)


def _symbols_by_name(text: KernelSpace, located: Located, types: Types, problems: list[str]) -> Symbols:
    """The few symbols that can be had without kallsyms: VMCOREINFO's, and init_task by its comm."""
    assert located.info is not None
    table = {
        name: value
        for name in ("_stext", "init_top_pgt", "swapper_pg_dir", "init_uts_ns")
        if (value := located.info.symbol(name)) is not None
    }
    layout = types.struct("task_struct")
    stext = table["_stext"]
    view = window.read(text.memory, stext - START_KERNEL_MAP + located.phys_base, 128 << 20)
    if layout is not None:
        comm, parent, real = (layout.fields[name].offset for name in ("comm", "parent", "real_parent"))
        for hit in window.find_all(view, b"swapper/0\0\0\0\0\0\0\0"):
            va = hit - comm - located.phys_base + START_KERNEL_MAP
            # The idle task is its own parent, so it says itself where it lies.
            words, ok = text.gather(np.array([va + parent, va + real], np.uint64), 8)
            if ok.all() and (words.view("<u8")[:, 0] == np.uint64(va)).all():
                table["init_task"] = va
                break
    if "init_task" not in table:
        raise KernelNotFoundError(
            "the kernel's symbol table (kallsyms) is not in the dump, and init_task could not be recognised "
            "by its contents either; acquire the image again without filtering kernel pages"
        )
    problems.append("without kallsyms, records reached only by symbols are not assessed")
    return kallsyms.Kallsyms.of(table)
