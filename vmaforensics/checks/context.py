"""What the checks share: the views, who owns what, and how a finding is made from rows of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from vmaforensics.checks.finding import Confidence, Evidence, Finding, Rule, Severity
from vmaforensics.views.problems import Problem
from vmaforensics.views.processes.mms import Lock
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from vmaforensics.views.views import Views

T = TypeVar("T")

MOST = 16  # rows of one kind in one address space that are told one by one

_LOST = (Problem.UNREADABLE, Problem.CUT_SHORT)


class Context:
    """The views of one image, and look-ups that several checks need."""

    def __init__(self, views: Views) -> None:
        self.views = views
        self._shared: dict[Callable[[Context], Any], Any] = {}
        problems = views.problems
        # Index views that could not be read whole, per mm: nothing is said to be absent from those.
        lost = np.isin(problems["problem"], _LOST)
        self._partial = {
            view: np.unique(problems["mm"][lost & (problems["view"] == view)])
            for view in (View.LIST, View.RBTREE, View.MAPLE)
        }
        self._lost = views.mms["mm"][~views.mms["ok"]]
        unread = views.vmas["vma"][~views.vmas["ok"]]
        self._unread = {
            view: np.unique(rows["mm"][np.isin(rows["vma"], unread)]) for view, rows in views.regions().items()
        }

    def shared(self, make: Callable[[Context], T]) -> T:
        """``make(self)``, made once: what the checks of several rules go by."""
        if make not in self._shared:
            self._shared[make] = make(self)
        made: T = self._shared[make]
        return made

    def whole(self, view: View, mms: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Was every node and link of ``view`` read for these mms?"""
        return ~np.isin(mms, self._partial[view]) & ~np.isin(mms, self._lost)

    def decoded(self, view: View, mms: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Was the view read whole, and every VMA it holds too?"""
        return self.whole(view, mms) & ~np.isin(mms, self._unread[view])

    @property
    def index(self) -> View:
        """The view the kernel itself goes by: the maple tree, or the list before."""
        available = self.views.regions()
        return next(view for view in (View.MAPLE, View.LIST, View.RBTREE) if view in available)

    def finding(
        self,
        rule: Rule,
        mm: int,
        title: str,
        evidence: Iterable[Evidence],
        *,
        start: int | None = None,
        end: int | None = None,
        severity: Severity | None = None,
        confidence: Confidence | None = None,
        benign: tuple[str, ...] = (),
    ) -> Finding:
        """A finding about ``mm``; pid, comm and lock state come from its row."""
        row = int(self.views.mm_rows(np.array([mm], np.uint64))[0])
        known = self.views.mms[row] if row >= 0 else None
        return Finding(
            rule=rule,
            severity=severity or rule.severity,
            confidence=confidence or rule.confidence,
            mm=mm,
            pid=int(known["pid"]) if known is not None else 0,
            comm=comm_of(known["comm"]) if known is not None else b"",
            lock=Lock(int(known["lock"])).text if known is not None else Lock.UNKNOWN.text,
            title=title,
            evidence=tuple(evidence),
            start=start,
            end=end,
            benign=benign or rule.benign,
        )

    def per_mm(
        self,
        rule: Rule,
        mm: NDArray[np.uint64],
        evidence: Callable[[int], Evidence],
        title: Callable[[int], str],
        bounds: Callable[[int], tuple[int, int] | None] = lambda row: None,
    ) -> Iterator[Finding]:
        """One finding for every address space in ``mm`` (one element per wrong row).

        The first :data:`MOST` rows are told, the rest counted. ``title`` and ``bounds`` are those of the
        first row, if there is but one; otherwise the title says how many.
        """
        order = np.argsort(mm, kind="stable")
        edges = np.flatnonzero(mm[order][1:] != mm[order][:-1]) + 1
        for group in np.split(order, edges) if len(mm) else []:
            rows = group.tolist()
            told = [evidence(row) for row in rows[:MOST]]
            if len(rows) > MOST:
                told.append(Evidence(what=f"and {len(rows) - MOST} more like these", view="", address=0))
            text = title(rows[0]) if len(rows) == 1 else f"{title(rows[0])}, and {len(rows) - 1} more"
            known = [one for one in map(bounds, rows) if one is not None]
            yield self.finding(
                rule,
                int(mm[rows[0]]),
                text,
                told,
                start=min((one[0] for one in known), default=None),
                end=max((one[1] for one in known), default=None),
            )

    def area_holding(self, address: int) -> tuple[int, int] | None:
        """Bounds of the area whose ``vm_area_struct`` has the word at ``address``, if one has."""
        vmas = self.views.vmas
        row = int(np.searchsorted(vmas["vma"], np.uint64(address), "right")) - 1
        if row < 0 or not vmas["ok"][row] or address - int(vmas["vma"][row]) >= self.views.vma_size:
            return None
        return int(vmas["start"][row]), int(vmas["end"][row])

    def area(self, vma: int) -> str:
        """An area in words: what it allows, its bounds, its name."""
        row = int(self.views.vma_rows(np.array([vma], np.uint64))[0])
        if row < 0 or not self.views.vmas["ok"][row]:
            return f"area (vm_area_struct {vma:#x} not readable)"
        one = self.views.vmas[row]
        text = f"{allows(int(one['flags']))} area {int(one['start']):#x}-{int(one['end']):#x}"
        name = self.views.names[row]
        return f"{text} ({name.decode('utf-8', 'backslashreplace')})" if name else text


def before(values: NDArray[np.uint64], mm: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The value of the row before, within the same mm; 0 for the first row of each."""
    answer = np.zeros(len(values), np.uint64)
    answer[1:] = np.where(mm[1:] == mm[:-1], values[:-1], np.uint64(0))
    return answer


def allows(vm_flags: int) -> str:
    """The most telling permission of an area, in a word."""
    if vm_flags & flags.VM_EXEC:
        return "writable and executable" if vm_flags & flags.VM_WRITE else "executable"
    if vm_flags & flags.VM_WRITE:
        return "writable"
    return "read-only" if vm_flags & flags.VM_READ else "inaccessible"


def comm_of(raw: bytes) -> bytes:
    """``comm`` up to its NUL; what stands behind it is old."""
    return bytes(raw).split(b"\0", 1)[0]
