"""Finding the kernel in an image, from the image alone: VMCOREINFO → kallsyms → BTF → page tables.

Every step is checked against the next, and each has a second way when the first is missing:

=================  =================================  =====================================================
what               first                              otherwise
=================  =================================  =====================================================
where it lies      VMCOREINFO, from a note or a scan  kallsyms tables anywhere, proved by ``phys_base``
symbols            kallsyms                           VMCOREINFO, exported symbols, init_task by its contents
types              BTF between its symbols            any whole copy of a BTF blob
maps of memory     the variables that say so          the list of tasks, and the sections of memory
the three above    the image                          a symbol file that was given, if it is this kernel's
translation        the kernel's page tables           the linear mappings, then some process's page tables
=================  =================================  =====================================================
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from vmaforensics.arch.interface import BootFacts
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.image.formats.raw import RawMemory
from vmaforensics.kernel import identify
from vmaforensics.kernel.derived_tasks import derive_tasks
from vmaforensics.kernel.kernel import Identity, Kernel, unsigned_at
from vmaforensics.kernel.locate import locate, locate_by, names_fit
from vmaforensics.kernel.lost_regions import lost_regions
from vmaforensics.kernel.nothing import half_way
from vmaforensics.kernel.place import Places
from vmaforensics.kernel.ram import lay_out_by_kernel, ram_of_kernel
from vmaforensics.kernel.several import chosen, lives, other_notes
from vmaforensics.kernel.space.kernel_space import WORD, KernelSpace
from vmaforensics.kernel.space.translation import image_piece, kernel_space, translate_through_a_process
from vmaforensics.kernel.structures.type_sources import find_types
from vmaforensics.kernel.survey import Survey
from vmaforensics.kernel.symbols import symbol_file
from vmaforensics.kernel.symbols.completed import completed, with_idle_task
from vmaforensics.kernel.symbols.given import Given, open_symbol_files
from vmaforensics.progress import unheard

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from vmaforensics.image.image import Image
    from vmaforensics.kernel.locate import Located
    from vmaforensics.progress import Progress

_MOST_OTHERS = 8  # kernels beside the one that is found that are looked at


def find_kernel(
    image: Image,
    progress: Progress = unheard,
    symbols: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
) -> Kernel:
    """Find and understand the kernel of ``image``.

    ``symbols`` is a symbol file, or several, that stand in for symbols and types the image lacks; by default, those
    that were given with the image. Raises :class:`SymbolFileError` when one cannot be read or is another kernel's.
    Raises :class:`KernelNotFoundError` with one sentence when there is none, or when its symbols or types
    cannot be read. What was missing but could be made up for is in ``identity.problems``.

    Memory may hold several kernels: :mod:`vmaforensics.kernel.several` says which is meant. ``image.kernel`` is the
    number of the one that is asked for, counted from 1 in the order in which they are found.
    """
    progress("kernel")
    image.memory.watch = partial(progress, "kernel")
    given = open_symbol_files(symbols or image.symbols, progress)
    found: list[Kernel] = []
    passed: set[int] = set()  # places of kernels that are found
    refused: KernelNotFoundError | None = None
    wanted = image.kernel
    places = Places(image)
    before, place = places.before(), None
    survey = Survey(image.memory)
    while wanted is None or len(found) < wanted:
        problems: list[str] = []
        try:
            located = locate(image, image.arch, given.symbols, problems, passed, before, survey)
        except KernelNotFoundError as error:
            refused = refused or error
            break
        passed.add(located.offset)
        try:
            found.append(_understood(image, located, given, problems, first=not found))
        except KernelNotFoundError as error:
            refused = refused or error
        # The note of a dump is that of the kernel dumped; without one, what a reboot left may come first.
        if found and (image.vmcoreinfo is not None or (wanted is None and lives(found[-1]))):
            place = located.place
            break
        if image.vmcoreinfo is not None and before is None:
            break
        if before is not None:  # what an earlier run left does not lead to what it found: begin without it
            before, refused = None, None
            found.clear()
            passed.clear()
            if isinstance(image.memory, RawMemory):
                image.memory.move(0)
    if not found:
        assert refused is not None
        if (held := half_way(image)) and held not in str(refused):
            raise type(refused)(f"{refused}; the image {held}") from refused
        raise refused
    if wanted is None or len(found) < wanted:
        found += _others(image, found[-1], passed)
    if len(passed) == len(found) == 1 and wanted is None:
        places.keep(place)
    return chosen(image, found)


def _others(image: Image, kernel: Kernel, passed: set[int]) -> list[Kernel]:
    """The kernels beside ``kernel`` that VMCOREINFO in memory leads to; those at places ``passed`` are known."""
    found: list[Kernel] = []
    tried = set(passed)
    for info in other_notes(image, kernel):
        problems: list[str] = []
        offset = image.arch.image_offset(info.number)
        if offset is None or offset in tried or not names_fit(image.memory, info, offset):
            continue
        if len(tried) - len(passed) >= _MOST_OTHERS:
            break
        tried.add(offset)
        located = locate_by(image, image.arch, info, offset)
        if located is None:
            continue
        try:
            found.append(_understood(image, located, Given(), problems, first=False))
        except KernelNotFoundError:
            continue
    return found


def _understood(image: Image, located: Located, given: Given, problems: list[str], *, first: bool = True) -> Kernel:
    """The kernel that lies where ``located`` says. Raises :class:`KernelNotFoundError`.

    The ``first`` of several says how a file without headers lies.
    """
    memory, arch = image.memory, image.arch
    offset = located.offset
    text = KernelSpace.linear(memory, [image_piece(arch, offset)])
    located = completed(memory, arch, located, given.symbols, problems)
    for file in given.files:
        doubt = symbol_file.require_match(file, text, located.symbols, located.info)
        problems += [] if doubt is None else [doubt]
    types, types_source = find_types(text, located, given.types, problems)
    table = with_idle_task(text, located, types, problems)
    located = replace(located, symbols=table)
    banner = identify.banner(text, table, located.info)

    regions: dict[str, int] = {}

    def variable(name: str, size: int) -> int | None:
        if name in regions:
            return regions[name]
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
    if first:
        regions |= lost_regions(text, arch, table, types, variable, [], named=True)
        lay_out_by_kernel(memory, arch, located, types, variable, problems)
        regions.clear()  # what they were told by may lie elsewhere now
    regions |= lost_regions(text, arch, table, types, variable, problems)
    frame = types.struct("page")
    ram = ram_of_kernel(memory, arch, located, types, variable)
    found = kernel_space(memory, arch, located, variable, frame.size if frame else 0, ram, problems)
    arch = found.arch
    release = located.info.release if located.info else ""
    kernel = Kernel(
        memory=memory,
        space=found.space,
        arch=arch,
        regions=regions,
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
    derive_tasks(kernel)
    if found.root is None:
        translate_through_a_process(kernel, offset)
    if types is given.types:
        symbol_file.require_fitting_types(given.types, kernel)
    # What only the second ways read is traced all the same: an excerpt stays as robust as its image.
    for name in (*arch.place_symbols, "linux_banner"):
        at = table.get(name)
        if at is not None:
            memory.touch((at - offset) % WORD, 8)
    return kernel
