"""VMA-DETACHED: VMA of the index that is marked as taken out of it.

*Compared:* `vm_refcnt` (6.15) or `detached` (6.4 to 6.14) of every VMA of the index with its being there: 0, or set,
stands for a VMA that is in no index.

*Guaranteed by:* `vma_mark_attached` is called when a VMA is put into the tree, `vma_mark_detached` when it is about to
be taken out, both under the mmap write lock (include/linux/mmap_lock.h; `vma_iter_store_new`,
`vms_gather_munmap_vmas`).
Page faults and readers that go without the mmap lock pass over a VMA that is marked so (`lock_vma_under_rcu`).
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
    id="VMA-DETACHED",
    title="VMA of the index is marked as taken out of it",
    severity=Severity.HIGH,
    why="What looks a VMA up without the mmap lock, /proc/PID/maps of 6.17 and later among it, passes over one that is "
    "marked as detached.",
    compares="vm_refcnt or detached of every VMA of the index",
    views=(View.VMA,),
    transient="munmap, mmap over others and merging mark VMAs under the mmap write lock before they take them out",
    by_hand=("crash: struct vm_area_struct.vm_refcnt VMA", "crash: struct vm_area_struct.detached VMA"),
    steps=("vma", "index"),
    rank=505,
)


def check(context: Context) -> Iterator[Finding]:
    """VMAs of the index the kernel uses that say they are in none."""
    indexed = context.shared(indexed_vmas).get(context.index)
    if indexed is None:
        return
    entries, vmas = indexed.entries, context.views.vmas
    marked = vmas.ok & (vmas.detached | (vmas.refcnt == 0))
    wrong = np.flatnonzero(marked[indexed.vma_row])
    entries, vmas = entries.take(wrong), vmas.take(indexed.vma_row[wrong])

    def evidence(row: int) -> Evidence:
        counts = int(vmas.refcnt[row]) >= 0
        return Evidence(
            what=f"{'vm_refcnt' if counts else 'detached'} of {int(vmas.start[row]):#x}-{int(vmas.end[row]):#x}",
            view=View.VMA.label,
            address=int(vmas.vma[row]),
            found="0" if counts else "1",
            expected="1 or more" if counts else "0",
        )

    yield from context.per_mm(
        RULE,
        entries.mm,
        evidence,
        lambda row: f"{context.vma_in_words(int(vmas.vma[row]))} is marked as taken out of the index",
        lambda row: (int(vmas.start[row]), int(vmas.end[row])),
    )
