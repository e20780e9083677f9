"""Code that processes run, against the page cache of the file it is said to come from.

Executable VMAs of files are filled with pages of the page cache (filemap_map_pages, mm/filemap.c). A write through a
private mapping, by a debugger or by the process itself, puts an anonymous copy in the place of one
(do_cow_fault, wp_page_copy, mm/memory.c). While the page cache still has the page, both can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import sort_order, values_at
from vmaforensics.columns.ragged import expand
from vmaforensics.columns.runs import begins_run, run_numbers, run_starts
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I32, I64, U64, Bools
from vmaforensics.views.pages.page_cache import LARGEST_FOLIO, cached_frames
from vmaforensics.views.pages.text_match import SHOWN, Match, TextPages, compare_pages
from vmaforensics.views.pages.uprobes import read_uprobes
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from vmaforensics.arch.interface import Architecture
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.processes.tasks import Tasks
    from vmaforensics.views.vmas.files import Files
    from vmaforensics.views.vmas.vmas import Vmas

_MOST = 1 << 20  # pages of mapped code looked at: 4 GiB


@dataclass(frozen=True, slots=True, kw_only=True)
class TextView:
    """Pages of code that are not those of the page cache.

    ``judged`` counts all pages of mapped code that were looked up, ``unindexed`` those among them that name their
    place in the file themselves and could not be looked up in the page cache's index.
    """

    pages: TextPages
    judged: int
    unindexed: int
    probes_known: bool  # every registered uprobe could be read


@table()
class _Candidates(Table):
    """A row for every page that an executable VMA of a regular file has present."""

    pte_row: I64
    page_row: I32
    vma_row: I64
    va: U64
    pfn: U64
    index: U64  # pages into the file
    mapping: U64  # address_space of the file


def gather_text_pages(
    kernel: Kernel, tasks: Tasks, vmas: Vmas, files: Files, view: PageTablesView, log: ProblemLog
) -> TextView:
    """Compare the pages of executable VMAs of files with the page cache.

    Raises :class:`KernelNotFoundError` where the kernel's types lack what that takes.
    """
    rows = _candidates(kernel.arch, vmas, files, view, log)
    # Most pages are those of a few libraries: each place in each file is looked up once.
    places = _distinct(rows.mapping, rows.index)
    found = cached_frames(kernel, rows.mapping[places.first], rows.index[places.first])
    cached, match = found.frames[places.which], found.match[places.which]
    # A page that names its own place in the file, and that the index no longer has, is leaving the page cache.
    own = _names_its_place(view, rows)
    other = (match == Match.EQUAL) & (cached != rows.pfn)
    unknown = match != Match.EQUAL
    unindexed = int((own & (match == Match.NOT_INDEXED)).sum())
    judged = len(rows)
    keep = other | (unknown & ~own)
    rows, cached, match = rows.take(keep), cached[keep], match[keep]
    uprobes = read_uprobes(kernel)
    pages = TextPages.of(
        pte_row=rows.pte_row,
        vma_row=rows.vma_row,
        va=rows.va,
        pfn=rows.pfn,
        cached=cached,
        index=rows.index,
        match=match,
        now=np.zeros((len(rows), SHOWN), np.uint8),
        was=np.zeros((len(rows), SHOWN), np.uint8),
        traced=np.isin(vmas.mm[rows.vma_row], traced_mms(kernel, tasks)),
    )
    compare_pages(kernel, pages, rows.mapping, uprobes.probes)
    return TextView(pages=pages, judged=judged, unindexed=unindexed, probes_known=uprobes.whole)


def _names_its_place(view: PageTablesView, rows: _Candidates) -> Bools:
    """Does struct page say that the page is the file's, at that place?"""
    at, pages = rows.page_row.astype(np.int64), view.pages
    own = values_at(pages.ok & ~pages.anon, at) & (values_at(pages.mapping, at) == rows.mapping)
    index = values_at(pages.index, at)  # of the first page that the entry maps
    with np.errstate(over="ignore"):
        inside: Bools = own & (rows.index - index < np.uint64(LARGEST_FOLIO))
    return inside


class _Distinct(NamedTuple):
    """Distinct places in files."""

    first: I64  # a row of each
    which: I64  # of each row, its place among the distinct


def _distinct(mapping: U64, index: U64) -> _Distinct:
    order = sort_order(mapping, index)
    begins = begins_run(mapping[order], index[order])
    which = np.zeros(len(order), np.int64)
    which[order] = run_numbers(begins)
    return _Distinct(order[run_starts(begins)], which)


def _candidates(arch: Architecture, vmas: Vmas, files: Files, view: PageTablesView, log: ProblemLog) -> _Candidates:
    """The pages of code that page tables lead to, no more than a bound."""
    code = vmas.ok & ((vmas.flags & np.uint64(flags.VM_EXEC)) != 0)
    code &= np.isin(vmas.kind, (Kind.FILE, Kind.SHARED_MEMORY))
    code &= values_at(files.regular & files.ok, vmas.file_row)
    at, ptes = view.in_ranges(values_at(code, view.ranges.vma_row))
    mapped = ptes.maps_frames() & (ptes.level <= 2)
    at, ptes = at[mapped], ptes.take(mapped)
    vma_row = view.ranges.vma_row[ptes.range_row].astype(np.int64)
    parts = ptes.pages(arch)
    last = int(np.searchsorted(np.cumsum(parts), _MOST, "right"))
    if last < len(at):
        log.add(View.PAGE_TABLES, Problem.CUT_SHORT, 0, int(ptes.where[last]), len(at) - last)
        at, ptes, parts = at[:last], ptes.take(slice(last)), parts[:last]
    entry, number = expand(parts)
    ptes, vma_row = ptes.take(entry), vma_row[entry]
    va = ptes.va + number.astype(np.uint64) * np.uint64(arch.page_size)
    with np.errstate(over="ignore"):
        index = vmas.pgoff[vma_row] + arch.pages(va - vmas.start[vma_row])
    return _Candidates(
        pte_row=at[entry],
        page_row=ptes.page_row,
        vma_row=vma_row,
        va=va,
        pfn=ptes.pfn + number.astype(np.uint64),
        index=index,
        mapping=values_at(files.mapping, vmas.file_row[vma_row]),
    )


def traced_mms(kernel: Kernel, tasks: Tasks) -> U64:
    """The mms of processes of which some thread has a tracer (``task_struct.ptrace``)."""
    if not kernel.has("task_struct", "ptrace"):
        return np.zeros(0, np.uint64)
    ptrace, ok = kernel.gather_member("task_struct", "ptrace", tasks.task)
    mms: U64 = tasks.mm[tasks.ok & ok & (ptrace != 0)]
    return mms
