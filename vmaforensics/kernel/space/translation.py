"""How kernel addresses are translated: by the kernel's own page tables, or what stands in for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.errors import MemoryReadError
from vmaforensics.kernel.space.kernel_space import WORD, KernelSpace, LinearPiece
from vmaforensics.words.amounts import amount

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmaforensics.arch.interface import Architecture
    from vmaforensics.image.memory import PhysicalMemory
    from vmaforensics.kernel.kernel import Kernel, Symbols
    from vmaforensics.kernel.locate import Located

_DAMAGED = 1 << 20  # bytes of the direct map that nothing but a damaged table leaves unmapped: guards are pages
_MOST_TASKS = 4096  # looked at for page tables that hold the kernel half


class Translation(NamedTuple):
    """The kernel's address space, and how it was found."""

    space: KernelSpace
    arch: Architecture  # with the levels that page tables have
    source: str
    root: int | None  # physical address of the top-level table; None: page tables could not be used


def image_piece(arch: Architecture, offset: int) -> LinearPiece:
    """The linear mapping of the kernel image; ``offset`` is virtual minus physical."""
    first = arch.image_start
    return LinearPiece(first, first + arch.image_size - 1, (first - offset) % WORD)


def kernel_space(
    memory: PhysicalMemory,
    arch: Architecture,
    located: Located,
    variable: Callable[[str, int], int | None],
    frame_size: int,
    ram: list[tuple[int, int]],
    problems: list[str],
) -> Translation:
    """The kernel's address space: its page tables if they map the kernel where it lies, else linear mappings.

    ``variable`` reads a variable of the kernel image by name and size; ``frame_size`` is that of a ``struct page``, 0
    if it is not known; ``ram`` is what the kernel says of its RAM, ``[start, end)``. What is wrong is added to
    ``problems``.
    """
    symbols, info, offset = located.symbols, located.info, located.offset
    tables = arch.kernel_tables.tables
    tops = [symbols.get(name) for name in tables] + [info.symbol(name) for name in tables if info is not None]
    root = next((top - offset for top in tops if top and 0 <= top - offset < WORD), None)  # a wrong one leads nowhere
    probe = symbols.get("init_task") or symbols.get("_stext")
    if root is not None and probe is not None:
        for variant in arch.encrypted(memory, root).variants():
            space, walk = KernelSpace.from_page_tables(memory, root, variant)
            found = space.translate(np.array([probe], np.uint64))
            mapped = bool(found.mapped[0]) and int(found.pa[0]) == probe - offset
            if not mapped and _maps_memory(space, memory, variant.direct_map(variable)):
                mapped = True
                space.put(_whole_image(variant, symbols, offset))
                problems.append(
                    "the kernel's page tables are damaged: they map memory, but not the kernel's own image; that is "
                    "read where it lies"
                )
            if mapped:
                if len(walk.unreadable):
                    problems.append(
                        f"{len(walk.unreadable)} page-table pages of the kernel are not in the dump; addresses "
                        f"under them (first: {int(walk.unreadable.va[0]):#x}) cannot be translated"
                    )
                if walk.truncated:
                    problems.append("the kernel's page tables have more pages than the image; walk cut short")
                _straighten(space, ram, variant, variable, frame_size, problems)
                return Translation(space, variant.isolated(memory, root), f"page tables at physical {root:#x}", root)
    problems.append(
        "the kernel's page-table root is not in the dump or does not map the kernel; only linear mappings "
        "are translated at first"
    )
    start = arch.direct_map(variable)
    pieces = [image_piece(arch, offset)]
    for low, high in memory.ranges.tolist():
        if high < arch.direct_map_size:
            pieces.append(LinearPiece(start + low, start + high - 1, low))
    return Translation(KernelSpace.linear(memory, sorted(pieces)), arch, "linear mappings", None)


