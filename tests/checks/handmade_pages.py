"""Page tables made by hand: the first page of every VMA of views made by hand, mapped as the kernel would.

    view = add_page_tables(views, Entry(pid=100, va=0x10000, pfn=0x99))
    view.ptes.allow[entry_row(views, 0x400000)] |= ALLOW_WRITE  # break one record

Anonymous VMAs get an anon_vma of their own. Every page has a frame, in the order of its process and address, and counts
one mapping. Counters of the mm follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from checks.handmade_views import PAGE, mm_of
from vmaforensics.arch.page_tables import (
    ALLOW_EXECUTE,
    ALLOW_USER,
    ALLOW_WRITE,
    IsolatedEntries,
    PteState,
    TablePages,
)
from vmaforensics.views.pages.anon_roots import AnonRoots
from vmaforensics.views.pages.entries import KeptEntries
from vmaforensics.views.pages.map_ranges import map_ranges
from vmaforensics.views.pages.mapped_pages import Pages
from vmaforensics.views.pages.miscounted_frames import MiscountedFrames
from vmaforensics.views.pages.page_tables import PageTablesView
from vmaforensics.views.pages.ptes import Ptes
from vmaforensics.views.pages.rss import KINDS
from vmaforensics.views.vmas import flags
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from vmaforensics.views.views import Views

FRAMES = 0x1000  # number of the first frame that VMAs map
TABLES = 0x100_0000  # physical address of the first page table
ANON_VMAS = 0xFFFF_8880_9000_0000
_FILE, _ANONYMOUS, _SWAP, _SHARED = range(len(KINDS))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A page-table entry, of a page that belongs to nobody unless it is one of the frames of VMAs."""

    pid: int
    va: int
    pfn: int
    allow: int = ALLOW_USER
    level: int = 1
    state: PteState = PteState.PRESENT


def entry_row(views: Views, va: int) -> int:
    """Row of the only entry for ``va``."""
    assert views.page_tables is not None
    (row,) = np.flatnonzero(views.page_tables.ptes.va == np.uint64(va)).tolist()
    return int(row)


def page_row(views: Views, va: int) -> int:
    """Row of the page behind the only entry for ``va``."""
    assert views.page_tables is not None
    return int(views.page_tables.ptes.page_row[entry_row(views, va)])


def add_page_tables(views: Views, *extra: Entry) -> PageTablesView:
    """Give ``views`` page tables: those of its VMAs, with some ``extra`` entries."""
    vmas = views.vmas
    anonymous = np.flatnonzero(vmas.kind == Kind.ANONYMOUS)
    vmas.anon_vma[anonymous] = ANON_VMAS + 256 * anonymous.astype(np.uint64)
    entries = sorted([*_entries(views), *extra], key=lambda entry: (entry.pid, entry.va))
    pages = _pages(views, entries)
    ptes = _ptes(views, entries, pages)
    tables = _tables(views, entries)
    views.mms.pgtables_bytes[:] = PAGE * np.bincount(tables.owner[tables.level <= 3], minlength=len(views.mms))
    ranges = map_ranges(views.mms, views.union)
    ptes.range_row[:] = ranges.rows_at(views.arch, ptes.mm_row, ptes.va)
    orphans = np.flatnonzero(ptes.range_row < 0)
    known = np.unique(vmas.anon_vma[anonymous])
    views.page_tables = PageTablesView(
        arch=views.arch,
        entries=KeptEntries(views.arch, ptes),
        tables=tables,
        repeated=TablePages.zeros(0),
        ranges=ranges,
        pages=pages,
        anon_roots=AnonRoots.of(len(known), anon_vma=known, root=known),
        miscounted=MiscountedFrames(pages=Pages.zeros(0), entries=np.zeros(0, np.int64)),
        rss=_rss(views, ptes, pages),
        rss_ok=np.ones(len(views.mms), np.bool_),
        orphans=orphans,
        contents=["data"] * len(orphans),
        whole=np.ones(len(views.mms), np.bool_),
        isolated=IsolatedEntries.zeros(0),
        isolated_span=1 << 39,
        truncated=False,
    )
    return views.page_tables


