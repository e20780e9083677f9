"""What the checks share: the views, who owns what, and how a finding is made from rows of a table."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from vmaforensics.checks.acquisition import judge
from vmaforensics.checks.finding import Confidence, Evidence, Finding, ReadApart, Rule, Severity
from vmaforensics.checks.rule import INDICES
from vmaforensics.columns.lookup import distinct, last_rows_of, sort_order, values_at
from vmaforensics.columns.runs import begins_run, run_lasts, run_starts
from vmaforensics.views.problems import Problem
from vmaforensics.views.structures.lock import Lock
from vmaforensics.views.vmas import flags
from vmaforensics.words.amounts import pages
from vmaforensics.words.printable import comm_of, decoded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vmaforensics.checks.acquisition import Acquired, Acquisition
    from vmaforensics.columns.types import U64, Bools
    from vmaforensics.views.view import View
    from vmaforensics.views.views import Views

T = TypeVar("T")

MOST = 16  # rows of one kind in one address space that are listed one by one

_LOST = (Problem.UNREADABLE, Problem.CUT_SHORT)


class Context:
    """The views of one image, and look-ups that several checks need."""

    def __init__(self, views: Views, given: Acquired | None = None) -> None:
        self.views = views
        self.read_apart: list[ReadApart] = []  # filled by ``torn.weigh_live``
        self.failures: list[str] = []  # filled by ``weigh.run_checks``: rules that went wrong, in words
        self._given = given
        self._shared: dict[Callable[[Context], Any], Any] = {}
        problems, indices = views.problems, views.indices()
        lost = np.isin(problems.problem, _LOST)
        # Address spaces by what of them was not read: nodes or links of an index, the mm_struct, VMAs of an index.
        # Nothing is said to be absent from those.
        self._partial = {view: distinct(problems.mm[lost & (problems.view == view)]) for view in INDICES}
        self._lost = views.mms.mm[~views.mms.ok]
        self._unread = {
            view: distinct(entries.mm[~values_at(views.vmas.ok, entries.vma_row)]) for view, entries in indices.items()
        }

    @cached_property
    def acquisition(self) -> Acquisition:
        """How the image was acquired: as was given, else as its clocks say."""
        return judge(self.views.clocks, self._given, self.views.problems, self.views.torn_slabs)

    def shared(self, make: Callable[[Context], T]) -> T:
        """``make(self)``, made once: what the checks of several rules go by."""
        if make not in self._shared:
            self._shared[make] = make(self)
        made: T = self._shared[make]
        return made

    def pages(self, count: int) -> str:
        """A number of pages in words, and how much memory that is."""
        return pages(count, self.views.arch.page_size)

    def release(self) -> None:
        """Let go of what was shared; what is asked for again is made again."""
        self._shared.clear()

    def whole(self, view: View, mms: U64) -> Bools:
        """Was every node and link of the index ``view`` read for these mms?"""
        return ~np.isin(mms, self._partial[view]) & ~np.isin(mms, self._lost)

    def decoded(self, view: View, mms: U64) -> Bools:
        """Was the index read whole, and every VMA it holds too?"""
        return self.whole(view, mms) & ~np.isin(mms, self._unread[view])

    @property
    def index(self) -> View:
        """The index that the kernel itself uses, see ``Views.index_view``."""
        return self.views.index_view

    def finding(
        self,
        rule: Rule,
        mm: int,
        title: str,
        evidence: Iterable[Evidence],
        *,
        bounds: tuple[int, int] | None = None,
        severity: Severity | None = None,
        confidence: Confidence | None = None,
        apart: int = 0,
        by_others: bool = False,
        gaps: bool = False,
    ) -> Finding:
        """A finding about ``mm`` and the addresses ``[start, end)`` of ``bounds``.

        Pid, comm and lock state come from the row of ``mm``; severity and confidence from the rule if not given.
        """
        mms = self.views.mms
        row = int(self.views.mm_rows(np.array([mm], np.uint64))[0])
        return Finding(
            rule=rule,
            severity=severity or rule.severity,
            confidence=confidence or rule.confidence,
            mm=mm,
            pid=int(mms.pid[row]) if row >= 0 else 0,
            comm=comm_of(mms.comm[row]) if row >= 0 else b"",
            lock=Lock(int(mms.lock[row])).text if row >= 0 else Lock.UNKNOWN.text,
            title=title,
            evidence=tuple(evidence),
            start=None if bounds is None else bounds[0],
            end=None if bounds is None else bounds[1],
            gaps=gaps,
            apart=apart,
            by_others=by_others,
            benign=rule.benign,
        )

    def per_mm(
        self,
        rule: Rule,
        mm: U64,
        evidence: Callable[[int], Evidence],
        title: Callable[[int], str],
        bounds: Callable[[int], tuple[int, int] | None] = lambda row: None,
        apart: Callable[[int], int] = lambda row: 0,
        by_others: Callable[[int], bool] = lambda row: False,
    ) -> Iterator[Finding]:
        """One finding for every address space in ``mm``, which has one element for each wrong row.

        The first :data:`MOST` rows are evidence, the rest is counted. The title is that of the first row, and says
        how many more there are; the range is that of all rows together. ``apart`` is what each row adds to
        ``Finding.apart``; if a row adds nothing, no operation explains the finding. ``by_others`` is as there.
        """
        order = sort_order(mm)
        starts = run_starts(begins_run(mm[order]))
        for first, last in zip(starts.tolist(), run_lasts(starts, len(mm)).tolist(), strict=True):
            rows = order[first : last + 1].tolist()
            listed = [evidence(row) for row in rows[:MOST]]
            if len(rows) > MOST:
                listed.append(Evidence(what=f"and {len(rows) - MOST} more like these", view="", address=0))
            text = title(rows[0]) if len(rows) == 1 else f"{title(rows[0])}, and {len(rows) - 1} more"
            each = [apart(row) for row in rows]
            ranges = [known for known in map(bounds, rows) if known is not None]
            yield self.finding(
                rule,
                int(mm[rows[0]]),
                text,
                listed,
                bounds=hull(ranges),
                gaps=_has_gaps(ranges),
                apart=sum(each) if all(each) else 0,
                by_others=all(by_others(row) for row in rows),
            )

    def vma_holding(self, address: int) -> tuple[int, int] | None:
        """Bounds of the VMA whose ``vm_area_struct`` has the word at ``address``, if one has."""
        vmas = self.views.vmas
        row = int(last_rows_of(vmas.vma, np.array([address], np.uint64))[0])
        if row < 0 or not vmas.ok[row] or address - int(vmas.vma[row]) >= self.views.vma_size:
            return None
        return int(vmas.start[row]), int(vmas.end[row])

    def vma_in_words(self, vma: int) -> str:
        """A VMA in words, given the address of its vm_area_struct: what it allows, its bounds, its name."""
        vmas = self.views.vmas
        row = int(self.views.vma_rows(np.array([vma], np.uint64))[0])
        if row < 0 or not vmas.ok[row]:
            return f"VMA (vm_area_struct {vma:#x} not readable)"
        return vma_text(int(vmas.flags[row]), int(vmas.start[row]), int(vmas.end[row]), self.views.names[row])


def hull(ranges: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
    """The smallest range ``[start, end)`` that holds all of ``ranges``; None for none."""
    starts, ends = tuple(zip(*ranges, strict=True)) or ((), ())
    return (min(starts), max(ends)) if starts else None


def _has_gaps(ranges: list[tuple[int, int]]) -> bool:
    """Is there something in the hull of ranges that is in none of them?"""
    reach = 0
    for start, end in sorted(ranges):
        if reach and start > reach:
            return True
        reach = max(reach, end)
    return False


def vma_text(vm_flags: int, start: int, end: int, name: bytes) -> str:
    """A VMA in words: what it allows, its bounds, its name if it has one."""
    text = f"{allows(vm_flags)} VMA {start:#x}-{end:#x}"
    return f"{text} ({decoded(name)})" if name else text


def allows(vm_flags: int) -> str:
    """The most telling permission of a VMA, in a word."""
    if vm_flags & flags.VM_EXEC:
        return "writable and executable" if vm_flags & flags.VM_WRITE else "executable"
    if vm_flags & flags.VM_WRITE:
        return "writable"
    return "read-only" if vm_flags & flags.VM_READ else "inaccessible"
