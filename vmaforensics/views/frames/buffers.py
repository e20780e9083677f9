"""Code in memory that the kernel has for data: buffers that files hold, and areas of vmalloc.

Nobody may execute it there, but it can be kept there: it was written to a pipe or a socket, or through a mapping of a
BPF map or of a ring, which need not be there any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct, rows_of
from vmaforensics.views.frames.unowned import UnownedCode, find_code
from vmaforensics.views.objects.vmalloc import VmallocAreas, find_areas
from vmaforensics.views.pages.frame_kinds import FrameKind
from vmaforensics.views.pages.mapped_pages import read_pages

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64, U64
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.descriptors.holders import HeldFrames
    from vmaforensics.views.frames.owners import Accounted


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferCode:
    """Frames with code, by frame; arrays of one length."""

    code: UnownedCode
    held: I64  # the first row of HeldFrames with it; -1: no file holds it
    areas: VmallocAreas  # that it is mapped in; all 0 where it is in none
    unread: int  # frames of this kind that are not in the image
    left_out: int  # more of them than are looked into


def find_buffer_code(kernel: Kernel, accounted: Accounted, *, mapped: U64, held: HeldFrames, stacks: U64) -> BufferCode:
    """Code in frames that files keep or vmalloc has, that the kernel may not execute, that no process maps, and that
    are none of ``stacks`` of tasks.

    Pages that were cut off from their file are such too, if a pipe or a socket still has them.
    """
    kinds = accounted.kinds
    wanted = kinds.are(FrameKind.KEPT, FrameKind.VMALLOC) & ~accounted.executable
    pages = read_pages(kernel, distinct(held.pfn[kinds.of(held.pfn) == FrameKind.PAGE_CACHE]))
    wanted[kinds.rows(pages.pfn[pages.ok & ~pages.compound & (pages.mapping == 0)])] = True
    for others in (mapped, stacks):
        at = kinds.rows(others)
        wanted[at[at >= 0]] = False
    found = find_code(kernel, kinds.pfns(np.flatnonzero(wanted).astype(np.int64)))
    return BufferCode(
        code=found.code,
        held=rows_of(held.pfn, found.code.pfn),
        areas=find_areas(kernel, _mapped_at(kernel, found.code.pfn)),
        unread=found.unread,
        left_out=found.left_out,
    )


def _mapped_at(kernel: Kernel, pfns: U64) -> U64:
    """An address of each frame outside of the direct map, 0 where it has none."""
    runs, direct = kernel.space.runs, np.uint64(kernel.arch.direct_map(kernel.variable))
    with np.errstate(over="ignore"):
        runs = runs.take(runs.start - direct != runs.pa)
    order = np.argsort(runs.pa, kind="stable")
    runs = runs.take(order)
    places = kernel.arch.bytes_of(pfns)
    found = np.zeros(len(pfns), np.uint64)
    # Runs may overlap in physical memory, but hardly do: the nearest two below are asked.
    near = np.searchsorted(runs.pa, places, "right") - 1
    for back in (1, 0):
        row = near - back
        at = np.flatnonzero(row >= 0)
        into = places[at] - runs.pa[row[at]]
        fits = into <= runs.end[row[at]] - runs.start[row[at]]
        found[at[fits]] = (runs.start[row[at]] + into)[fits]
    return found
