"""Which ``vm_area_struct`` each finding is about, by the addresses in its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import bounds_of, first_rows, last_rows_of, rows_of, sort_order, values_at
from vmaforensics.views.view import View
from vmaforensics.views.vmas.vmas import Vmas

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.views import Views

_MOST = 64  # pieces of evidence looked at in one finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The VMAs that a finding's evidence names, in the order of the evidence."""

    vmas: Vmas

    @property
    def vma(self) -> int | None:
        """Address of the first."""
        return int(self.vmas.vma[0]) if len(self.vmas) else None


def subjects(views: Views, findings: Sequence[Finding]) -> list[Subject]:
    """The VMAs each finding is about, in the order of ``findings``.

    A piece of evidence names a VMA by its address, by the word of an index that leads to it, by the value it
    found, or by a word within it. If a finding has a range, VMAs outside of it only are its neighbours. Where the
    evidence names none, the VMA that covers the range is meant.
    """
    if not findings:
        return []
    known = _KnownVmas(views)
    asked = [
        _Item(place, item.address, _number(item.found), finding.rule.found_is_subject, item.view)
        for place, finding in enumerate(findings)
        for item in finding.evidence[:_MOST]
        if item.address < 1 << 64
    ]
    named: list[dict[int, None]] = [{} for _ in findings]
    for item, row in zip(asked, known.named(asked).tolist(), strict=True):
        if row >= 0 and _is_near(known.vmas, row, findings[item.finding]):
            named[item.finding].setdefault(row)
    return [
        Subject(vmas=known.vmas.take(np.array(list(rows) or known.covering(finding), np.int64)))
        for finding, rows in zip(findings, named, strict=True)
    ]


class _Item(NamedTuple):
    """A piece of evidence."""

    finding: int  # place in the findings
    address: int
    value: int  # what was found; 0 where that is no number
    by_value: bool  # the value may name a VMA
    view: str


def _is_near(vmas: Vmas, row: int, finding: Finding) -> bool:
    """Has a VMA a part of the finding's range, as far as both are known?"""
    if finding.start is None or finding.end is None or not vmas.ok[row]:
        return True
    return int(vmas.start[row]) < finding.end and finding.start < int(vmas.end[row])


def _number(text: str) -> int:
    """A hexadecimal word, 0 for anything else."""
    try:
        value = int(text, 16) if text.startswith("0x") else 0
    except ValueError:
        return 0
    return value if 0 <= value < 1 << 64 else 0


class _KnownVmas:
    """Every VMA that a record leads to, and the words that lead to them, sorted for look-ups."""

    def __init__(self, views: Views) -> None:
        self.vmas = views.vmas if views.rmap is None else views.rmap.vmas
        if views.strays is not None and len(views.strays.vmas):
            every = Vmas.concatenate([self.vmas, views.strays.vmas])
            self.vmas = every.take(first_rows(every.vma))
        self._views = views
        self._size = np.uint64(max(views.vma_size, 1))
        entries = list(views.indices().values())
        slots = np.concatenate([index.slot for index in entries] or [np.zeros(0, np.uint64)])
        order = sort_order(slots)
        self._slots = slots[order]
        self._behind_slot = np.concatenate([index.vma for index in entries] or [slots])[order]

    def named(self, items: Sequence[_Item]) -> NDArray[np.int64]:
        """Row of ``vmas`` that each piece of evidence names, -1 for none."""
        address = np.array([item.address for item in items], np.uint64)
        value = np.array([item.value for item in items], np.uint64)
        by_value = np.array([item.by_value for item in items], np.bool_)
        view = np.array([item.view for item in items], np.str_)
        exact = rows_of(self.vmas.vma, address)
        slot = rows_of(self._slots, address)
        # The first word of an mm_struct may be mm->mmap: other views mean the mm_struct by that address.
        by_slot = np.isin(view, [*(index.label for index in self._views.indices()), View.SLAB.label])
        behind = rows_of(self.vmas.vma, values_at(self._behind_slot, slot))
        row = last_rows_of(self.vmas.vma, address)
        inside = (row >= 0) & (address - values_at(self.vmas.vma, row) < self._size)
        # A word of the maple tree lies in a node; addresses of page-table entries are physical.
        outside = np.isin(view, [View.MAPLE.label, View.PAGE_TABLES.label, View.PAGES.label])
        answer = np.where(inside & ~outside, row, -1)
        for choice in (
            np.where(by_value, rows_of(self.vmas.vma, value), -1),
            np.where(by_slot & (slot >= 0), behind, -1),
            exact,
        ):
            answer = np.where(choice >= 0, choice, answer)
        return answer

    def covering(self, finding: Finding) -> list[int]:
        """Row of the VMA that holds all of a finding's range, if just one index entry reaches into it."""
        if finding.start is None or finding.end is None or finding.start >= finding.end:
            return []
        union = self._views.union
        low, high = bounds_of(union.mm, np.uint64(finding.mm))
        top = min(finding.end, (1 << 64) - 1)
        first, last = union.start[low:high], union.end[low:high]
        hits = np.flatnonzero((first < np.uint64(top)) & (last > np.uint64(finding.start)))
        if len(hits) != 1 or int(first[hits[0]]) > finding.start or int(last[hits[0]]) < top:
            return []
        rows = rows_of(self.vmas.vma, union.vma[low:high][hits])
        return [row for row in rows.tolist() if row >= 0]
