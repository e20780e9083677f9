"""The kernel half of page tables: the same in every process, and out of reach of user mode.

Every top-level table has a copy of the upper half of the kernel's own (``init_top_pgt``). What a process has there
alone is walked; the kernel's own tables are walked for what user mode could use, and for what of the direct map does
not lead to the frame that its address says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I8, I32, I64, U8, U64, Bools
from vmaforensics.errors import KernelNotFoundError
from vmaforensics.views.pages.contents import content_class
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.arch.page_tables import KernelEntries, Leaves
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.mms import Mms

_MOST = 256  # entries that are walked
_MOST_LEAVES = 4096  # of which contents are looked at


@table()
class KernelLeaves(Table):
    """A row is a leaf entry of the kernel half that is not as it should be, by owner and address."""

    owner: I32  # row of KernelHalfView.entries; -1 for the kernel's own tables
    va: U64
    level: I8
    allow: U8  # ALLOW_* over all levels
    entry: U64
    where: U64  # physical address of the entry
    target: U64  # physical address that it maps


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelHalfView:
    """What of the kernel half is not as in every process.

    ``contents`` are those of the first :data:`_MOST_LEAVES` of ``leaves``, the user's of ``open_leaves``: what their
    first bytes look like, empty where they are not in the image.
    """

    entries: KernelEntries  # of processes, unlike the kernel's own; owner is a row of ``mm``
    mm: U64  # the address spaces that were compared
    pid: I32
    alike: I64  # entries that each has in common with the kernel's table
    expected: int  # entries that the kernel's table has
    span: int  # bytes that a top-level entry maps
    leaves: KernelLeaves  # under ``entries``: what the kernel does not map there
    contents: list[str]
    open_leaves: KernelLeaves  # of the kernel's own tables, for user mode
    open_contents: list[str]
    moved: KernelLeaves  # of the direct map, elsewhere than their address says
    truncated: bool

    def settled(self) -> Bools:
        """Which of ``entries`` stand in what is a top-level table beyond doubt: it has most of the kernel's entries."""
        most: Bools = 2 * self.alike[self.entries.owner] > self.expected
        return most


def gather_kernel_half(kernel: Kernel, mms: Mms, log: ProblemLog) -> KernelHalfView:
    """Compare the kernel half of every address space with the kernel's own.

    Raises :class:`KernelNotFoundError` where the kernel's own table is not known.
    """
    arch, memory = kernel.arch, kernel.memory
    reference = _reference(kernel)
    pgd = np.where(mms.ok, mms.pgd, np.uint64(0))
    roots, _, mapped = kernel.space.translate(pgd)
    usable = mapped & arch.kernel_pointer(pgd)
    judged = mms.take(usable)
    entries, alike, expected = arch.kernel_entries(memory, roots[usable], reference, judged.other_tables)
    if not expected:
        raise KernelNotFoundError("the kernel's top-level page table is not in the image")
    if len(alike) and 2 * int(np.median(alike)) < expected:
        raise KernelNotFoundError("the kernel's top-level page table is not what processes have a copy of")
    walked = arch.walk_kernel_entries(memory, entries.take(slice(0, _MOST)))
    lost = walked.unreadable
    log.add(View.PAGE_TABLES, Problem.UNREADABLE, judged.mm[entries.owner[lost.owner]], lost.pa, lost.va)
    leaves = _foreign(kernel, entries, walked.leaves)
    own = arch.walk_kernel_half(memory, reference)
    opened = _rows(kernel, arch.kernel_leaves_for_user_mode(own.leaves), own=True)
    return KernelHalfView(
        entries=entries,
        mm=judged.mm,
        pid=judged.pid,
        alike=alike,
        expected=expected,
        span=int(arch.span(np.array([arch.levels], np.int8))[0]),
        leaves=leaves,
        contents=_contents(kernel, leaves),
        open_leaves=opened,
        open_contents=_contents(kernel, opened),
        moved=_rows(kernel, _moved(kernel, own.leaves), own=True),
        truncated=len(entries) > _MOST or walked.truncated,
    )


def _reference(kernel: Kernel) -> int:
    """Physical address of the kernel's own top-level table."""
    for name in kernel.arch.kernel_tables.tables:
        at = kernel.symbols.get(name)
        if at is not None:
            pa, _, mapped = kernel.space.translate(np.array([at], np.uint64))
            if mapped[0]:
                return int(pa[0])
    if kernel.root is None:
        raise KernelNotFoundError("the kernel's top-level page table is not known")
    return kernel.root


def _foreign(kernel: Kernel, entries: KernelEntries, leaves: Leaves) -> KernelLeaves:
    """Leaves that are not as the kernel maps them; of a process's own slots, those that user mode can use."""
    target = kernel.arch.target(leaves.entry, leaves.level)
    pa, _, mapped = kernel.space.translate(leaves.va)
    usable = np.isin(leaves.where, kernel.arch.kernel_leaves_for_user_mode(leaves).where)
    own = entries.own[leaves.owner]
    return _rows(kernel, leaves.take(usable | (~own & (~mapped | (pa != target)))))


def _moved(kernel: Kernel, leaves: Leaves) -> Leaves:
    """Leaves of the direct map that do not lead to the frame that their address says."""
    base = np.uint64(kernel.arch.direct_map(kernel.variable))
    with np.errstate(over="ignore"):
        offset = leaves.va - base
    ram = np.uint64(kernel.memory.ranges.max(initial=0))
    return leaves.take(
        (leaves.va >= base) & (offset < ram) & (kernel.arch.target(leaves.entry, leaves.level) != offset)
    )


def _rows(kernel: Kernel, leaves: Leaves, *, own: bool = False) -> KernelLeaves:
    found = KernelLeaves(
        owner=np.full(len(leaves), -1, np.int32) if own else leaves.owner,
        va=leaves.va,
        level=leaves.level,
        allow=leaves.allow,
        entry=leaves.entry,
        where=leaves.where,
        target=kernel.arch.target(leaves.entry, leaves.level),
    )
    return found.sort_by(found.owner, found.va)


def _contents(kernel: Kernel, leaves: KernelLeaves) -> list[str]:
    data, ok = kernel.memory.gather(leaves.target[:_MOST_LEAVES], kernel.arch.page_size)
    return [content_class(row.tobytes()) if held else "" for row, held in zip(data, ok.tolist(), strict=True)]
