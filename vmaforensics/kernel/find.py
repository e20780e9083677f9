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

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.interface import BootFacts
from vmaforensics.errors import KernelNotFoundError, MemoryReadError
from vmaforensics.kernel import identify
from vmaforensics.kernel.kernel import Identity, Kernel, unsigned_at
from vmaforensics.kernel.locate import locate
from vmaforensics.kernel.ram import lay_out_by_kernel
from vmaforensics.kernel.space.kernel_space import WORD, KernelSpace
from vmaforensics.kernel.space.translation import image_piece, kernel_space, translate_through_a_process
from vmaforensics.kernel.structures.type_sources import find_types
from vmaforensics.kernel.symbols import kallsyms, symbol_file, window
from vmaforensics.kernel.symbols.isf import Isf
from vmaforensics.progress import unheard
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    import os

    from vmaforensics.arch.interface import Architecture
    from vmaforensics.image.image import Image
    from vmaforensics.kernel.kernel import Symbols
    from vmaforensics.kernel.locate import Located
    from vmaforensics.kernel.structures.layout import Types
    from vmaforensics.progress import Progress

WORD_SIZE = 8  # bytes of a pointer
_FAR = 256  # tasks
_AGREE = 0.75  # of the links of the list of tasks


def find_kernel(image: Image, progress: Progress = unheard, symbols: str | os.PathLike[str] | None = None) -> Kernel:
    """Find and understand the kernel of ``image``.

    ``symbols`` is a symbol file (ISF) that stands in for symbols and types the image lacks; by default, the one
    that was given with the image. Raises :class:`SymbolFileError` when it cannot be read or is another kernel's.
    Raises :class:`KernelNotFoundError` with one sentence when there is none, or when its symbols or types
    cannot be read. What was missing but could be made up for is in ``identity.problems``.

    Memory may hold several kernels. The first whose list of tasks is whole is taken, or the one whose number is
    ``image.kernel``, counted from 1 in the order in which they are found.
    """
    progress("kernel")
    image.memory.watch = partial(progress, "kernel")
    given_path = symbols or image.symbols
    given = None if given_path is None else Isf(given_path)
    found: list[Kernel] = []
    passed: set[int] = set()  # places of kernels that are not the one
    refused: KernelNotFoundError | None = None
    wanted = image.kernel
    while wanted is None or len(found) < wanted:
        problems: list[str] = []
        try:
            located = locate(image, image.arch, given, problems, passed)
        except KernelNotFoundError as error:
            refused = refused or error
            break
        passed.add(located.offset)
        try:
            found.append(_understood(image, located, given, problems))
        except KernelNotFoundError as error:
            refused = refused or error
        # The note of a dump is that of the kernel dumped; without one, what a reboot left may come first.
        if image.vmcoreinfo is not None or (wanted is None and found and lives(found[-1])):
            break
    return _chosen(image, found, refused)


def _chosen(image: Image, found: list[Kernel], refused: KernelNotFoundError | None) -> Kernel:
    """The kernel that was asked for, else the last one found if it lives, else the first; it names the others."""
    if image.kernel is not None and 0 < len(found) < image.kernel:
        raise KernelNotFoundError(
            f"{counted(len(found), 'kernel')} in {image.path}, and not {image.kernel}; give --kernel a smaller number"
        )
    if not found:
        assert refused is not None
        raise refused
    if len(found) == 1:
        return found[0]
    last = image.kernel is not None or lives(found[-1])
    kernel = found[-1] if last else found[0]
    for number, other in enumerate(found, 1):
        if other is not kernel:
            state = "whose list of tasks is whole" if lives(other) else "whose list of tasks is broken"
            kernel.identity.problems.append(
                f"another kernel lies in memory, {other.identity.release or 'of unknown release'}, {state}: left by a "
                f"reboot or kept for a crash; --kernel {number} takes it"
            )
    return kernel


