"""When the records of a finding were read, in an image that was taken while the machine ran."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.checks.rule import INDICES
from vmaforensics.columns.lookup import distinct, is_in, rows_of
from vmaforensics.views.processes.tasks import PF_EXITING, PF_KTHREAD
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import U64, Bools
    from vmaforensics.views.clocks.clocks import ClocksView
    from vmaforensics.views.clocks.reading_times import ReadingTimes
    from vmaforensics.views.processes.tasks import Tasks
    from vmaforensics.views.views import Views

_LINKS = "VMA-LINK"
_MOMENT = 10  # times that is what a process has slept
_FOREVER = (1 << 63) - 1


class Span(NamedTuple):
    """Between which moments records were read, ns of CLOCK_MONOTONIC, and the last of them in the order of reading."""

    first: int  # not before it, however fast memory was read
    began: int  # as estimated
    ended: int
    by: int  # all of them, whatever the speed of reading was between exact clocks
    place: int  # physical address of the last

    @property
    def apart(self) -> int:
        """ns between the first reading and the last, as estimated."""
        return self.ended - self.began

    @property
    def within(self) -> int:
        """The same at the most, whatever the speed of reading was."""
        return self.by - self.first


class Rest(NamedTuple):
    """When the threads of an address space last ran, and up to when that is known. ns of CLOCK_MONOTONIC."""

    ran: int  # the latest of all
    known: int  # the first of their own records was read then, at the earliest
    place: int  # physical address of that record
    lived: int  # what was read then, as estimated, says that they had not ended


def rested(rest: Rest, span: Span, start: int) -> bool:
    """Has nothing run from the first reading on?

    Beyond what is known, who has not run since the acquisition began at ``start``, and slept for as long before, is
    taken to sleep on, as is who slept many times as long; but to have lived on only for a moment after the last sign of
    it, for what waits often waits for its end.
    """
    if rest.ran >= span.first:
        return False
    if surely(rest, span):
        return True
    slept, beyond = rest.known - rest.ran, span.by - rest.known
    asleep = slept >= (beyond if rest.ran < start else _MOMENT * beyond)
    return asleep and slept >= _MOMENT * (span.ended - rest.lived)


def surely(rest: Rest, span: Span) -> bool:
    """Is it known up to the last reading that the threads had not run? Memory is read in ascending order."""
    return rest.place >= span.place


class Sharers(NamedTuple):
    """Who may have written a reverse map."""

    mms: U64
    places: U64  # physical addresses of what they have in it


class Reading:
    """Looks up where records lie, and so when they were read."""

    def __init__(self, views: Views, clocks: ClocksView, times: ReadingTimes) -> None:
        self._views, self._clocks, self._times = views, clocks, times
        self._kept: dict[tuple[int, bool], U64] = {}
        self._rests: dict[int, Rest | None] = {}  # by mm

    def span(self, finding: Finding) -> Span | None:
        """Of all records that ``finding`` rests on; None where none of them has a place."""
        return self._span(np.concatenate([self.places(finding), self._of_mm(finding)]))

    def places(self, finding: Finding) -> U64:
        """Physical addresses of the records that the evidence of ``finding`` names."""
        parts = [np.zeros(0, np.uint64)]
        for view in {item.view for item in finding.evidence}:
            named = [item.address for item in finding.evidence if item.view == view and 0 < item.address < 1 << 64]
            at = np.array(named, np.uint64)
            physical = at[~self._views.arch.kernel_pointer(at)]
            parts.append(self._clocks.places.of(at))
            if view == View.PAGE_TABLES.label:
                parts.append(physical)
                if finding.rule.id == _LINKS:  # by the struct page, a table is none any more
                    parts.append(self._clocks.places.of_frames(physical))
            elif view == View.PAGES.label:
                parts.append(self._clocks.places.of_frames(physical))
        return np.concatenate([*parts, self._led_to(finding)])

    def _led_to(self, finding: Finding) -> U64:
        """Of broken links: where they lead, and the struct pages that say what lies there."""
        if finding.rule.id != _LINKS:
            return np.zeros(0, np.uint64)
        words = [int(item.found, 16) for item in finding.evidence if item.found]
        targets = self._clocks.places.of(np.array(words, np.uint64))
        return np.concatenate([targets, self._clocks.places.of_frames(targets)])

    def rest(self, mm: int) -> Rest | None:
        """Of the threads that use ``mm``; None where there are none, one runs, ends or ended later, or one could not be
        read."""
        if mm not in self._rests:
            users = self._tasks.take(np.flatnonzero(self._tasks.mm == np.uint64(mm)))
            self._rests[mm] = self.rest_of(users.task) if _living(users).all() else None
        return self._rests[mm]

    def lives(self, mm: int) -> bool:
        """Is ``mm`` used, and by nobody who has begun to exit?"""
        return bool(self.each_lives(np.array([mm], np.uint64))[0])

    def each_lives(self, mms: U64) -> Bools:
        """:meth:`lives` of each."""
        users, living = self._tasks.mm, _living(self._tasks)
        used: Bools = is_in(mms, users[living]) & ~is_in(mms, users[~living]) & (mms != 0)
        return used

    def rest_of_owner(self, mm: int) -> Rest | None:
        """Of the living task that ``mm->owner`` names, which need not say the same."""
        sources = self._views.sources
        if sources is None:
            return None
        owners = sources.owner[sources.mms.mm == np.uint64(mm)]
        return self.rest_of(owners[np.isin(owners, sources.tasks.task[_living(sources.tasks)])])

    @property
    def _tasks(self) -> Tasks:
        return self._views.tasks if self._views.sources is None else self._views.sources.tasks

    def rest_of(self, tasks: U64) -> Rest | None:
        """Of these tasks, as :meth:`rest`."""
        known = self._clocks.tasks
        rows = rows_of(known.task, tasks)
        if not len(rows) or (rows < 0).any() or known.running[rows].any() or not known.ok[rows].all():
            return None
        if (known.ran[rows] <= 0).any() or known.gone[rows].any():
            return None
        read = self._times.at(known.pa[rows])
        lived = max(int(read.time.min()), self._lived(tasks))
        return Rest(int(known.ran[rows].max()), int(read.earliest.min()), int(known.pa[rows].min()), lived)

    def _lived(self, tasks: U64) -> int:
        """When what was read last of the memory of ``tasks`` says that it is in use; a kernel thread does not end."""
        views, every = self._views, self._tasks
        mine = every.take(np.isin(every.task, tasks))
        if len(mine) and ((mine.flags & np.uint32(PF_KTHREAD)) != 0).all():
            return _FOREVER
        rows = views.mm_rows(distinct(mine.mm[mine.mm != 0]))
        rows = rows[rows >= 0]
        words = [views.mms.mm[rows[views.mms.users[rows] > 0]]]
        if (roots := views.table_roots) is not None:
            words.append(roots.word[rows[roots.ok[rows] & (roots.owner[rows] == roots.mm[rows])]])
        places = self._clocks.places.of(np.concatenate(words))
        return int(self._times.at(places).time.max()) if len(places) else 0

    def started(self, task: int) -> int | None:
        """When a task began, ns of CLOCK_MONOTONIC."""
        row = int(rows_of(self._clocks.tasks.task, np.array([task], np.uint64))[0])
        return int(self._clocks.tasks.started[row]) if row >= 0 and self._clocks.tasks.ok[row] else None

    def passed_over(self, tasks: U64, *, young: bool = False) -> bool:
        """Does the list of tasks pass over all of them, though they lived when it was read? ``young``: they may have
        come to it meanwhile."""
        known = self._clocks.tasks
        rows = rows_of(known.task, tasks)
        surely = known.passed_over | (known.passed_by & (known.beside < self._times.begun))
        if young:
            surely = known.passed_over & known.followed
        return len(rows) > 0 and bool((rows >= 0).all()) and bool(surely[rows].all())

    def of_tasks(self) -> Span | None:
        """Of the list of tasks: all of them, for it leads from each to the next."""
        return self._span(self._clocks.tasks.pa)

    def span_of(self, places: U64) -> Span | None:
        """Of the records at physical addresses; None for none."""
        return self._span(places)

    def sharers(self, finding: Finding) -> Sharers | None:
        """Who shares a file with the VMAs that ``finding`` is about; None where that is not known."""
        rmap = self._views.rmap
        if rmap is None:
            return None
        vmas = rmap.vmas
        about = vmas.mm == np.uint64(finding.mm)
        if finding.start is not None and finding.end is not None:
            about &= (vmas.start < np.uint64(finding.end)) & (vmas.end > np.uint64(finding.start))
        shared = np.isin(rmap.mapping, rmap.mapping[about & (rmap.mapping != 0)])
        if not shared.any():
            return None
        return Sharers(distinct(vmas.mm[shared]), self._clocks.places.of(vmas.vma[shared]))

    def _span(self, places: U64) -> Span | None:
        if not len(places):
            return None
        found = self._times.at(distinct(places))
        began, ended = int(found.time.min()), int(found.time.max())
        return Span(int(found.earliest.min()), began, ended, int(found.by.max()), int(places.max()))

    def _of_mm(self, finding: Finding) -> U64:
        """Of the records of its address space that the rule compares, wherever it is wrong: an absence is read too."""
        if not finding.mm:
            return np.zeros(0, np.uint64)
        tables = View.PAGE_TABLES in finding.rule.views
        key = finding.mm, tables
        if key not in self._kept:
            self._kept[key] = self._records(finding.mm, tables=tables)
        return self._kept[key]

    def _records(self, mm: int, *, tables: bool) -> U64:
        views, owner = self._views, np.uint64(mm)
        addresses = [
            np.array([mm], np.uint64),
            self._tasks.task[self._tasks.mm == owner],
            views.maple_nodes.address[views.maple_nodes.mm == owner],
        ]
        for index in (views.indices()[view] for view in INDICES if view in views.indices()):
            rows = index.take(np.flatnonzero(index.mm == owner))
            addresses += [rows.slot, rows.vma]
        places = [self._clocks.places.of(distinct(np.concatenate(addresses)))]
        view = views.page_tables
        row = int(views.mm_rows(np.array([mm], np.uint64))[0])
        if tables and view is not None and row >= 0:
            places.append(view.entries.tables_of(row))
        return np.concatenate(places)


def _living(tasks: Tasks) -> Bools:
    """Which of ``tasks`` are processes or threads that have not begun to exit."""
    living: Bools = tasks.ok & (tasks.pid > 0) & (tasks.exit_state == 0) & ((tasks.flags & PF_EXITING) == 0)
    return living
