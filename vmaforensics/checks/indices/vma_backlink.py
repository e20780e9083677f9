"""VMA-BACKLINK: backward link of the list disagrees.

Kernels up to 6.0.

*Compared:* `vm_prev` of each VMA with the element before it in the list; `mm->highest_vm_end` with the end of the last
VMA.

*Guaranteed by:* `__vma_link_list` and `__vma_unlink_list` (mm/util.c); `validate_mm` checks `highest_vm_end`
(`vm_end_gap` of the last VMA; on x86 no VMA grows up).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import REINDEXES, Part, Rule, Severity
from vmaforensics.checks.vmas.indexed import indexed_vmas
from vmaforensics.columns.lookup import values_at
from vmaforensics.columns.runs import begins_run, run_lasts, run_starts, value_before
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.checks.vmas.indexed import IndexedVmas

RULE = Rule(
    id="VMA-BACKLINK",
    title="backward link of the list disagrees",
    severity=Severity.HIGH,
    why="vm_prev leads back along the list. Whoever unlinks a VMA by hand has to repair it too, and often does not.",
    compares="vm_prev of each VMA with the element before it in the list; mm->highest_vm_end with the end of the last "
    "VMA (kernels up to 6.0)",
    views=(View.LIST, View.VMA),
    transient="any change of the map, under the mmap write lock",
    by_hand=(hand.LIST,),
    steps=("vma", "list"),
    part=Part.TRACE,
    rank=310,
    changed_by=REINDEXES,
)


def check(context: Context) -> Iterator[Finding]:
    """vm_prev that does not lead one element back; highest_vm_end that is not the end of the last VMA."""
    indexed = context.shared(indexed_vmas).get(View.LIST)
    if indexed is not None:
        yield from _backward(context, indexed)
        yield from _highest(context, indexed)


def _backward(context: Context, indexed: IndexedVmas) -> Iterator[Finding]:
    """VMAs whose ``vm_prev`` is not the VMA before them in the ``vm_next`` list; NULL is expected of the first."""
    entries, vmas = indexed.entries, context.views.vmas
    expected = value_before(entries.vma, begins_run(entries.mm))
    stored = vmas.prev[indexed.vma_row]
    wrong = np.flatnonzero((stored != expected) & context.decoded(View.LIST, entries.mm))

    def evidence(row: int) -> Evidence:
        at = int(wrong[row])
        return Evidence(
            what=f"vm_prev of {int(entries.vma[at]):#x} does not lead to the element before it",
            view=View.LIST.label,
            address=int(entries.vma[at]),
            found=f"{int(stored[at]):#x}",
            expected=f"{int(expected[at]):#x}",
        )

    yield from context.per_mm(
        RULE,
        entries.mm[wrong],
        evidence,
        lambda row: f"vm_prev of the {context.vma_in_words(int(entries.vma[wrong[row]]))} skips or leaves the list",
        lambda row: (int(entries.start[wrong[row]]), int(entries.end[wrong[row]])),
    )


def _highest(context: Context, indexed: IndexedVmas) -> Iterator[Finding]:
    """``highest_vm_end`` is the end of the last VMA (vm_end_gap; the guard gap is only of VM_GROWSUP)."""
    entries, mms = indexed.entries, context.views.mms
    last = run_lasts(run_starts(begins_run(entries.mm)), len(entries))
    mm = entries.mm[last]
    stored = values_at(mms.highest_vm_end, context.views.mm_rows(mm))
    end = context.views.vmas.end[indexed.vma_row[last]]
    wrong = (stored != end) & context.decoded(View.LIST, mm)
    mm, stored, end = mm[wrong], stored[wrong], end[wrong]

    def evidence(row: int) -> Evidence:
        return Evidence(
            what="highest_vm_end is not the end of the last VMA",
            view=View.COUNTERS.label,
            address=int(mm[row]),
            found=f"{int(stored[row]):#x}",
            expected=f"{int(end[row]):#x}",
        )

    def title(row: int) -> str:
        return f"highest_vm_end is {int(stored[row]):#x}, the last VMA ends at {int(end[row]):#x}"

    yield from context.per_mm(RULE, mm, evidence, title)
