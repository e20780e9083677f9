"""What the kernel says of its own RAM, and what that says of a file without headers.

The kernel keeps the machine's address map as a tree of resources (``iomem_resource``, kernel/resource.c), in which
what the firmware called RAM is named "System RAM", and the end of RAM in ``max_pfn``. A raw file may leave out the
hole below 4 GiB, have the ranges one behind the other, or be cut short. The place of the kernel in the file and its
own ``phys_base`` say by how much the part that it lies in is shifted; the tree of resources says the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.image.formats.raw import RawMemory, Stretch, moved
from vmaforensics.image.formats.segments import PHYSICAL_LIMIT
from vmaforensics.kernel.space.kernel_space import KernelSpace, LinearPiece
from vmaforensics.kernel.space.translation import image_piece
from vmaforensics.kernel.structures.layout import member
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmaforensics.arch.interface import Architecture
    from vmaforensics.image.memory import PhysicalMemory
    from vmaforensics.kernel.kernel import Symbols
    from vmaforensics.kernel.locate import Located
    from vmaforensics.kernel.structures.layout import Types

_NAME = b"System RAM\0"  # kernel/resource.c and the firmware's maps; LiME goes by it too
_MOST_RESOURCES = 4096


class KernelRam(NamedTuple):
    """What the kernel says of its RAM."""

    top: int  # where it ends: max_pfn, in bytes
    ranges: list[tuple[int, int]]  # [start, end) of "System RAM", ascending; empty if the tree cannot be read
    page_shift: int


def lay_out_by_kernel(
    memory: PhysicalMemory,
    arch: Architecture,
    located: Located,
    types: Types,
    variable: Callable[[str, int], int | None],
    problems: list[str],
) -> None:
    """Lay out a raw file as the kernel says that its RAM lies, and say what of it is missing.

    ``variable`` reads a variable of the kernel image. Other images have headers, and stay as they are.
    """
    pages = variable("max_pfn", 8)
    if not isinstance(memory, RawMemory) or not pages or pages >= PHYSICAL_LIMIT >> arch.page_shift:
        return
    top, shift = pages << arch.page_shift, memory.shift
    ranges: list[tuple[int, int]] = []
    for stretches in _ways(memory, arch, top):
        memory.place(stretches)
        ranges = system_ram(_early_space(memory, arch, located, variable), located.symbols, types)
        if ranges and ranges[-1][1] <= top + arch.page_size:
            break
        ranges = []
    found = layout(KernelRam(top, ranges, arch.page_shift), memory.file_size, arch.hole_end, shift)
    memory.place(found.stretches)
    if found.text:
        problems.append(found.text)


def ram_of_kernel(
    memory: PhysicalMemory,
    arch: Architecture,
    located: Located,
    types: Types,
    variable: Callable[[str, int], int | None],
) -> list[tuple[int, int]]:
    """``[start, end)`` of what the image has and the kernel calls its RAM; what it has below ``max_pfn``, or all, where
    that is not known."""
    held: list[tuple[int, int]] = memory.ranges.tolist()
    own = system_ram(_early_space(memory, arch, located, variable), located.symbols, types)
    pages = variable("max_pfn", 8)
    if not own and pages:
        own = [(0, pages << arch.page_shift)]
    if not own:
        return held
    return overlaps(held, own)


def overlaps(first: list[tuple[int, int]], second: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What lies in both of two ascending lists of ranges ``[start, end)``."""
    found, row, other = [], 0, 0
    while row < len(first) and other < len(second):
        start, end = max(first[row][0], second[other][0]), min(first[row][1], second[other][1])
        if start < end:
            found.append((start, end))
        if first[row][1] < second[other][1]:
            row += 1
        else:
            other += 1
    return found


class Layout(NamedTuple):
    """How a file lies."""

    stretches: list[Stretch]
    text: str  # what is to be said of it


