"""Which regions of a memory map a finding is about."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

from vmaforensics.report.formats.html.amounts import number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.compare.records_document import Row
    from vmaforensics.report.document.findings import Finding

_MOST = 500  # regions looked at per finding: it may name all of an address space


class Places:
    """The rows of one map by where they are. Regions may overlap: that is what some findings say."""

    def __init__(self, rows: Sequence[Row]) -> None:
        bounds = [(number(row.start) or 0, number(row.end) or 0, at) for at, row in enumerate(rows)]
        self._rows = rows
        self._bounds = sorted((low, max(high, low + 1), at) for low, high, at in bounds)
        self._starts = [low for low, _, _ in self._bounds]
        self._reach = list(accumulate((high for _, high, _ in self._bounds), max))
        self._by_vma = {row.vma: at for at, row in enumerate(rows) if row.vma is not None}

    def of(self, finding: Finding) -> list[int]:
        """Rows in the finding's range that it names by their ``vm_area_struct``; where it names none, all of its
        range; where it has no range, its own VMA."""
        inside = self._inside(finding)
        named = {finding.vma, *(item.address for item in finding.evidence)} - {None}
        exact = [at for at in inside if self._rows[at].vma in named]
        if not inside and finding.vma in self._by_vma:
            return [self._by_vma[finding.vma]]
        return exact or inside

    def _inside(self, finding: Finding) -> list[int]:
        start = number(finding.start)
        if start is None:
            return []
        end = max(number(finding.end) or 0, start + 1)
        first, last = bisect_right(self._reach, start), bisect_left(self._starts, end)
        near = self._bounds[first : min(last, first + _MOST)]
        return sorted(at for _, high, at in near if high > start)
