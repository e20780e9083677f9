"""Whose the frames are of which ``struct page`` says no more than that they are in use.

What the kernel allocates for itself bears no mark. What it maps outside of the direct map (vmalloc, modules, stacks,
per-CPU memory) is found in its page tables, as these tables are; what drivers map into processes in the processes'.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.arch.page_tables import ALLOW_EXECUTE
from vmaforensics.columns.ragged import expand_ranges
from vmaforensics.columns.runs import run_lasts, run_starts
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.views.pages.frame_kinds import FrameKind
from vmaforensics.views.pages.swap_tables import table_frames

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64, U64, Bools
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.frame_kinds import FrameKinds


class Accounted(NamedTuple):
    """Frames and their owners."""

    kinds: FrameKinds  # KERNEL: nobody accounts for it
    executable: Bools  # of each frame: does the kernel map it executable?
    whole: bool  # all of the kernel's page tables could be read


def account_for(kernel: Kernel, kinds: FrameKinds, *, mapped: U64, tables: U64, kept: U64) -> Accounted:
    """Tell apart the frames that are ``KERNEL`` in ``kinds``; of what files keep, large kmalloc too.

    ``mapped`` are frames that entries of processes lead to, ``tables`` those of their page tables, ``kept`` those that
    files hold; in any order. Raises :class:`KernelNotFoundError` where the kernel's page tables are not known.
    """
    if kernel.root is None:
        raise KernelNotFoundError("the kernel's own page tables are not known")
    arch = kernel.arch
    walk = arch.walk_kernel(kernel.memory, kernel.root)
    leaves = walk.leaves
    pa, size = arch.target(leaves.entry, leaves.level), arch.span(leaves.level)
    with np.errstate(over="ignore"):
        direct = leaves.va - np.uint64(arch.direct_map(kernel.variable)) == pa
        # What was freed of the kernel's image, after it had booted, stays mapped there (free_kernel_image_pages).
        direct |= leaves.va - np.uint64(arch.image_start) < np.uint64(arch.image_size)
    executable = np.zeros(len(kinds.kinds), np.bool_)
    may_execute = (leaves.allow & ALLOW_EXECUTE) != 0
    executable[_rows_in(kinds, arch.pages(pa[may_execute]), arch.pages((pa + size)[may_execute]))] = True
    found = kinds.kinds.copy()
    for kind, rows in (
        (FrameKind.KEPT, _rows(kinds, kept)),
        (FrameKind.MAPPED, _rows(kinds, mapped)),
        (FrameKind.SWAP_TABLE, _rows(kinds, table_frames(kernel))),
        (FrameKind.PAGE_TABLE, _rows(kinds, tables)),
        (FrameKind.KERNEL_TABLE, _rows(kinds, arch.pages(walk.tables.pa))),
        (FrameKind.VMALLOC, _rows_in(kinds, arch.pages(pa[~direct]), arch.pages((pa + size)[~direct]))),
    ):
        mine = found[rows] == FrameKind.KERNEL
        if kind is FrameKind.KEPT:
            mine |= found[rows] == FrameKind.LARGE_KMALLOC
        found[rows[mine]] = kind
    whole = not walk.truncated and bool(walk.tables.ok.all())
    return Accounted(replace(kinds, kinds=found), executable, whole)


def _rows(kinds: FrameKinds, pfns: U64) -> I64:
    """Places of the frames that there are among ``pfns``."""
    rows = kinds.rows(pfns)
    return rows[rows >= 0]


def _rows_in(kinds: FrameKinds, firsts: U64, ends: U64) -> I64:
    """Places of all frames in ranges ``[first, end)``, which may overlap, each once."""
    order = np.argsort(firsts, kind="stable")
    firsts, ends = firsts[order], np.maximum.accumulate(ends[order]) if len(ends) else ends
    begins = np.ones(len(firsts), np.bool_)
    begins[1:] = firsts[1:] > ends[:-1]
    at = run_starts(begins)
    firsts, ends = firsts[at], ends[run_lasts(at, len(ends))]
    found = [np.zeros(0, np.int64)]
    row = 0
    for low, high in kinds.ranges.tolist():
        near = slice(int(np.searchsorted(ends, low, "right")), int(np.searchsorted(firsts, high, "left")))
        begin, end = np.maximum(firsts[near], np.uint64(low)), np.minimum(ends[near], np.uint64(high))
        _, pfns = expand_ranges(begin, end)
        found.append(pfns - low + row)
        row += high - low
    return np.concatenate(found)
