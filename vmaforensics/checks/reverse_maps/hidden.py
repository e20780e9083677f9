"""Areas that a reverse map leads to and no index of their own memory map: taken out of it by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import rules
from vmaforensics.checks.finding import Evidence
from vmaforensics.columns.lookup import rows_of
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.checks.reverse_maps.rmap_vmas import Areas
    from vmaforensics.views.reverse_maps.reverse_maps import RmapView
    from vmaforensics.views.structures.interval_tree import IntervalNodes

# What the kernel's own marks of an attached area look like (include/linux/mmap_lock.h, 6.15 and later).
_ATTACHED = 0x3FFFFFFF


def check_hidden(context: Context, rmap: RmapView, areas: Areas) -> Iterator[Finding]:
    """RMAP-FILE-HIDDEN and RMAP-ANON-HIDDEN: areas of live address spaces that no index view holds."""
    by_file = np.isin(rmap.vmas["vma"], rmap.file_nodes["vma"])
    by_anon = np.isin(rmap.vmas["vma"], rmap.anon_nodes["vma"])
    lost = rmap.vmas["ok"] & areas.live & areas.index_whole & ~areas.listed
    detached = rmap.vmas["detached"] | ((rmap.vmas["refcnt"] >= 0) & ((rmap.vmas["refcnt"] & _ATTACHED) == 0))
    for rule, view, nodes, reached in (
        (rules.RMAP_FILE_HIDDEN, View.FILE_RMAP, rmap.file_nodes, lost & by_file),
        (rules.RMAP_ANON_HIDDEN, View.ANON_RMAP, rmap.anon_nodes, lost & by_anon & ~by_file),
    ):
        rows = np.flatnonzero(reached)
        order = np.argsort(nodes["vma"], kind="stable")
        at = order[rows_of(nodes["vma"][order], rmap.vmas["vma"][rows])] if len(order) else order

        def evidence(
            row: int,
            rows: NDArray[np.intp] = rows,
            at: NDArray[np.intp] = at,
            view: View = view,
            nodes: IntervalNodes = nodes,
        ) -> Evidence:
            area, node = int(rows[row]), nodes[at[row]]
            also = " and in an anon_vma tree" if view is View.FILE_RMAP and by_anon[area] else ""
            mark = ", marked detached" if detached[area] else ""
            return Evidence(
                what=f"{areas.text(area)}{mark} hangs in the {view.label} tree of {int(node['tree']):#x}{also}, "
                f"the {context.index.label} does not hold it",
                view=view.label,
                address=int(node["slot"]),
                found=f"{int(rmap.vmas['vma'][area]):#x}",
            )

        def title(row: int, rows: NDArray[np.intp] = rows, view: View = view) -> str:
            return f"{areas.text(int(rows[row]))} is hidden from the {context.index.label}, {view.label} leads to it"

        def bounds(row: int, rows: NDArray[np.intp] = rows) -> tuple[int, int] | None:
            return areas.bounds(int(rows[row]))

        yield from context.per_mm(rule, rmap.vmas["mm"][rows], evidence, title, bounds)