def _understood(image: Image, located: Located, given: Isf | None, problems: list[str]) -> Kernel:
    """The kernel that lies where ``located`` says. Raises :class:`KernelNotFoundError`."""
    memory, arch = image.memory, image.arch
    offset = located.offset
    text = KernelSpace.linear(memory, [image_piece(arch, offset)])
    if given is not None:
        doubt = symbol_file.require_match(given, text, located.symbols, located.info)
        problems += [] if doubt is None else [doubt]
    types, types_source = find_types(text, located, given, problems)
    table = located.symbols
    if not len(table):
        table = _symbols_by_name(text, arch, located, types, problems)
        located = replace(located, symbols=table)
    else:
        table = _with_idle_task(text, located, types, problems)
        located = replace(located, symbols=table)
    banner = identify.banner(text, table, located.info)

    def variable(name: str, size: int) -> int | None:
        at = table.get(name)
        return None if at is None else unsigned_at(text, at, size)

    arch = arch.bind(
        BootFacts(
            number=located.info.number if located.info else lambda _: None,
            word=variable,
            cpus=image.cpus,
            has_struct=lambda name: types.struct(name) is not None,
            has_symbol=lambda name: table.get(name) is not None,
        )
    )
    lay_out_by_kernel(memory, arch, located, types, variable, problems)
    frame = types.struct("page")
    found = kernel_space(memory, arch, located, variable, frame.size if frame else 0, problems)
    arch = found.arch
    release = located.info.release if located.info else ""
    kernel = Kernel(
        memory=memory,
        space=found.space,
        arch=arch,
        symbols=table,
        types=types,
        vmcoreinfo=located.info,
        identity=Identity(
            release=release or identify.release(banner),
            banner=banner,
            build_id=identify.build_id(text, table, located.info),
            levels=arch.levels,
            isolation=arch.isolation,
            kaslr_offset=identify.kaslr(table, located.info, arch),
            phys_base=arch.phys_base(offset),
            vmcoreinfo_source=located.info.source if located.info else None,
            symbols_source=located.symbols_source,
            types_source=types_source,
            translation_source=found.source,
            problems=problems,
        ),
    )
    kernel.root = found.root
    if found.root is None:
        translate_through_a_process(kernel, offset)
    # What only the second ways read is traced all the same: an excerpt stays as robust as its image.
    for name in (*arch.place_symbols, "linux_banner"):
        at = table.get(name)
        if at is not None:
            memory.touch((at - offset) % WORD, 8)
    return kernel


def lives(kernel: Kernel) -> bool:
    """Whether the list of tasks leads from the idle task on, with back links that agree but for a few: while a machine
    runs, a list is torn at times. In memory that a kernel before this one left, other things lie by now."""
    start = kernel.symbols.get("init_task")
    if start is None:
        return False
    link = start + kernel.offset("task_struct", "tasks.next")
    at, agree = link, 0
    seen: set[int] = set()
    try:
        while len(seen) < _FAR and at not in seen:
            seen.add(at)
            following = kernel.u64(at)
            agree += kernel.u64((following + WORD_SIZE) % WORD) == at
            at = following
    except MemoryReadError:
        pass
    return len(seen) > 1 and agree >= len(seen) * _AGREE


def _symbols_by_name(
    text: KernelSpace, arch: Architecture, located: Located, types: Types, problems: list[str]
) -> Symbols:
    """The few symbols that are known without kallsyms: VMCOREINFO's, and init_task by its comm."""
    assert located.info is not None
    table = {
        name: value
        for name in ("_stext", *arch.kernel_tables.tables, "init_uts_ns")
        if (value := located.info.symbol(name)) is not None
    }
    if (first := _idle_task(text, table["_stext"], located.offset, types)) is not None:
        table["init_task"] = first
    if "init_task" not in table:
        raise KernelNotFoundError(
            "the kernel's symbol table (kallsyms) is not in the dump, and init_task could not be recognised "
            "by its contents either; acquire the image again without filtering kernel pages"
        )
    problems.append("without kallsyms, records reached only by symbols are not assessed")
    return kallsyms.Kallsyms.of(table)


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


def _with_idle_task(text: KernelSpace, located: Located, types: Types, problems: list[str]) -> Symbols:
    """The symbols, with init_task by its contents if its name is damaged: everything begins there."""
    table = located.symbols
    stext = table.get("_stext") or (located.info and located.info.symbol("_stext"))
    if table.get("init_task") is not None or not stext or not isinstance(table, kallsyms.Kallsyms):
        return table
    found = _idle_task(text, stext, located.offset, types)
    if found is None:
        return table
    problems.append("the symbol init_task is damaged or not in the dump; the task was recognised by its contents")
    return table.plus("init_task", found)
