"""Which ``vm_area_struct`` each finding is about, told from the addresses in its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import rules
from vmaforensics.columns.lookup import rows_of
from vmaforensics.views.view import View
from vmaforensics.views.vmas.vmas import Vmas

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.views import Views

_MOST = 64  # pieces of evidence looked at in one finding
# Their evidence is a word that leads elsewhere: what it holds is not what the finding is about.
_BY_WORD = (rules.LINK,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The areas that a finding's evidence names, the first first; rows of ``Vmas``."""

    areas: tuple[np.void, ...] = ()

    @property
    def only(self) -> np.void | None:
        """The area, if there is but one."""
        return self.areas[0] if len(self.areas) == 1 else None

    @property
    def vma(self) -> int | None:
        """Address of the first."""
        return int(self.areas[0]["vma"]) if self.areas else None


def subjects(views: Views, findings: Sequence[Finding]) -> list[Subject]:
    """The areas each finding is about, in the order of ``findings``.

    A piece of evidence names an area by its address, by the word of an index that leads to it, by the value it
    found, or by a word within it. If a finding has a range, areas outside of it only are its neighbours. Where the
    evidence names none, the area that covers the range is meant.
    """
    if not findings:
        return []
    tables = _Tables(views)
    told = [
        (at, item.address, _number(item.found), one.rule not in _BY_WORD, item.view)
        for at, one in enumerate(findings)
        for item in one.evidence[:_MOST]
        if item.address < 1 << 64
    ]
    named: list[dict[int, np.void]] = [{} for _ in findings]
    if told:
        which, address, found, by_value, view = zip(*told, strict=True)
        rows = tables.areas_named(
            np.array(address, np.uint64), np.array(found, np.uint64), np.array(by_value), np.array(view)
        )
        for at, row in zip(which, rows.tolist(), strict=True):
            if row >= 0 and _near(tables.areas[row], findings[at]):
                named[at].setdefault(row, tables.areas[row])
    out = []
    for one, areas in zip(findings, named, strict=True):
        covering = None if areas else tables.covering(one)
        out.append(Subject(areas=tuple(areas.values()) if covering is None else (covering,)))
    return out


def _near(area: np.void, one: Finding) -> bool:
    if one.start is None or one.end is None or not area["ok"]:
        return True
    return int(area["start"]) < one.end and one.start < int(area["end"])


def _number(text: str) -> int:
    """A hexadecimal word, 0 for anything else."""
    try:
        value = int(text, 16) if text.startswith("0x") else 0
    except ValueError:
        return 0
    return value if 0 <= value < 1 << 64 else 0


class _Tables:
    """Areas and the words that lead to them, sorted for look-ups."""

    def __init__(self, views: Views) -> None:
        parts = [views.vmas]
        parts += [views.rmap.vmas] if views.rmap is not None else []
        parts += [views.strays.vmas] if views.strays is not None else []
        every = Vmas.concatenate(parts)
        _, first = np.unique(every["vma"], return_index=True)
        self.areas = every.take(first)
        self._vma = np.ascontiguousarray(self.areas["vma"])
        self._size = np.uint64(max(views.vma_size, 1))
        index = views.regions()
        slots = np.concatenate([rows["slot"] for rows in index.values()]) if index else np.zeros(0, np.uint64)
        order = np.argsort(slots, kind="stable")
        self._slots = slots[order]
        self._led = np.concatenate([rows["vma"] for rows in index.values()])[order] if index else slots
        self._views = views
        self._mm = np.ascontiguousarray(views.union["mm"])

    def areas_named(
        self,
        address: NDArray[np.uint64],
        found: NDArray[np.uint64],
        by_value: NDArray[np.bool_],
        view: NDArray[np.str_],
    ) -> NDArray[np.int64]:
        """Row of ``areas`` that each piece of evidence names, -1 for none."""
        exact = rows_of(self._vma, address)
        slot = rows_of(self._slots, address)
        led = self._led[slot] if len(self._led) else np.zeros(len(slot), np.uint64)
        # The first word of an mm_struct may be mm->mmap: other views mean the mm_struct by that address.
        by_slot = np.isin(view, [*(one.label for one in self._views.regions()), View.SLAB.label])
        led_to = np.where(by_slot & (slot >= 0), rows_of(self._vma, led), -1)
        value = np.where(by_value, rows_of(self._vma, found), -1)
        row = np.maximum(np.searchsorted(self._vma, address, "right") - 1, 0)
        if len(self._vma):
            inside = (address >= self._vma[row]) & (address - self._vma[row] < self._size)
        else:
            inside = np.zeros(len(row), np.bool_)
        # A word of the maple tree lies in a node; addresses of page-table entries are physical.
        outside = np.isin(view, [View.MAPLE.label, View.PAGE_TABLES.label, View.PAGES.label])
        within = np.where(inside & ~outside, row, -1)
        answer = np.full(len(address), -1, np.int64)
        for choice in (within, value, led_to, exact):
            answer = np.where(choice >= 0, choice, answer)
        return answer

    def covering(self, one: Finding) -> np.void | None:
        """The area that holds all of a finding's range, if just one index entry reaches into it."""
        if one.start is None or one.end is None or one.start >= one.end:
            return None
        union = self._views.union
        low, high = (int(np.searchsorted(self._mm, np.uint64(one.mm), side)) for side in ("left", "right"))
        part = union[low:high]
        top = min(one.end, (1 << 64) - 1)
        hits = part[(part["start"] < np.uint64(top)) & (part["end"] > np.uint64(one.start))]
        if len(hits) != 1 or int(hits["start"][0]) > one.start or int(hits["end"][0]) < top:
            return None
        row = int(rows_of(self._vma, hits["vma"])[0])
        return self.areas[row] if row >= 0 else None
