"""The memory maps that findings are about: every record beside the others, and the part of the index around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Severity
from vmaforensics.columns.lookup import sort_order
from vmaforensics.compare.nearby.nodes import nodes_near
from vmaforensics.compare.records import records_near, records_of_mm
from vmaforensics.report.document.parts import MemoryMap
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from vmaforensics.checks.finding import Finding
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views

MOST = 16  # address spaces
MOST_ROWS = 1024  # rows of one of them; fewer where there are more than a few
_FEW = 4


def memory_maps(
    kernel: Kernel, views: Views, findings: Sequence[Finding], pids: Collection[int] | None = None
) -> tuple[list[MemoryMap], int]:
    """The maps of the address spaces that ``findings`` of at least low severity name, in their order, or with
    ``pids`` of those processes; and how many more there would have been.

    >>> maps, left_out = memory_maps(kernel, views, findings)
    """
    by_mm: dict[int, list[Finding]] = {}
    for finding in findings:
        if finding.mm and finding.severity.rank <= Severity.LOW.rank:
            by_mm.setdefault(finding.mm, []).append(finding)
    if pids is not None:
        for mm in _of_pids(views, pids):
            by_mm.setdefault(mm, [])
    known = views.mm_rows(np.array(list(by_mm), np.uint64)) >= 0
    chosen = [mm for mm, usable in zip(by_mm, known.tolist(), strict=True) if usable]
    most = MOST_ROWS * _FEW // max(_FEW, min(len(chosen), MOST))
    maps = [_map(kernel, views, mm, by_mm[mm], most) for mm in chosen[:MOST]]
    return maps, max(len(chosen) - MOST, 0)


def _of_pids(views: Views, pids: Collection[int]) -> list[int]:
    tasks = views.tasks.take(np.isin(views.tasks.tgid, list(pids)) & (views.tasks.mm != 0))
    return list(dict.fromkeys(tasks.mm[sort_order(tasks.tgid, ~tasks.leader, tasks.task)].tolist()))


def _map(kernel: Kernel, views: Views, mm: int, findings: list[Finding], most: int) -> MemoryMap:
    ranges = [
        (finding.start, finding.end) for finding in findings if finding.start is not None and finding.end is not None
    ]
    records = records_near(records_of_mm(views, mm), ranges, most)
    document, index = records.document(), _index(views, findings)
    return MemoryMap(
        pid=document.pid,
        comm=document.comm,
        mm=document.mm,
        views=tuple(document.views),
        rows=tuple(document.rows),
        rows_left_out=records.left_out,
        index=index.label,
        nodes=nodes_near(kernel, views, mm, index, findings),
    )


def _index(views: Views, findings: Iterable[Finding]) -> View:
    """The index that is drawn: the maple tree, else the red-black tree, unless the evidence names only the list."""
    if views.maple is not None:
        return View.MAPLE
    named = {item.view for finding in findings for item in finding.evidence}
    if views.rbtree is None or (View.LIST.label in named and View.RBTREE.label not in named):
        return View.LIST
    return View.RBTREE
