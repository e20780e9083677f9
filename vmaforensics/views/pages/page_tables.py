"""The user half of every process's page tables, and what each entry leads to.

All page tables are walked at once; ``struct page`` is read once per distinct frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.arch.page_tables import Leaves, PteState, TablePages
from vmaforensics.columns.lookup import covering_rows
from vmaforensics.views.pages.anon_roots import AnonRoots, read_anon_roots
from vmaforensics.views.pages.contents import page_contents
from vmaforensics.views.pages.map_ranges import MapRanges, map_ranges
from vmaforensics.views.pages.mapped_pages import Pages, read_mapped_pages
from vmaforensics.views.pages.miscounted_frames import MiscountedFrames, find_miscounted
from vmaforensics.views.pages.page_names import huge_zero_frame
from vmaforensics.views.pages.ptes import Ptes, place_keys
from vmaforensics.views.pages.rss import read_rss
from vmaforensics.views.pages.stale_tables import find_strangers
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.arch.interface import Architecture
    from vmaforensics.arch.page_tables import IsolatedEntries
    from vmaforensics.columns.types import I64, Bools
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.indices.entries import IndexEntries
    from vmaforensics.views.processes.mms import Mms
    from vmaforensics.views.processes.tasks import Tasks
    from vmaforensics.views.vmas.vmas import Vmas

_LEAST_SWAPFILES = 23  # the least MAX_SWAPFILES of any configuration
_SWAP_TYPES = 32  # 1 << MAX_SWAPFILES_SHIFT
_MOST_CONTENTS = 4096  # orphans whose contents are looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTablesView:
    """What the page tables say.

    In ``tables``, ``repeated`` and ``isolated``, ``owner`` is the row of the mm; ``ranges`` are those of all index
    views, which entries were matched with. ``whole`` is per mm: every table could be read.
    ``repeated``: further places where a table of the same mm at the same level came up again; it was
    not entered there. ``isolated``: top-level entries that the user's copy of page-table
    isolation has differently. What is in that copy alone is in ``ptes`` and ``tables`` too.
    """

    arch: Architecture
    ptes: Ptes
    tables: TablePages
    repeated: TablePages
    ranges: MapRanges
    pages: Pages  # a row per frame that entries lead to, ascending
    anon_roots: AnonRoots
    miscounted: MiscountedFrames
    rss: I64  # stored counters, (mms, rss.KINDS), in pages
    rss_ok: Bools
    orphans: I64  # rows of ptes in no range
    contents: list[str]  # of the first of the orphans: what the first bytes of their frames look like
    whole: Bools
    isolated: IsolatedEntries
    isolated_span: int  # bytes that an entry of a top-level table maps
    truncated: bool
    # Entries of mms that no task has: ``mm_row`` is a row of those given, ``page_row`` means nothing here.
    taskless: Ptes = field(default_factory=lambda: Ptes.zeros(0))
    taskless_whole: bool = True  # could all of their tables be read?
    # Rows of ``ptes`` that map a single page of RAM that is not the page of zeros, marked as a raw page frame.
    raw_ram: I64 = field(default_factory=lambda: np.zeros(0, np.int64))


def gather_page_tables(
    kernel: Kernel,
    tasks: Tasks,
    mms: Mms,
    vmas: Vmas,
    entries: IndexEntries,
    log: ProblemLog,
    *,
    tasks_whole: bool,
    taskless: Mms | None = None,
) -> PageTablesView:
    """Walk the page tables of every mm and match every entry with a VMA and a page.

    Entries of ``taskless``, mms that no task has, count where entries are added up; they are matched with nothing else.
    ``tasks`` are all that are known, ``tasks_whole`` if the kernel's own lists of them could be read to their ends;
    ``entries`` are those of all indices of VMAs, each VMA once.
    Raises :class:`KernelNotFoundError` where the kernel's types lack what that takes.
    """
    walk = _walk(kernel, mms, log)
    ptes = _decoded(kernel, walk.leaves)
    walk = walk._replace(leaves=Leaves.zeros(0))  # as large as the entries
    ranges = map_ranges(mms, entries)
    ptes.range_row[:] = ranges.rows_at(kernel.arch, ptes.mm_row, ptes.va)
    pages = _match_pages(kernel, ptes)
    others, others_whole = _of_taskless(kernel, mms.take(slice(0)) if taskless is None else taskless)
    rss, rss_ok = read_rss(kernel, mms, tasks, tasks_whole=tasks_whole)
    orphans = np.flatnonzero(ptes.range_row < 0)
    return PageTablesView(
        arch=kernel.arch,
        ptes=ptes,
        tables=walk.tables,
        repeated=walk.repeated,
        ranges=ranges,
        pages=pages,
        anon_roots=read_anon_roots(kernel, pages, vmas),
        taskless=others,
        taskless_whole=others_whole,
        miscounted=find_miscounted(kernel, [ptes, others]),
        rss=rss,
        rss_ok=rss_ok,
        orphans=orphans,
        contents=page_contents(kernel, ptes.take(orphans[:_MOST_CONTENTS])),
        whole=walk.whole,
        isolated=walk.isolated,
        isolated_span=int(kernel.arch.span(np.array([kernel.arch.levels], np.int8))[0]),
        truncated=walk.truncated,
        raw_ram=_raw_ram(kernel, ptes),
    )


class _Walked(NamedTuple):
    """Both walks in one, ``owner`` being the row of the mm."""

    leaves: Leaves
    tables: TablePages
    repeated: TablePages
    isolated: IsolatedEntries
    whole: Bools
    truncated: bool


def _walk(kernel: Kernel, mms: Mms, log: ProblemLog) -> _Walked:
    """Walk the page tables of every mm, and what is in the user's copy of them alone."""
    arch, memory = kernel.arch, kernel.memory
    pgd = np.where(mms.ok, mms.pgd, np.uint64(0))
    roots, _, mapped = kernel.space.translate(pgd)
    usable = mapped & arch.kernel_pointer(pgd)
    rows = np.flatnonzero(usable)
    log.add(View.PAGE_TABLES, Problem.UNREADABLE, mms.mm[~usable], pgd[~usable])
    found = arch.walk_user(memory, roots[rows])
    isolated = arch.differing_entries(memory, roots[rows])
    user_only = arch.walk_user_only(memory, roots[rows], isolated)
    leaves = Leaves.concatenate([found.leaves, user_only.leaves] if len(user_only.leaves) else [found.leaves])
    tables = TablePages.concatenate([found.tables, user_only.tables])
    repeated = TablePages.concatenate([found.repeated, user_only.repeated])
    for owner in (leaves.owner, tables.owner, repeated.owner, isolated.owner):
        owner[:] = rows[owner]
    lost = tables.take(~tables.ok)
    log.add(View.PAGE_TABLES, Problem.UNREADABLE, mms.mm[lost.owner], lost.pa, lost.va)
    strangers = find_strangers(kernel, leaves, tables)
    stale = tables.take(strangers.tables)
    log.add(View.PAGE_TABLES, Problem.STALE, mms.mm[stale.owner], stale.pa, stale.va)
    if strangers.foreign.any():
        leaves = leaves.take(~strangers.leaves)
        tables.ok[strangers.foreign] = False
        lost = tables.take(~tables.ok)
    whole = usable.copy()
    whole[lost.owner] = False
    truncated = found.truncated or user_only.truncated
    if truncated:
        log.add(View.PAGE_TABLES, Problem.CUT_SHORT, 0, 0)
        whole[:] = False
    return _Walked(leaves, tables, repeated, isolated, whole, truncated)


