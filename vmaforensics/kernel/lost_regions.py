"""Where KASLR put the direct map and the struct pages, if the kernel's variables that say so are lost.

Both variables lie in one page. The list of tasks tells of the first: ``init_task`` holds an address in the direct map,
and the task there leads back to it. The sections of memory tell of the second: each holds the address that the struct
page of frame 0 would have (sparse_encode_mem_map, mm/sparse.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.kernel.space.kernel_space import KernelSpace, LinearPiece
from vmaforensics.kernel.structures.layout import member

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmaforensics.arch.interface import Architecture
    from vmaforensics.kernel.kernel import Symbols
    from vmaforensics.kernel.structures.layout import Types

_LINKS = {"tasks.next": "tasks.prev", "tasks.prev": "tasks.next"}  # where the task behind one leads back


def lost_regions(
    text: KernelSpace,
    arch: Architecture,
    symbols: Symbols,
    types: Types,
    variable: Callable[[str, int], int | None],
    problems: list[str],
    *,
    named: bool = False,
) -> dict[str, int]:
    """What the variables of :attr:`Architecture.region_symbols` must hold that cannot be read or believed, by name.

    ``text`` maps the kernel image, ``variable`` reads a variable of it by name and size. Kernels without such variables
    have constants in their place; as a name may be lost too, they are asked like the others, but for ``named``: where
    memory is not laid out yet, constants are surer. What was told so is added to ``problems``, as is what is not told.
    """
    found: dict[str, int] = {}

    def known(name: str, size: int) -> int | None:
        return found.get(name) or variable(name, size)

    direct, frames = arch.region_symbols
    ways = ((direct, arch.direct_map, _by_tasks), (frames, arch.vmemmap, _by_sections))
    for name, region, way in ways:
        unnamed, usual = symbols.get(name) is None, region(variable)
        if (unnamed and named) or usual == variable(name, 8):
            continue
        start = way(text, arch, symbols, types, known)
        if start is not None and _believed(region, start):
            found[name] = start
        if not unnamed or found.get(name, usual) != usual:
            how = "by what leads there" if name in found else "where nothing moves it"
            problems.append(f"{name} cannot be read or believed: it is {found.get(name, usual):#x}, {how}")
    return found


def _believed(region: Callable[[Callable[[str, int], int | None]], int], start: int) -> bool:
    return region(lambda *_: start) == start


def _by_tasks(
    text: KernelSpace,
    arch: Architecture,
    symbols: Symbols,
    types: Types,
    _: Callable[[str, int], int | None],
) -> int | None:
    """First address of the direct map: where RAM may lie that ``init_task`` leads to, some task leads back."""
    start = symbols.get("init_task")
    head = member(types, "task_struct", "tasks")
    if start is None or head is None:
        return None
    for link, back in _LINKS.items():
        there, here = member(types, "task_struct", link), member(types, "task_struct", back)
        if there is None or here is None or not (task := text.word(start + there.offset)):
            continue
        places = [
            np.arange(low + (task - low) % arch.region_step, high, arch.region_step, dtype=np.uint64)
            for low, high in text.memory.ranges.tolist()
        ]
        pas = np.concatenate(places)
        words, ok = text.memory.gather(pas + np.uint64(here.offset - head.offset), 8)
        leads_back = ok & (words.view("<u8").ravel() == np.uint64(start + head.offset))
        if leads_back.sum() == 1:
            return task - int(pas[leads_back][0])
    return None


def _by_sections(
    text: KernelSpace,
    arch: Architecture,
    symbols: Symbols,
    types: Types,
    known: Callable[[str, int], int | None],
) -> int | None:
    """Address of the struct page of frame 0, as the first section of memory has it beside flags."""
    roots, encoded = symbols.get("mem_section"), member(types, "mem_section", "section_mem_map")
    if roots is None or encoded is None:
        return None
    start = arch.direct_map(known)
    direct = KernelSpace.linear(text.memory, [LinearPiece(start, start + arch.direct_map_size - 1, 0)])
    table = text.word(roots)  # SPARSEMEM_EXTREME: of pages of sections
    first = direct.word(table) if table else None
    section = direct.word(first + encoded.offset) if first else None
    return section & -arch.page_size if section else None
