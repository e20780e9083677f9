"""VMA-ORDER: VMAs overlap or are out of order.

*Compared:* `vm_start` of each VMA with `vm_end` of the one before it, in each view's own order.

*Guaranteed by:* `validate_mm` and `browse_rb` (mm/mmap.c, up to 6.0); the maple tree's order is that of its pivots, so
that there it follows from VMA-RANGE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import INDICES, REINDEXES, Part, Rule, Severity
from vmaforensics.checks.vmas.indexed import indexed_vmas
from vmaforensics.columns.runs import begins_run, value_before
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.checks.vmas.indexed import IndexedVmas

RULE = Rule(
    id="VMA-ORDER",
    title="VMAs overlap or are out of order",
    severity=Severity.HIGH,
    why="The kernel keeps VMAs in ascending order and never lets two overlap; look-ups go wrong otherwise.",
    compares="vm_start of each VMA with vm_end of the one before it, in each view's own order",
    views=(*INDICES, View.VMA),
    transient="any change of the map, under the mmap write lock",
    by_hand=(hand.VM, hand.VMAS),
    steps=("index", "tree", "list", "vma"),
    part=Part.TRACE,
    rank=300,
    changed_by=REINDEXES,
)


def check(context: Context) -> Iterator[Finding]:
    """VMAs that begin before the one before them ends, in every index's own order."""
    for view, indexed in context.shared(indexed_vmas).items():
        yield from _out_of_order(context, view, indexed)


def _out_of_order(context: Context, view: View, indexed: IndexedVmas) -> Iterator[Finding]:
    """VMAs of one index that begin before the VMA in front of them ends."""
    entries, vmas = indexed.entries, context.views.vmas
    start, end = vmas.start[indexed.vma_row], vmas.end[indexed.vma_row]
    wrong = np.flatnonzero(start < value_before(end, begins_run(entries.mm)))

    def span(row: int) -> str:
        return f"{int(start[row]):#x}-{int(end[row]):#x}"

    def evidence(row: int) -> Evidence:
        at = int(wrong[row])
        return Evidence(
            what=f"in the {view.label}, {span(at)} follows {span(at - 1)}",
            view=view.label,
            address=int(entries.slot[at]),
        )

    def title(row: int) -> str:
        at = int(wrong[row])
        return f"VMAs {span(at - 1)} and {span(at)} overlap or are out of order in the {view.label}"

    def bounds(row: int) -> tuple[int, int]:
        at = int(wrong[row])
        return int(start[at - 1 : at + 1].min()), int(end[at - 1 : at + 1].max())

    yield from context.per_mm(RULE, entries.mm[wrong], evidence, title, bounds)