def _maps_memory(space: KernelSpace, memory: PhysicalMemory, start: int) -> bool:
    """Is most of memory in the direct map from ``start`` on? Tables of another kernel would not have it there."""
    pas = np.concatenate([np.linspace(low, high, 18)[1:-1].astype(np.uint64) for low, high in memory.ranges.tolist()])
    with np.errstate(over="ignore"):
        found = space.translate(pas + np.uint64(start))
    return bool((found.mapped & (found.pa == pas)).mean() > 1 / 3)


def _whole_image(arch: Architecture, symbols: Symbols, offset: int) -> LinearPiece:
    """The linear mapping of the kernel image from its first to its last symbol, or of all it may take."""
    first, behind = symbols.get("_text") or symbols.get("_stext"), symbols.get("_end")
    if first is None or behind is None or not first < behind <= arch.image_start + arch.image_size:
        return image_piece(arch, offset)
    return LinearPiece(first & -arch.page_size, behind - 1, (first & -arch.page_size) - offset)


def _straighten(
    space: KernelSpace,
    ram: list[tuple[int, int]],
    arch: Architecture,
    variable: Callable[[str, int], int | None],
    frame_size: int,
    problems: list[str],
) -> None:
    """Map the direct map where it is not, if so much of it is missing that a table must be damaged.

    It is linear by nature (init_mem_mapping, arch/x86/mm/init.c). It has holes where the kernel has no RAM (``mem=``
    and ``memmap=`` leave some out), mostly without page frames, and with CONFIG_DEBUG_PAGEALLOC wherever one is free.
    Where the size of a page frame is not known, what the kernel calls its RAM has some.
    """
    start, frames = arch.direct_map(variable), arch.vmemmap(variable)
    if variable("_debug_pagealloc_enabled_early", 1):
        return
    lost = 0
    for low, high in ram:
        if high >= arch.direct_map_size:
            continue
        for hole in space.holes(LinearPiece(start + low, start + high - 1, low), _DAMAGED):
            pfns = np.arange(hole.pa, hole.pa + hole.last + 1 - hole.first, _DAMAGED, dtype=np.uint64)
            pfns >>= np.uint64(arch.page_shift)
            if space.translate(np.uint64(frames) + pfns * np.uint64(frame_size)).mapped.all():
                space.put(hole)
                lost += hole.last + 1 - hole.first
    if lost:
        problems.append(
            f"the kernel's page tables are damaged: {amount(lost)} of the direct map are not mapped as they must be; "
            "what lies there is read all the same"
        )


def translate_through_a_process(kernel: Kernel, offset: int) -> None:
    """Every process's page tables hold the kernel half too: take the first that maps init_task.

    ``offset`` is virtual minus physical address of the kernel image.
    """
    start = kernel.symbols.get("init_task")
    if start is None:
        return
    link, mm_at = kernel.offset("task_struct", "tasks.next"), kernel.offset("task_struct", "mm")
    pgd_at = kernel.offset("mm_struct", "pgd")
    task = start
    for _ in range(_MOST_TASKS):
        try:
            task = (kernel.u64(task + link) - kernel.offset("task_struct", "tasks")) % WORD
            mm = kernel.u64(task + mm_at)
            pgd = kernel.u64(mm + pgd_at) if mm else 0
        except MemoryReadError:
            return
        if task == start:
            return
        found = kernel.space.translate(np.array([pgd], np.uint64))
        if not pgd or not found.mapped[0]:
            continue
        root = int(found.pa[0])
        arch = kernel.arch.encrypted(kernel.memory, root)
        space, _ = KernelSpace.from_page_tables(kernel.memory, root, arch)
        here = space.translate(np.array([start], np.uint64))
        if here.mapped[0] and int(here.pa[0]) == start - offset:
            kernel.space.runs, kernel.arch = space.runs, arch
            kernel.root = root
            kernel.identity.translation_source = f"a process's page tables at physical {root:#x}"
            return
