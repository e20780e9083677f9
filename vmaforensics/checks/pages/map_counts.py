"""What pages and counters say of the number of mappings, against the entries there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import PteState
from vmaforensics.checks import rules
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.pages.page_marks import MARKS, entry_marks
from vmaforensics.views.pages.rss import KINDS
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.arch.interface import Architecture
    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.pages.ptes import Ptes

_MOST = 256  # pages whose place is looked for


def check_residents(context: Context) -> Iterator[Finding]:
    """MM-RSS, MM-PGTABLES and PTE-ERASED, for processes whose page tables could be read whole."""
    view = context.views.page_tables
    if view is None:
        return
    yield from _rss(context, view)
    yield from _table_pages(context, view)
    if view.whole.all():
        yield from _claims(context, view)


def resident(view: PageTablesView, count: int) -> NDArray[np.int64]:
    """Pages by kind of counter (``rss.KINDS``) that the page tables of each mm hold, shape ``(count, 4)``."""
    ptes = view.ptes
    total = np.zeros((count, len(KINDS)), np.int64)
    if len(view.pages):
        pages = view.pages
        kind = np.where(pages["anon"], 1, np.where(pages["swapbacked"], 3, 0))
        counted = (ptes["page_row"] >= 0) & (pages["ok"] & ~pages["hugetlb"])[ptes["page_row"]]
        total += _sums(view.arch, ptes[counted], kind[ptes["page_row"][counted]], count)
    swapped = ptes[ptes["state"] == PteState.SWAP]
    return total + _sums(view.arch, swapped, np.full(len(swapped), 2), count)


def _sums(arch: Architecture, ptes: Ptes, kind: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Pages that ``ptes`` map by mm and kind of counter."""
    cell = ptes["mm_row"].astype(np.int64) * len(KINDS) + kind
    sums = np.bincount(cell, weights=ptes.pages(arch), minlength=count * len(KINDS))
    return sums.astype(np.int64).reshape(count, len(KINDS))


def table_bytes(context: Context, view: PageTablesView) -> NDArray[np.int64]:
    """What ``pgtables_bytes`` should be: tables, and those kept in store for anonymous huge pages."""
    total = np.zeros(len(context.views.mms), np.int64)
    counted = view.tables.level <= view.arch.counted_levels
    np.add.at(total, view.tables.owner[counted], view.arch.page_size)
    ptes = view.ptes[view.ptes["level"] == 2]
    anonymous = np.zeros(len(ptes), np.bool_)
    if len(view.pages):
        page = view.pages[ptes["page_row"]]
        anonymous = (ptes["page_row"] >= 0) & page["anon"] & ~page["hugetlb"]
    np.add.at(total, ptes["mm_row"][anonymous | ptes["special"]], view.arch.page_size)
    return total


def _rss(context: Context, view: PageTablesView) -> Iterator[Finding]:
    there = resident(view, len(context.views.mms))
    other = np.zeros(len(context.views.mms), np.bool_)
    # Migration and device-private entries are counted by the page they stand for.
    other[view.ptes["mm_row"][view.ptes["state"] == PteState.OTHER]] = True
    unread = np.zeros(len(context.views.mms), np.bool_)
    if len(view.pages):
        lost = (view.ptes["page_row"] >= 0) & ~view.pages["ok"][view.ptes["page_row"]]
        unread[view.ptes["mm_row"][lost]] = True
    judged = view.whole & view.rss_ok & ~other & ~unread
    row, kind = np.nonzero((there != view.rss) & judged[:, None])

    def evidence(at: int) -> Evidence:
        name = KINDS[int(kind[at])]
        return Evidence(
            what=f"{name} is {int(view.rss[row[at], kind[at]])} pages, the page tables hold "
            f"{int(there[row[at], kind[at]])}",
            view=View.COUNTERS.label,
            address=int(context.views.mms["mm"][row[at]]),
            found=str(int(view.rss[row[at], kind[at]])),
            expected=str(int(there[row[at], kind[at]])),
        )

    yield from context.per_mm(
        rules.RSS,
        context.views.mms["mm"][row],
        evidence,
        lambda at: f"{KINDS[int(kind[at])]} disagrees with what the page tables hold",
    )


def _table_pages(context: Context, view: PageTablesView) -> Iterator[Finding]:
    mms = context.views.mms
    expected = table_bytes(context, view)
    # A local descriptor table is mapped by page tables of its own in the kernel half.
    judged = view.whole & mms["ok"] & (mms["ldt"] == 0)
    if len(view.pages):  # whether a table is kept in store is told by the huge page it is kept for
        large = view.ptes[(view.ptes["level"] == 2) & (view.ptes["page_row"] >= 0)]
        judged[large["mm_row"][~view.pages["ok"][large["page_row"]]]] = False
    wrong = np.flatnonzero((mms["pgtables_bytes"] != expected) & judged)
    if "pgtables_bytes" not in context.views.mm_offsets:
        return
    yield from context.per_mm(
        rules.PGTABLES,
        mms["mm"][wrong],
        lambda row: Evidence(
            what="pgtables_bytes is not what the tables there are take",
            view=View.COUNTERS.label,
            address=int(mms["mm"][wrong[row]]) + context.views.mm_offsets["pgtables_bytes"],
            found=str(int(mms["pgtables_bytes"][wrong[row]])),
            expected=str(int(expected[wrong[row]])),
        ),
        lambda row: "pgtables_bytes disagrees with the page tables there are",
    )


