"""Weighing by what tasks were in the middle of.

Only a task that is inside of the kernel can have left records apart. A rule states which operations do so, and how much
one task can leave (``Rule.in_flight``); a finding about an address space in which such an operation was under way, and
about no more than that, comes from it. Every operation answers for what it can leave once. Whatever else the process
does, or sleeps in, excuses nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence, Severity
from vmaforensics.checks.rule import GOES_ON_READING
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.structures.lock import Lock
from vmaforensics.words.printable import printable

if TYPE_CHECKING:
    from vmaforensics.checks.finding import Finding
    from vmaforensics.checks.rule import Rule
    from vmaforensics.columns.types import Bools
    from vmaforensics.views.operations.operations import OperationsView
    from vmaforensics.views.views import Views

_FRAMES = 5  # of a stack that are named


class InFlight:
    """The operations under way in one image, and what each has answered for."""

    def __init__(self, views: Views) -> None:
        self._mms = views.mms
        self._view: OperationsView | None = views.operations
        self._answered: dict[tuple[str, int], int] = {}  # by rule and row of under_way: pages or records
        self._told: dict[tuple[str, int], tuple[Evidence, ...]] = {}  # by rule and Finding.told_of

    def weigh(self, finding: Finding) -> Finding:
        """The finding as information, with the operations it comes from, if they account for all of it."""
        if self._view is None or not finding.apart or finding.severity.rank >= Severity.LOW.rank:
            return finding
        rule, left = finding.rule, finding.apart
        told = self._told.get((rule.id, finding.told_of), ()) if finding.told_of else ()
        if told:
            return replace(finding, severity=Severity.INFO, evidence=(*finding.evidence, *told), in_flight=True)
        taken = {}
        for row in self._rows(finding):
            taken[row] = min(left, self._room(rule, row))
            left -= taken[row]
        if left:
            return finding
        for row, count in taken.items():
            self._answered[rule.id, row] = self._answered.get((rule.id, row), 0) + count
        answers = tuple(self.evidence(row) for row, count in taken.items() if count)
        if finding.told_of:
            self._told[rule.id, finding.told_of] = answers
        return replace(finding, severity=Severity.INFO, evidence=(*finding.evidence, *answers), in_flight=True)

    def _rows(self, finding: Finding) -> list[int]:
        """Rows of ``under_way`` that may have left the records of the finding apart."""
        assert self._view is not None
        kinds = [int(apart.operation) for apart in finding.rule.in_flight]
        works = self._works_on(finding.mm)
        if finding.by_others:
            works |= self._view.under_way.anywhere | (finding.mm == 0)
        return np.flatnonzero(np.isin(self._view.under_way.operation, kinds) & works).tolist()

    def lock_note(self, finding: Finding) -> Evidence | None:
        """What the state of the mmap lock says for a finding that it may excuse; None if nothing does.

        A lock that is held while nobody is in the middle of a change proves nothing: it may have been held for long, or
        only its word was written. Where stacks are not known, the lock alone has to do.
        """
        what = f"the mmap lock was {finding.lock}: the map was being changed"
        note = Evidence(what=what, view="lock", address=finding.mm)
        view = self._view
        kinds = set(finding.rule.changed_by if finding.changed_by is None else finding.changed_by)
        if finding.at_once and not kinds:
            return None  # one page says it, and nothing that is done under the lock leaves that behind
        if view is None or not len(self._mms) or finding.mm in view.unclear.tolist():
            return note
        if finding.lock == Lock.READ.text:
            kinds &= set(GOES_ON_READING)
        rows = np.flatnonzero(
            self._works_on(finding.mm) & np.isin(view.under_way.operation, [int(kind) for kind in kinds])
        )
        if not len(rows):
            return None
        return replace(note, what=f"{what} ({self._in_words(int(rows[0]))})")

    def evidence(self, row: int) -> Evidence:
        """An operation under way, with the stack that shows it."""
        assert self._view is not None
        task = int(self._view.under_way.task[row])
        return Evidence(what=self._in_words(row), view="stacks", address=task)

    def _works_on(self, mm: int) -> Bools:
        """Is each operation one of a task with this mm, or of the task that write-holds its lock?"""
        assert self._view is not None
        under_way = self._view.under_way
        holder = self._view.lock_owner[self._mms.mm == np.uint64(mm)]
        works: Bools = ((under_way.mm == np.uint64(mm)) & (under_way.mm != 0)) | (
            np.isin(under_way.task, holder) & (under_way.task != 0)
        )
        return works

    def _room(self, rule: Rule, row: int) -> int:
        assert self._view is not None
        kind = int(self._view.under_way.operation[row])
        most = max(apart.most for apart in rule.in_flight if apart.operation == kind)
        return most - self._answered.get((rule.id, row), 0)

    def _in_words(self, row: int) -> str:
        assert self._view is not None
        under_way, frames = self._view.under_way, self._view.stacks.frames
        first = int(under_way.frame[row])
        names = []
        for frame in range(first, min(first + _FRAMES, len(frames))):
            if frames.stack[frame] != under_way.stack[row] or frames.function[frame] < 0:
                break
            names.append(printable(self._view.stacks.names[int(frames.function[frame])]))
        what = Operation(int(under_way.operation[row])).text
        return f"task {int(under_way.pid[row])} was in the middle of {what}: {' < '.join(names)}"
