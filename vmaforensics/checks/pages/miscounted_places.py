"""Where in which process a page belongs whose count of mappings is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.checks.pages.page_marks import Mark, entry_marks
from vmaforensics.columns.lookup import first_rows, rows_of, values_at

if TYPE_CHECKING:
    from vmaforensics.checks.context import Context
    from vmaforensics.columns.types import I64, U64, Bools
    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.pages.ptes import Ptes

_MOST: Final = 256  # pages whose place is looked for one by one
_MOST_ROOM: Final = 4  # addresses of one address space that are named for a page
_STRANGE: Final = np.uint32(
    Mark.KERNEL_MEMORY
    | Mark.OTHER_ANON_VMA
    | Mark.OTHER_ADDRESS
    | Mark.OTHER_FILE
    | Mark.OTHER_OFFSET
    | Mark.NOT_ANONYMOUS
)


class Place(NamedTuple):
    """Where in an address space a page belongs."""

    mm: int
    vas: tuple[int, ...]  # the one address; of a page that several VMAs have room for, each


class Room(NamedTuple):
    """Places that VMAs have for a page: parallel arrays."""

    mm_row: I64  # -1 for a VMA of no mm that is known
    va: U64


def miscounted_places(context: Context, view: PageTablesView) -> dict[int, Place]:
    """The place of each of ``view.miscounted`` for which just one address space can be named, by row."""
    more = view.miscounted.pages.mapcount > view.miscounted.entries
    places = _outside_vmas(context, view, view.miscounted.pages.pfn, np.flatnonzero(~more))
    rest = [row for row in range(len(more)) if row not in places][:_MOST]
    places |= _added_places(context, view, [row for row in rest if not more[row]])
    for row in rest:
        place = _erased_place(context, view, row) if more[row] else None
        if place is not None:
            places[row] = place
    return places


def _outside_vmas(context: Context, view: PageTablesView, pfns: U64, rows: I64) -> dict[int, Place]:
    """For those of ``rows`` whose frame an entry outside every VMA leads to: the first such entry's place, by row."""
    orphans = view.entries.take(view.orphans)
    orphans = orphans.take(orphans.page_row >= 0)
    orphans = orphans.take(first_rows(orphans.pfn))
    at = rows_of(orphans.pfn, pfns[rows])
    rows, entries = rows[at >= 0], orphans.take(at[at >= 0])
    found = zip(context.views.mms.mm[entries.mm_row].tolist(), entries.va.tolist(), strict=True)
    return dict(zip(rows.tolist(), (Place(mm, (va,)) for mm, va in found), strict=True))


def _added_places(context: Context, view: PageTablesView, rows: list[int]) -> dict[int, Place]:
    """Pages with more entries than they count: that of the first entry whose VMA does not map the page."""
    pfns = view.miscounted.pages.pfn[rows]
    found: dict[int, Place] = {}
    for _, ptes in view.entries.batches() if rows else ():
        leading = ptes.take((ptes.page_row >= 0) & np.isin(ptes.pfn, pfns))
        strange = leading.take(_strange(context, leading))
        at = rows_of(pfns, strange.pfn)  # miscounted frames ascend
        mms = context.views.mms.mm[strange.mm_row]
        for row, mm, va in zip(at.tolist(), mms.tolist(), strange.va.tolist(), strict=True):
            found.setdefault(rows[row], Place(mm, (va,)))
    return found


def _erased_place(context: Context, view: PageTablesView, row: int) -> Place | None:
    """A page that counts more than its entries: that of the VMA which maps the page's own file or anon_vma there,
    and whose entry leads to a stranger, or else is gone.

    Several VMAs of one process may have room for it: a VMA that mremap moved keeps its offsets, and what is mapped in
    its old place shares its anon_vma.
    """
    room = rooms(context, view, row)
    entry = view.entries.rows_at(room.mm_row, room.va)
    known = room.mm_row >= 0
    strange = known & (entry >= 0)
    strange[strange] = _strange(context, view.entries.take(entry[strange]))
    gone, off = known & (entry < 0), view.miscounted.pages.mapcount[row] - view.miscounted.entries[row]
    rows = np.flatnonzero(strange if strange.any() else gone)
    if not len(rows):
        return None
    mm_rows, vas = room.mm_row[rows], room.va[rows]
    mm = int(context.views.mms.mm[mm_rows[0]])
    if strange.any() and len(rows) == off:
        return Place(mm, (int(vas[0]),))
    if (mm_rows != mm_rows[0]).any() or len(rows) > _MOST_ROOM:
        return None
    return Place(mm, tuple(sorted(vas.tolist())))


def rooms(context: Context, view: PageTablesView, row: int, *, of_family: bool = False) -> Room:
    """Every place where the page of ``view.miscounted`` belongs by its mapping and index.

    ``of_family``: an anonymous page also where it may be inherited, in VMAs whose anon_vma has the same root.
    """
    page, vmas, files = view.miscounted.pages, context.views.vmas, context.views.files
    mapping, index = page.mapping[row], page.index[row]
    if page.anon[row]:
        fits = (vmas.anon_vma == mapping) & (vmas.anon_vma != 0)
        if of_family and (root := int(view.anon_roots.roots_of(page.mapping[row : row + 1])[0])):
            fits |= view.anon_roots.roots_of(vmas.anon_vma) == np.uint64(root)
        base = vmas.anon_pgoff
    elif files is not None:
        fits = (values_at(files.rows.mapping, vmas.file_row) == mapping) & (vmas.file_row >= 0)
        base = vmas.pgoff
    else:
        fits, base = np.zeros(len(vmas), np.bool_), vmas.pgoff
    arch = context.views.arch
    length = arch.pages(vmas.end - vmas.start)
    rows = np.flatnonzero(fits & vmas.ok & (index >= base) & (index - base < length))
    return Room(
        mm_row=context.views.mm_rows(vmas.mm[rows]),
        va=vmas.start[rows] + arch.bytes_of(index - base[rows]),
    )


def _strange(context: Context, entries: Ptes) -> Bools:
    """Which entries lead to a page that does not name what their VMA maps?"""
    strange: Bools = (entry_marks(context.views, entries) & _STRANGE) != 0
    return strange
