"""VMA-PGOFF: the two page offsets of an anonymous VMA contradict each other.

*Compared:* `vm_pgoff` with the offset that anonymous pages count from (`__vm_anon_pgoff_hi`, `__vm_anon_pgoff_lo`, 7.3
and later) of every VMA without file and operations.

*Guaranteed by:* where `vma_is_anonymous` and there is no `vm_file`, both are set and moved together (`vma_set_range`,
`vma_add_pgoff`, `vma_sub_pgoff`, mm/vma.h); `linear_anon_page_index` warns if they differ (CONFIG_DEBUG_VM).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import Rule, Severity
from vmaforensics.checks.vmas.indexed import indexed_vmas
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding


RULE = Rule(
    id="VMA-PGOFF",
    title="two page offsets of an anonymous VMA contradict each other",
    severity=Severity.HIGH,
    why="From 7.3 on an anonymous VMA has its first page's number twice, and no function of the kernel changes one of "
    "them alone.",
    compares="vm_pgoff with __vm_anon_pgoff_hi and __vm_anon_pgoff_lo of every VMA without file and operations; "
    "kernels before 7.3 have no second offset",
    views=(View.VMA,),
    transient="splits and merges set one after the other, under the write lock",
    by_hand=("crash: struct vm_area_struct.vm_pgoff,__vm_anon_pgoff_hi,__vm_anon_pgoff_lo,vm_ops,vm_file VMA",),
    steps=("vma",),
    rank=535,
    changed_by=(),
)


def check(context: Context) -> Iterator[Finding]:
    """Anonymous VMAs of the index the kernel uses whose ``vm_pgoff`` is not what their pages count from."""
    indexed = context.shared(indexed_vmas).get(context.index)
    if indexed is None:
        return
    vmas = context.views.vmas.take(indexed.vma_row)
    wrong = np.flatnonzero((vmas.file == 0) & (vmas.ops == 0) & (vmas.pgoff != vmas.anon_pgoff))
    entries, vmas = indexed.entries.take(wrong), vmas.take(wrong)

    def evidence(row: int) -> Evidence:
        found, expected = f"{int(vmas.pgoff[row]):#x}", f"{int(vmas.anon_pgoff[row]):#x}"
        return Evidence(
            what=f"vm_pgoff is {found}, and its anonymous pages count from {expected}",
            view=View.VMA.label,
            address=int(vmas.vma[row]),
            found=found,
            expected=expected,
        )

    yield from context.per_mm(
        RULE,
        entries.mm,
        evidence,
        lambda row: f"{context.vma_in_words(int(vmas.vma[row]))} has two page offsets that contradict each other",
        lambda row: (int(vmas.start[row]), int(vmas.end[row])),
    )
