"""The memory maps that findings are about: every record side by side, and the part of the index around the findings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Severity
from vmaforensics.compare.nearby_nodes import near_nodes
from vmaforensics.compare.records import sides_near
from vmaforensics.report.document.document import MemoryMap
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from vmaforensics.checks.finding import Finding
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views

MOST = 16  # address spaces
MOST_ROWS = 1024  # rows of one of them


def memory_maps(
    kernel: Kernel, views: Views, findings: Sequence[Finding], pids: Collection[int] | None = None
) -> tuple[list[MemoryMap], int]:
    """The maps of the address spaces that ``findings`` of at least low severity name, in their order, or with
    ``pids`` of those processes; and how many more there would have been.

    >>> maps, left_out = memory_maps(kernel, views, findings)
    """
    mine: dict[int, list[Finding]] = {}
    for one in findings:
        if one.mm and one.severity.rank <= Severity.LOW.rank:
            mine.setdefault(one.mm, []).append(one)
    if pids is not None:
        for mm in _of_pids(views, pids):
            mine.setdefault(mm, [])
    usable = views.mm_rows(np.array(list(mine), np.uint64)) >= 0
    chosen = [mm for mm, fine in zip(mine, usable.tolist(), strict=True) if fine]
    maps = [_map(kernel, views, mm, mine[mm]) for mm in chosen[:MOST]]
    return maps, max(len(chosen) - MOST, 0)


def _of_pids(views: Views, pids: Collection[int]) -> list[int]:
    tasks = views.tasks[np.isin(views.tasks["tgid"], list(pids)) & (views.tasks["mm"] != 0)]
    order = np.lexsort((tasks["task"], ~tasks["leader"], tasks["tgid"]))
    return list(dict.fromkeys(tasks["mm"][order].tolist()))


def _map(kernel: Kernel, views: Views, mm: int, findings: list[Finding]) -> MemoryMap:
    ranges = [(one.start, one.end) for one in findings if one.start is not None and one.end is not None]
    sides, left_out = sides_near(views, mm, ranges, MOST_ROWS)
    index = _index(views, findings)
    return MemoryMap(
        pid=sides.pid,
        comm=sides.comm,
        mm=sides.mm,
        views=tuple(sides.views),
        rows=tuple(sides.rows),
        rows_left_out=left_out,
        index=index.label,
        nodes=near_nodes(kernel, views, mm, index, findings),
    )


def _index(views: Views, findings: Iterable[Finding]) -> View:
    """The index that is drawn: the maple tree, else the red-black tree, unless only the list is spoken of."""
    if views.maple is not None:
        return View.MAPLE
    told = {item.view for one in findings for item in one.evidence}
    if views.rbtree is None or (View.LIST.label in told and View.RBTREE.label not in told):
        return View.LIST
    return View.RBTREE