def _claims(context: Context, view: PageTablesView) -> Iterator[Finding]:
    """Pages that say they are mapped more often than page tables lead to them, and the reverse."""
    claims = view.miscounted
    more = claims.pages["mapcount"] > claims.entries
    places = _ghosts(context, view, claims.pages["pfn"], ~more)
    for row in [row for row in range(len(more)) if row not in places][:_MOST]:
        place = _place(context, view, claims.pages[row], bool(more[row]))
        if place is not None:
            places[row] = place
    mm = np.zeros(len(more), np.uint64)
    mm[list(places)] = [place[0] for place in places.values()]

    def evidence(row: int) -> Evidence:
        page = claims.pages[row]
        return Evidence(
            what=f"page frame {int(page['pfn']):#x} counts {int(page['mapcount'])} mappings, page tables hold "
            f"{int(claims.entries[row])}",
            view=View.PAGES.label,
            address=int(page["pfn"]) << 12,
            found=str(int(page["mapcount"])),
            expected=str(int(claims.entries[row])),
        )

    def bounds(row: int) -> tuple[int, int] | None:
        place = places.get(row)
        return None if place is None else (place[1], place[1] + 4096)

    def title(row: int) -> str:
        place = places.get(row)
        where = f" at {place[1]:#x}" if place else ""
        if more[row]:
            return f"a page that counts itself as mapped{where} is in no page table"
        return f"a page is mapped{where} by more entries than it counts"

    yield from context.per_mm(rules.ERASED, mm, evidence, title, bounds)


def _ghosts(
    context: Context, view: PageTablesView, pfns: NDArray[np.uint64], which: NDArray[np.bool_]
) -> dict[int, tuple[int, int]]:
    """(mm, address) of an entry outside every area that leads to the frame, for those of ``which`` that have one."""
    orphans = view.ptes[view.orphans]
    orphans = orphans[orphans["page_row"] >= 0]
    frames, first = np.unique(orphans["pfn"], return_index=True)
    rows = np.flatnonzero(which)
    if not len(frames) or not len(rows):
        return {}
    at = np.minimum(np.searchsorted(frames, pfns[rows]), len(frames) - 1)
    hit = frames[at] == pfns[rows]
    found = orphans[first[at[hit]]]
    mm = context.views.mms["mm"][found["mm_row"]]
    return dict(zip(rows[hit].tolist(), zip(mm.tolist(), found["va"].tolist(), strict=True), strict=True))


def _place(context: Context, view: PageTablesView, page: np.void, more: bool) -> tuple[int, int] | None:
    """(mm, address) that a page's wrong count is about, if just one place fits.

    Too few counted: an entry that leads to the page; :func:`_ghosts` has looked at those outside every area. Too
    many: an area that maps the page's own file or anon_vma, whose entry at that place is gone or leads to a stranger.
    """
    mms = context.views.mms["mm"]
    if not more:
        rows = np.flatnonzero((view.ptes["pfn"] == page["pfn"]) & (view.ptes["page_row"] >= 0))
        chosen = rows[_strange(context, rows)]
        return (int(mms[view.ptes["mm_row"][chosen[0]]]), int(view.ptes["va"][chosen[0]])) if len(chosen) else None
    vmas = context.views.vmas
    if page["anon"]:
        fits = (vmas["anon_vma"] == page["mapping"]) & (vmas["anon_vma"] != 0)
        base = vmas["anon_pgoff"]
    else:
        files = context.views.files
        if files is None or not len(files.rows):
            return None
        fits = (files.rows["mapping"][vmas["file_row"]] == page["mapping"]) & (vmas["file_row"] >= 0)
        base = vmas["pgoff"]
    length = (vmas["end"] - vmas["start"]) >> np.uint64(view.arch.page_shift)
    fits &= vmas["ok"] & (page["index"] >= base) & (page["index"] - base < length)
    rows = np.flatnonzero(fits)
    va = vmas["start"][rows] + ((page["index"] - base[rows]) << np.uint64(view.arch.page_shift))
    mm_row = context.views.mm_rows(vmas["mm"][rows])
    at = view.ptes.rows_at(view.arch, mm_row, va)
    strange = (mm_row >= 0) & (at >= 0)
    strange[strange] = _strange(context, at[strange])
    empty = (mm_row >= 0) & (at < 0)
    for which in (np.flatnonzero(strange), np.flatnonzero(empty)):
        if len(which) == 1:
            return int(mms[mm_row[which[0]]]), int(va[which[0]])
    return None


def _strange(context: Context, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which entries lead to a page that does not name what their area maps?"""
    bits = sum(1 << bit for bit, mark in enumerate(MARKS) if mark.rule in (rules.PTE_KERNEL, rules.PTE_REMAP))
    answer: NDArray[np.bool_] = (entry_marks(context.views, rows.astype(np.intp)) & np.uint32(bits)) != 0
    return answer