def miscount(views: Views, va: int, counted: int) -> None:
    """Have the page behind ``va`` count other mappings than the one it has."""
    view = views.page_tables
    assert view is not None
    pages = view.pages.take(np.array([page_row(views, va)]))
    pages.mapcount[0] = counted
    entries = np.array([int((view.ptes.pfn == pages.pfn[0]).sum())], np.int64)
    object.__setattr__(view, "miscounted", MiscountedFrames(pages=pages, entries=entries))


def _entries(views: Views) -> list[Entry]:
    """The first page of every VMA; private anonymous memory has been written to."""
    entries = []
    for row in range(len(views.vmas)):
        vm_flags, kind = int(views.vmas.flags[row]), int(views.vmas.kind[row])
        allow = ALLOW_USER | (ALLOW_EXECUTE if vm_flags & flags.VM_EXEC else 0)
        if vm_flags & flags.VM_WRITE and (vm_flags & flags.VM_SHARED or kind == Kind.ANONYMOUS):
            allow |= ALLOW_WRITE
        (pid,) = views.mms.pid[views.mms.mm == views.vmas.mm[row]].tolist()
        entries.append(Entry(pid=pid, va=int(views.vmas.start[row]), pfn=FRAMES + row, allow=allow))
    return entries


def _pages(views: Views, entries: list[Entry]) -> Pages:
    """The frames of VMAs name the file or anon_vma and the place; others name nobody."""
    pfns = sorted({entry.pfn for entry in entries})
    ones = [1] * len(pfns)
    pages = Pages.of(len(pfns), pfn=pfns, head=pfns, ok=[True] * len(pfns), mapcount=ones, refcount=ones)
    vmas = views.vmas
    for page, pfn in enumerate(pfns):
        row = pfn - FRAMES
        if 0 <= row < len(vmas):
            pages.anon[page] = vmas.kind[row] == Kind.ANONYMOUS
            pages.index[page] = vmas.anon_pgoff[row] if pages.anon[page] else vmas.pgoff[row]
            pages.swapbacked[page] = pages.anon[page] or vmas.kind[row] == Kind.SHARED_MEMORY
            if pages.anon[page]:
                pages.mapping[page] = vmas.anon_vma[row]
            elif views.files is not None:
                pages.mapping[page] = views.files.rows.mapping[vmas.file_row[row]]
    return pages


def _ptes(views: Views, entries: list[Entry], pages: Pages) -> Ptes:
    mm_rows = views.mm_rows(np.array([mm_of(entry.pid) for entry in entries], np.uint64))
    pfns = np.array([entry.pfn for entry in entries], np.uint64)
    mapped = np.array([entry.state <= PteState.PROTNONE for entry in entries])
    return Ptes.of(
        len(entries),
        mm_row=mm_rows,
        level=[entry.level for entry in entries],
        state=[entry.state for entry in entries],
        allow=[entry.allow for entry in entries],
        va=[entry.va for entry in entries],
        entry=pfns << np.uint64(12) | np.uint64(1),
        where=[0x200_0000 + 8 * number for number in range(len(entries))],
        pfn=pfns,
        page_row=np.where(mapped, np.searchsorted(pages.pfn, pfns), -1),
    )


def _tables(views: Views, entries: list[Entry]) -> TablePages:
    """The tables that lead to ``entries``, each once, from the top."""
    places = sorted(
        {
            (-level, mm_of(entry.pid), entry.va >> (12 + 9 * level) << (12 + 9 * level))
            for entry in entries
            for level in range(entry.level, 5)
        }
    )
    return TablePages.of(
        len(places),
        pa=[TABLES + PAGE * number for number in range(len(places))],
        va=[va for _, _, va in places],
        owner=views.mm_rows(np.array([mm for _, mm, _ in places], np.uint64)),
        level=[-level for level, _, _ in places],
        ok=[True] * len(places),
    )


def _rss(views: Views, ptes: Ptes, pages: Pages) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    rss = np.zeros((len(views.mms), len(KINDS)), np.int64)
    for row in range(len(ptes)):
        page = int(ptes.page_row[row])
        kind = _SWAP if page < 0 else _ANONYMOUS if pages.anon[page] else _SHARED if pages.swapbacked[page] else _FILE
        rss[ptes.mm_row[row], kind] += 1
    return rss
