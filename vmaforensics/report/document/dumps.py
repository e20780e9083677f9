"""The bytes a finding is about: the beginning of its memory, its ``vm_area_struct``, and the word that is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import PteState
from vmaforensics.checks.finding import Severity
from vmaforensics.kernel.space.pointers import kernel_pointer
from vmaforensics.report.document.document import Hexdump
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vmaforensics.checks.finding import Evidence, Finding
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.report.document.subjects import Subject
    from vmaforensics.views.views import Views

SIZE = 64  # bytes of a dump
MOST = 64  # findings that get dumps: the most severe, if at least low

# Counters and locks belong to no place: other evidence of the finding says more.
_OF_THE_WHOLE = (View.COUNTERS.label, "lock")

# What it is, the address shown, the address to read (None: there is none), and whether that is physical.
_Spot = tuple[str, int, int | None, bool]


def wanted(findings: Sequence[Finding]) -> int:
    """How many of ``findings``, most severe first, get dumps."""
    return sum(one.severity.rank <= Severity.LOW.rank for one in findings[:MOST])


def hexdumps(
    kernel: Kernel, views: Views, findings: Sequence[Finding], about: Sequence[Subject], *, contents: bool = True
) -> list[tuple[Hexdump, ...]]:
    """At most three dumps for each of the first ``wanted(findings)``, in their order.

    The first is of the memory itself, from the first page in the range that the page tables lead to, and is left
    out without ``contents``. ``data`` is None for what is not in the dump.
    """
    count = wanted(findings)
    users = _Users(views)
    spots: list[list[_Spot]] = []
    for one, subject in zip(findings[:count], about[:count], strict=True):
        mine: list[_Spot] = []
        if contents and one.start is not None and one.end is not None and one.mm:
            mine.append(users.beginning(one.mm, one.start, one.end))
        vma = subject.vma
        if vma is not None:
            mine.append(("the vm_area_struct", vma, vma, False))
        item = _strongest(one, vma, contents)
        if item is not None:
            at = item.address & -SIZE
            physical = not kernel_pointer(np.array([item.address], np.uint64))[0]
            kind = "physical memory" if physical else "kernel memory"
            mine.append((f"{kind} around {item.address:#x} ({item.view})", at, at, physical))
        spots.append(mine)
    data = _read(kernel, [spot for mine in spots for spot in mine])
    rest = iter(data)
    return [
        tuple(Hexdump(what=what, address=hex(shown), data=next(rest)) for what, shown, _, _ in mine) for mine in spots
    ]


def _strongest(one: Finding, vma: int | None, contents: bool) -> Evidence | None:
    """The first piece of evidence with a place that the dump of the area does not show. The place of evidence about a
    page is the page itself: contents."""
    placed = [item for item in one.evidence if 0 < item.address < 1 << 64]
    with_place = [item for item in placed if not 0 <= item.address - (vma or 0) < SIZE]
    with_place = [item for item in with_place if contents or item.view != View.PAGES.label]
    fits = [item for item in with_place if item.view not in _OF_THE_WHOLE]
    return next(iter(fits or with_place), None)


def _read(kernel: Kernel, spots: list[_Spot]) -> list[str | None]:
    """Hexadecimal digits of each spot, None where it is not in the dump; one gather per kind of address."""
    out: list[str | None] = [None] * len(spots)
    for physical in (False, True):
        rows = [row for row, (_, _, at, kind) in enumerate(spots) if at is not None and kind == physical]
        where = np.array([spots[row][2] for row in rows], np.uint64)
        data, ok = kernel.memory.gather(where, SIZE) if physical else kernel.space.gather(where, SIZE)
        for row, raw, fine in zip(rows, data, ok.tolist(), strict=True):
            out[row] = raw.tobytes().hex() if fine else None
    return out


class _Users:
    """Where the first bytes of ranges of user memory are."""

    def __init__(self, views: Views) -> None:
        self._views = views
        view = views.page_tables
        self._mm_row: NDArray[np.int32] = (
            np.zeros(0, np.int32) if view is None else np.ascontiguousarray(view.ptes["mm_row"])
        )

    def beginning(self, mm: int, start: int, end: int) -> _Spot:
        """The first bytes of ``[start, end)`` that the page tables lead to."""
        nothing = ("first bytes of the memory", start, None, True)
        view = self._views.page_tables
        row = int(self._views.mm_rows(np.array([mm], np.uint64))[0])
        if view is None or row < 0:
            return nothing
        low, high = np.searchsorted(self._mm_row, [row, row + 1]).tolist()
        mine = view.ptes[low:high]
        first = int(np.searchsorted(mine["va"], np.uint64(start), "right")) - 1
        if first < 0 or int(mine["va"][first]) + int(mine.sizes(view.arch)[first]) <= start:
            first += 1
        last = int(np.searchsorted(mine["va"], np.uint64(min(end, (1 << 64) - 1))))
        leading = np.flatnonzero(mine["state"][first:last] <= PteState.PROTNONE)
        if not len(leading):
            return nothing
        pte = mine[first + int(leading[0])]
        address = max(start, int(pte["va"]))
        where = "first bytes of the memory" if address == start else "first bytes of it that are mapped"
        address = min(
            address, (address & -view.arch.page_size) + view.arch.page_size - SIZE
        )  # no dump goes over the end of a page
        return where, address, (int(pte["pfn"]) << view.arch.page_shift) + address - int(pte["va"]), True
