"""Pages whose count of mappings an operation under way may not have brought in line with the page tables yet."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.checks.pages.miscounted_places import miscounted_places, rooms
from vmaforensics.checks.pages.twice_mapped import mergeable_mms
from vmaforensics.checks.processes.sources import whole_sources
from vmaforensics.checks.rule import Apart
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.processes.mm_sources import Source

if TYPE_CHECKING:
    from vmaforensics.checks.context import Context
    from vmaforensics.checks.pages.miscounted_places import Place
    from vmaforensics.views.operations.operations import OperationsView
    from vmaforensics.views.pages.page_tables import PageTablesView

_MOST: Final = 1024  # pages that are looked at one by one
# A task in one of these may be at work on an mm that is no task's: an old one, a new one, one of arguments.
_ON_TASKLESS: Final = (Operation.EXIT, Operation.EXEC, Operation.FORK)
_PG_LOCKED: Final = np.uint64(1)  # include/linux/page-flags.h: the first
# What changes entries that lead to pages of KSM, which are not locked for it.
_ON_MERGED: Final = (Operation.COPY_ON_WRITE, Operation.ZAP, Operation.COPY_ENTRIES, Operation.MOVE_ENTRIES)


# What leaves the count of a page and the entries that lead to it apart, and of how many pages.
LEAVE_PAGES: Final = (
    Apart(Operation.FAULT, 1),
    Apart(Operation.COPY_ON_WRITE, 2),
    Apart(Operation.SWAP_IN, 1),
    Apart(Operation.ZAP, 512),
    Apart(Operation.ZAP_OTHERS, 512),
    Apart(Operation.COPY_ENTRIES, 1),
    Apart(Operation.MOVE_ENTRIES, 1),
    Apart(Operation.RECLAIM, 1),
    Apart(Operation.MIGRATE, 1),
    Apart(Operation.COLLAPSE, 512),
    Apart(Operation.SAME_PAGE, 2),
)
# What takes the entries of pages away for a moment, which stay the same pages.
CHANGE_PAGES: Final = (
    Apart(Operation.CHANGE_ENTRIES, 512),  # of a folio at once (modify_prot_start_ptes, 6.17), else one by one
    Apart(Operation.CLEAN, 1),
)
_MOST_LEFT: Final = {apart.operation: apart.most for apart in (*LEAVE_PAGES, *CHANGE_PAGES)}


class Miscounted(NamedTuple):
    """What is known of each of ``PageTablesView.miscounted``, by row."""

    places: dict[int, Place]  # where it belongs, if just one address space can be named
    unsettled: dict[int, int]  # those that operations under way account for, with the mm at work; 0: not known


def counted_whole(context: Context) -> PageTablesView | None:
    """The page tables, if all there are were read: those of every process, and of every mm that is no process's."""
    view, sources = context.views.page_tables, context.views.sources
    if view is None or not view.whole.all() or not view.taskless_whole:
        return None
    lost = sources is not None and not whole_sources(context, sources) & Source.TASK_LIST
    return None if lost else view


def miscounted(context: Context) -> Miscounted:
    """To be had with ``context.shared``."""
    view = counted_whole(context)
    if view is None:
        return Miscounted({}, {})
    places = miscounted_places(context, view)
    return Miscounted(places, _unsettled(context, view, places))


def _unsettled(context: Context, view: PageTablesView, places: dict[int, Place]) -> dict[int, int]:
    """The pages that operations under way account for.

    Each task accounts for as many as :data:`LEAVE_PAGES` or :data:`CHANGE_PAGES` says of its operation. A page must
    have room in an mm that the task works on and no entry there (one, if it counts too few). What works on any mm holds
    the page locked; of an mm that is no task's, nothing says where the page belongs.
    """
    operations = context.views.operations
    if operations is None or not len(view.miscounted.pages):
        return {}
    pages = view.miscounted.pages
    off = pages.mapcount.astype(np.int64) - view.miscounted.entries
    rows = np.flatnonzero(np.isin(operations.under_way.operation, [int(kind) for kind in _MOST_LEFT]))
    used: Counter[tuple[int, int]] = Counter()
    found: dict[int, int] = {}
    for page in sorted(range(min(len(pages), _MOST)) if len(rows) else (), key=lambda page: (page not in places, page)):
        taken: dict[tuple[int, int], int] = {}
        for row in rows.tolist():
            most = _limit(operations, row, anon=bool(pages.anon[page]), compound=bool(pages.compound[page]))
            if len(taken) == abs(off[page]) or used[row, most] >= most:
                continue
            mm = _at_work(context, view, operations, row, page, places.get(page))
            if mm is not None:
                taken[row, most] = mm
        if len(taken) < abs(off[page]):
            continue
        used.update(taken.keys())
        found[page] = next(iter(taken.values()))
    return found


def _limit(operations: OperationsView, row: int, *, anon: bool, compound: bool) -> int:
    """Pages that a task can leave so; of those it clears entries of, one, but for pages of files whose removal is put
    off until the CPUs have forgotten the entries (tlb_flush_rmaps), and those of one folio that it changes."""
    kind = Operation(int(operations.under_way.operation[row]))
    if kind in (Operation.ZAP, Operation.ZAP_OTHERS) and (anon or not operations.delays_removal):
        return 1
    if kind is Operation.CHANGE_ENTRIES and not compound:
        return 1
    return _MOST_LEFT[kind]


def _at_work(
    context: Context, view: PageTablesView, operations: OperationsView, row: int, page: int, place: Place | None
) -> int | None:
    """The mm (0: not known) in which the operation may have left this page so; None if it cannot have."""
    under_way, pages = operations.under_way, view.miscounted.pages
    task = under_way.task[row]
    more = pages.mapcount[page] > view.miscounted.entries[page]
    kind = Operation(int(under_way.operation[row]))
    if not more and kind is not Operation.SWAP_IN:  # up to 6.0, do_swap_page makes the entry first
        return None
    mms = context.views.mms
    its = (mms.mm == under_way.mm[row]) | (operations.lock_owner == task) | (kind is Operation.ZAP_OTHERS)
    room = rooms(context, view, page, of_family=True)  # a page that was there before a fork names the parent's anon_vma
    entry = view.entries.rows_at(room.mm_row, room.va)
    replaced = more and kind is Operation.COPY_ON_WRITE  # the new page may be there before the old one is let go
    fits = (room.mm_row >= 0) & its[room.mm_row] & (((entry < 0) == more) | replaced)
    if fits.any():
        return int(mms.mm[room.mm_row[np.flatnonzero(fits)[0]]])
    mergeable = context.shared(mergeable_mms)
    if pages.ksm[page] and kind in _ON_MERGED and (merges := its[mergeable]).any():
        return int(mms.mm[mergeable[np.flatnonzero(merges)[0]]])
    locked = bool(int(pages.flags[page]) & int(_PG_LOCKED))
    if under_way.anywhere[row] and (locked or (pages.ksm[page] and kind is Operation.SAME_PAGE)):
        return place.mm if place is not None else 0
    others = under_way.operation[under_way.task == task]
    if place is None and np.isin(others, [int(other) for other in _ON_TASKLESS]).any():
        return 0
    if place is None and kind is Operation.ZAP_OTHERS and not len(room.mm_row):
        return 0  # what is killed for want of memory may have left its mm before
    if place is None and kind is Operation.ZAP and (others == Operation.UNMAP).any():
        return int(under_way.mm[row])  # munmap took the VMA out of the index before
    return None