def _ways(memory: RawMemory, arch: Architecture, top: int) -> list[list[Stretch]]:
    """Ways in which the file may lie, for a look at the tree of resources: early memory, often at the end of RAM."""
    size, shift = memory.file_size, memory.shift
    ways = [[moved(size, shift)]]
    high = top - arch.hole_end
    if 0 < high < size:
        # Of what is below the hole nothing is known if the kernel lies above it.
        low = moved(size - high, 0 if shift == top - size else shift)
        ways.append([low, Stretch(arch.hole_end, size - high, high)])
    return ways


def layout(known: KernelRam, size: int, hole_end: int, shift: int) -> Layout:
    """How a file of ``size`` bytes lies, whose kernel is ``shift`` bytes above its place in the file."""
    total = sum(end - start for start, end in known.ranges)
    high = known.top - hole_end
    if known.ranges and total == size and size < known.top:
        rows, at = [], 0
        for start, end in known.ranges:
            rows.append(Stretch(start, at, end - start))
            at += end - start
        return Layout(
            rows,
            f"the file has the {counted(len(rows), 'range')} of RAM one behind the other, as LiME's format=raw writes "
            "them; they are read where the kernel says that they lie",
        )
    low = size - high
    below = max((end for _, end in known.ranges if end <= hole_end), default=0)
    if 0 < high < size and below <= low < hole_end and (shift == hole_end - low or (shift == 0 and known.ranges)):
        return Layout(
            [Stretch(0, 0, low), Stretch(hole_end, low, high)],
            f"the file leaves out what lies between {low:#x} and {hole_end:#x}, which is no RAM; what is behind it in "
            "the file is read where the kernel says that it lies",
        )
    if shift:
        return Layout(
            [moved(size, shift)],
            f"the file does not begin at physical address 0: the kernel lies {abs(shift):#x} bytes "
            f"{'above' if shift > 0 else 'below'} its place in the file, and all of it is read as if it "
            "did; acquire the image again in a format with headers",
        )
    missing = [(max(start, size), end) for start, end in known.ranges or [(size, known.top)] if end > size]
    lost = sum(end - start for start, end in missing) >> known.page_shift
    if not missing or not lost:
        return Layout([Stretch(0, 0, size)], "")
    held = max(0, (total or known.top) >> known.page_shift) - lost
    return Layout(
        [Stretch(0, 0, size), *(Stretch(start, size, end - start) for start, end in missing)],
        f"the file is cut short: the kernel has RAM up to {known.top:#x}, the file ends at {size:#x}; {held:,} of "
        f"{held + lost:,} pages of RAM are in it",
    )


def _early_space(
    memory: PhysicalMemory, arch: Architecture, located: Located, variable: Callable[[str, int], int | None]
) -> KernelSpace:
    """The kernel image and the direct map, which need no page tables."""
    start = arch.direct_map(variable)
    direct = LinearPiece(start, start + arch.direct_map_size - 1, 0)
    return KernelSpace.linear(memory, sorted([image_piece(arch, located.offset), direct]))


def system_ram(space: KernelSpace, symbols: Symbols, types: Types) -> list[tuple[int, int]]:
    """``[start, end)`` of what is called RAM at the top of the tree of resources; none if it cannot be read."""
    root = symbols.get("iomem_resource")
    names = ("start", "end", "name", "sibling", "child")
    fields = {name: field.offset for name in names if (field := member(types, "resource", name)) is not None}
    if root is None or len(fields) < len(names):
        return []

    found: list[tuple[int, int]] = []
    at = space.word(root + fields["child"])
    reached = 0
    for _ in range(_MOST_RESOURCES):
        if not at:
            break
        first, last, name = (space.word(at + fields[which]) for which in ("start", "end", "name"))
        if first is None or last is None or name is None or not reached <= first <= last:
            return []
        text, _ = space.gather(np.array([name], np.uint64), len(_NAME))
        if text[0].tobytes() == _NAME:
            found.append((first, last + 1))
        reached = last
        at = space.word(at + fields["sibling"])
    return found