def _of_taskless(kernel: Kernel, mms: Mms) -> tuple[Ptes, bool]:
    """The entries of mms that no task has, and whether all their tables could be read.

    What is wrong with them is no fault of a process's: it is not among the problems.
    """
    walk = _walk(kernel, mms, ProblemLog())
    ptes = _decoded(kernel, walk.leaves)
    _match_pages(kernel, ptes)
    return ptes, bool(walk.whole.all())


def _decoded(kernel: Kernel, leaves: Leaves) -> Ptes:
    """What each leaf entry says, by mm and address; pages and VMAs are not matched yet."""
    # The walk gives the entries of each level in this order; a stable sort merges such runs quickly.
    leaves = leaves.sort_by(place_keys(kernel.arch, leaves.owner, leaves.va))
    meaning = kernel.arch.decode(leaves, _swap_types(kernel))
    zero = huge_zero_frame(kernel)
    if zero is not None:
        meaning.special[:] |= (leaves.level == 2) & (meaning.pfn == np.uint64(zero))
    unmatched = np.full(len(leaves), -1, np.int32)
    return Ptes(
        mm_row=leaves.owner,
        level=leaves.level,
        state=meaning.state,
        allow=leaves.allow,
        special=meaning.special,
        va=leaves.va,
        entry=leaves.entry,
        where=leaves.where,
        pfn=meaning.pfn,
        page_row=unmatched,
        range_row=unmatched.copy(),
    )


def _match_pages(kernel: Kernel, ptes: Ptes) -> Pages:
    """The pages that ``ptes`` lead to, whose ``page_row`` and ``special`` are filled in."""
    counted = np.flatnonzero(ptes.maps_frames() & ~ptes.special)
    pages, rows = read_mapped_pages(kernel, ptes.pfn[counted])
    ptes.page_row[counted] = rows
    # A huge page that names nobody is the huge zero page, or raw memory of a device; neither is counted.
    nobody = (pages.mapping == 0) & ~pages.anon & ~pages.hugetlb & pages.ok
    uncounted = counted[(ptes.level[counted] == 2) & nobody[rows]]
    ptes.special[uncounted] = True
    ptes.page_row[uncounted] = -1
    return pages


def _raw_ram(kernel: Kernel, ptes: Ptes) -> I64:
    """Single pages of RAM, but for that of zeros, whose entries are marked as raw page frames (vm_normal_page)."""
    zero = kernel.variable("zero_pfn", 8)
    at = np.array([at for at in (kernel.symbols.get("empty_zero_page"),) if at is not None], np.uint64)
    pa, _, mapped = kernel.space.translate(at)
    zeros = np.append(kernel.arch.pages(pa[mapped]), np.array([] if zero is None else [zero], np.uint64))
    if not len(zeros):
        return np.zeros(0, np.int64)
    rows = np.flatnonzero(ptes.special & (ptes.level == 1) & (ptes.state == PteState.PRESENT))
    rows = rows[kernel.arch.special(ptes.entry[rows]) & ~np.isin(ptes.pfn[rows], zeros)]
    ranges = kernel.arch.pages(kernel.memory.ranges)
    return rows[covering_rows(ranges[:, 0], ranges[:, 1], ptes.pfn[rows]) >= 0].astype(np.int64)


def _swap_types(kernel: Kernel) -> int:
    """Swap files there are or were; the types above them are migration, device and marker entries."""
    count = kernel.variable("nr_swapfiles", 4)
    return _LEAST_SWAPFILES if count is None else min(count, _SWAP_TYPES)
