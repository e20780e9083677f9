"""The bytes a finding is about: the beginning of its memory, its ``vm_area_struct``, and the word that is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.checks.finding import Severity
from vmaforensics.report.document.findings import Hexdump
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmaforensics.checks.finding import Evidence, Finding
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.report.document.subjects import Subject
    from vmaforensics.views.views import Views

SIZE = 64  # bytes of a dump
MOST = 64  # findings that get dumps: the most severe, if at least low

# Counters and locks belong to no place: other evidence of the finding says more.
_OF_THE_WHOLE = (View.COUNTERS.label, "lock")


class _Spot(NamedTuple):
    """Bytes to show."""

    what: str
    address: int  # as shown
    read_at: int | None  # None: nothing can be read
    physical: bool  # ``read_at`` is a physical address


def wanted(findings: Sequence[Finding]) -> int:
    """How many of ``findings``, most severe first, get dumps."""
    return sum(finding.severity.rank <= Severity.LOW.rank for finding in findings[:MOST])


def hexdumps(
    kernel: Kernel, views: Views, findings: Sequence[Finding], about: Sequence[Subject], *, contents: bool = True
) -> list[tuple[Hexdump, ...]]:
    """At most three dumps for each of the first ``wanted(findings)``, in their order.

    The first is of the memory itself, from the first page in the range that the page tables lead to, and is left
    out without ``contents``. ``data`` is None for what is not in the dump.
    """
    count = wanted(findings)
    spots = [
        _spots(views, finding, subject.vma, contents=contents)
        for finding, subject in zip(findings[:count], about[:count], strict=True)
    ]
    data = iter(_read(kernel, [spot for of_finding in spots for spot in of_finding]))
    return [
        tuple(Hexdump(what=spot.what, address=hex(spot.address), data=next(data)) for spot in of_finding)
        for of_finding in spots
    ]


def _spots(views: Views, finding: Finding, vma: int | None, *, contents: bool) -> list[_Spot]:
    """What to show of a finding about ``vma``."""
    spots = []
    if contents and finding.start is not None and finding.end is not None and finding.mm:
        spots.append(_first_bytes(views, finding.mm, finding.start, finding.end))
    if vma is not None:
        spots.append(_Spot("the vm_area_struct", vma, vma, physical=False))
    item = _strongest(finding, vma, contents)
    if item is not None:
        address = item.address & -SIZE
        physical = not views.arch.kernel_pointer(np.array([item.address], np.uint64))[0]
        kind = "physical memory" if physical else "kernel memory"
        spots.append(_Spot(f"{kind} around {item.address:#x} ({item.view})", address, address, physical))
    return spots


def _strongest(finding: Finding, vma: int | None, contents: bool) -> Evidence | None:
    """The first piece of evidence with a place that the dump of the VMA does not show. The place of evidence about a
    page is the page itself: contents."""
    placed = [item for item in finding.evidence if 0 < item.address < 1 << 64]
    with_place = [item for item in placed if not 0 <= item.address - (vma or 0) < SIZE]
    with_place = [item for item in with_place if contents or item.view != View.PAGES.label]
    fits = [item for item in with_place if item.view not in _OF_THE_WHOLE]
    return next(iter(fits or with_place), None)


def _read(kernel: Kernel, spots: list[_Spot]) -> list[str | None]:
    """Hexadecimal digits of each spot, None where it is not in the dump; one gather per kind of address."""
    digits: list[str | None] = [None] * len(spots)
    for physical in (False, True):
        rows = [row for row, spot in enumerate(spots) if spot.read_at is not None and spot.physical == physical]
        where = np.array([spots[row].read_at for row in rows], np.uint64)
        data, ok = kernel.memory.gather(where, SIZE) if physical else kernel.space.gather(where, SIZE)
        for row, raw, read in zip(rows, data, ok.tolist(), strict=True):
            digits[row] = raw.tobytes().hex() if read else None
    return digits


def _first_bytes(views: Views, mm: int, start: int, end: int) -> _Spot:
    """The first bytes of ``[start, end)`` of a process that the page tables lead to."""
    nothing = _Spot("first bytes of the memory", start, None, physical=True)
    view = views.page_tables
    row = int(views.mm_rows(np.array([mm], np.uint64))[0])
    if view is None or row < 0:
        return nothing
    rows = view.entries.within(row, start, end)
    batches = view.entries.between(rows.start, rows.stop)
    ptes = next((batch.ptes for batch in batches if batch.ptes.maps_frames().any()), None)
    if ptes is None:
        return nothing
    entry = int(np.flatnonzero(ptes.maps_frames())[0])
    va = int(ptes.va[entry])
    address = max(start, va)
    what = "first bytes of the memory" if address == start else "first bytes of it that are mapped"
    # No dump goes over the end of a page.
    address = min(address, (address & -view.arch.page_size) + view.arch.page_size - SIZE)
    return _Spot(what, address, (int(ptes.pfn[entry]) << view.arch.page_shift) + address - va, physical=True)
