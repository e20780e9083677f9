"""The user half of every process's page tables, and what each entry leads to.

All page tables are walked at once, but for the lowest level, which may hold more than memory has room for: its entries
are read in batches (:mod:`vmaforensics.views.pages.entries`). ``struct page`` is read once per distinct frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.known import DEFAULT
from vmaforensics.arch.page_tables import Leaves
from vmaforensics.columns.lookup import values_at
from vmaforensics.views.pages.anon_roots import AnonRoots, read_anon_roots
from vmaforensics.views.pages.contents import page_contents
from vmaforensics.views.pages.entries import Chosen, KeptEntries
from vmaforensics.views.pages.entry_reader import EntryReader
from vmaforensics.views.pages.map_ranges import MapRanges, map_ranges
from vmaforensics.views.pages.mapped_frames import FrameRows
from vmaforensics.views.pages.mapped_pages import Pages, read_pages
from vmaforensics.views.pages.miscounted_frames import MiscountedFrames, find_miscounted
from vmaforensics.views.pages.ptes import Ptes
from vmaforensics.views.pages.read_entries import ENTRY_BYTES, ReadEntries
from vmaforensics.views.pages.rss import read_rss
from vmaforensics.views.pages.table_walk import walk_tables
from vmaforensics.views.problems import ProblemLog

if TYPE_CHECKING:
    from vmaforensics.arch.interface import Architecture
    from vmaforensics.arch.page_tables import IsolatedEntries, TablePages
    from vmaforensics.columns.types import I64, U64, Bools
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.indices.entries import IndexEntries
    from vmaforensics.views.pages.entries import Entries
    from vmaforensics.views.pages.mapped_frames import EntryCounts
    from vmaforensics.views.processes.mms import Mms
    from vmaforensics.views.processes.tasks import Tasks
    from vmaforensics.views.vmas.vmas import Vmas

_KEPT = 1 << 20  # so many entries stay in memory; more are read again for each look at them
_MOST_CONTENTS = 4096  # orphans whose contents are looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTablesView:
    """What the page tables say.

    In ``tables``, ``repeated``, ``unusual`` and ``isolated``, ``owner`` is the row of the mm; ``ranges`` are those of
    all index views, which entries were matched with. ``whole`` is per mm: every table could be read.
    ``repeated``: further places where a table of the same mm at the same level came up again; it was
    not entered there. ``unusual``: entries that lead to tables and are not as the kernel makes them.
    ``isolated``: top-level entries that the user's copy of page-table isolation has differently. What is in that copy
    alone is in ``entries``, ``tables`` and ``unusual`` too.
    """

    arch: Architecture
    entries: Entries
    tables: TablePages
    repeated: TablePages
    ranges: MapRanges
    pages: Pages  # a row per frame that entries lead to, ascending
    anon_roots: AnonRoots
    miscounted: MiscountedFrames
    rss: I64  # stored counters, (mms, rss.KINDS), in pages
    rss_ok: Bools
    orphans: I64  # rows of entries in no range
    contents: list[str]  # of the first of the orphans: what the first bytes of their frames look like
    whole: Bools
    isolated: IsolatedEntries
    isolated_span: int  # bytes that an entry of a top-level table maps
    truncated: bool
    mapped: U64 = field(default_factory=lambda: np.zeros(0, np.uint64))  # frames that any entry leads to, ascending
    # Entries of mms that no task has: ``mm_row`` is a row of those given; VMAs and pages are not matched.
    taskless: Entries = field(default_factory=lambda: KeptEntries(DEFAULT, Ptes.zeros(0)))
    taskless_whole: bool = True  # could all of their tables be read?
    unusual: Leaves = field(default_factory=lambda: Leaves.zeros(0))
    # Rows of entries that map a single page of RAM that is not the page of zeros, marked as a raw page frame.
    raw_ram: I64 = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def ptes(self) -> Ptes:
        """All entries at once: for images that are known to be small."""
        return self.entries.all()

    def in_ranges(self, wanted: Bools) -> Chosen:
        """The entries that were matched with the ``wanted`` of :attr:`ranges`."""
        ranges = self.ranges.take(wanted)
        found = self.entries.inside(ranges.mm_row, ranges.start, ranges.end)
        mine = values_at(wanted, found.ptes.range_row)
        return Chosen(found.rows[mine], found.ptes.take(mine))


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
    ranges = map_ranges(mms, entries)
    reader = EntryReader(kernel, ranges)
    walk = walk_tables(kernel, reader, mms, log)
    pages = read_pages(kernel, walk.frames.frames())
    reader.rows = FrameRows(walk.frames.places, pages.pfn)
    reader.match_pages(walk.large)
    _leave_out_uncounted(walk.large, pages)
    limits = kernel.memory.limits
    read = ReadEntries(kernel.arch, walk.lowest, walk.counts, walk.large, reader.read, limits, walk.digests)
    every = KeptEntries(kernel.arch, read.all()) if len(read) <= limits.batch(ENTRY_BYTES, _KEPT) else read
    others, others_whole = _of_taskless(kernel, mms.take(slice(0)) if taskless is None else taskless, walk.frames)
    rss, rss_ok = read_rss(kernel, mms, tasks, tasks_whole=tasks_whole)
    orphans = read.rows_of(walk.orphans, np.flatnonzero(walk.large.range_row < 0))
    return PageTablesView(
        arch=kernel.arch,
        entries=every,
        tables=walk.tables,
        repeated=walk.repeated,
        unusual=walk.unusual,
        ranges=ranges,
        pages=pages,
        anon_roots=read_anon_roots(kernel, pages, vmas),
        mapped=walk.frames.mapped(),
        taskless=others,
        taskless_whole=others_whole,
        miscounted=find_miscounted(kernel, walk.frames),
        rss=rss,
        rss_ok=rss_ok,
        orphans=orphans,
        contents=page_contents(kernel, every.take(orphans[:_MOST_CONTENTS])),
        whole=walk.whole,
        isolated=walk.isolated,
        isolated_span=int(kernel.arch.span(np.array([kernel.arch.levels], np.int8))[0]),
        truncated=walk.truncated,
        raw_ram=read.rows_of(walk.raw_ram, np.zeros(0, np.int64)),
    )


def _leave_out_uncounted(large: Ptes, pages: Pages) -> None:
    """A huge page that names nobody is the huge zero page, or raw memory of a device; neither is counted."""
    nobody = (pages.mapping == 0) & ~pages.anon & ~pages.hugetlb & pages.ok
    uncounted = np.flatnonzero((large.level == 2) & values_at(nobody, large.page_row))
    large.special[uncounted] = True
    large.page_row[uncounted] = -1


def _of_taskless(kernel: Kernel, mms: Mms, frames: EntryCounts) -> tuple[Entries, bool]:
    """The entries of mms that no task has, which are counted too, and whether all their tables could be read.

    What is wrong with them is no fault of a process's: it is not among the problems.
    """
    if not len(mms):
        return KeptEntries(kernel.arch, Ptes.zeros(0)), True
    reader = EntryReader(kernel, None)
    walk = walk_tables(kernel, reader, mms, ProblemLog())
    frames.include(walk.frames)
    limits = kernel.memory.limits
    return ReadEntries(kernel.arch, walk.lowest, walk.counts, walk.large, reader.read, limits), bool(walk.whole.all())
