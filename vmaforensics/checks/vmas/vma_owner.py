"""VMA-OWNER: VMA belongs to another address space.

*Compared:* `vm_mm` of every VMA with the `mm_struct` whose index leads to it, in every index.

*Guaranteed by:* `vm_mm` is set when a VMA is allocated (`vm_area_alloc`) or copied by `dup_mmap`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import BUG, BUSY, FORKS, INDICES, SMEAR, Part, Rule, Severity
from vmaforensics.checks.vmas.indexed import indexed_vmas
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.checks.vmas.indexed import IndexedVmas

RULE = Rule(
    id="VMA-OWNER",
    title="VMA belongs to another address space",
    severity=Severity.HIGH,
    why="Every VMA points back to the mm_struct whose index holds it. A foreign VMA in an index was put there "
    "by hand or by corruption.",
    benign=(SMEAR, BUSY, "a fork that failed half-way (6.8 and later leave the parent's VMAs behind)", BUG),
    compares="vm_mm of every VMA with the mm_struct whose index leads to it",
    views=(*INDICES, View.VMA),
    transient="dup_mmap of 6.8 and later fills the child's tree with the parent's VMAs first, under the write lock",
    by_hand=("crash: struct vm_area_struct.vm_mm VMA", 'drgn: Object(prog, "struct vm_area_struct *", VMA).vm_mm'),
    steps=("vma", "index", "tree", "list"),
    part=Part.CAUSE,
    rank=40,
    changed_by=FORKS,
)


def check(context: Context) -> Iterator[Finding]:
    """VMAs whose vm_mm is not the mm_struct whose index leads to them, in every index."""
    for view, indexed in context.shared(indexed_vmas).items():
        yield from _foreign(context, view, indexed)


def _foreign(context: Context, view: View, indexed: IndexedVmas) -> Iterator[Finding]:
    """Entries of one index whose VMA has another ``vm_mm`` than the mm_struct that the index belongs to."""
    vmas = context.views.vmas
    wrong = np.flatnonzero(indexed.entries.mm != vmas.mm[indexed.vma_row])
    entries, vmas = indexed.entries.take(wrong), vmas.take(indexed.vma_row[wrong])

    def evidence(row: int) -> Evidence:
        return Evidence(
            what=f"the {view.label} holds {int(vmas.vma[row]):#x}, whose vm_mm is {int(vmas.mm[row]):#x}",
            view=view.label,
            address=int(entries.slot[row]),
            found=f"{int(vmas.mm[row]):#x}",
            expected=f"{int(entries.mm[row]):#x}",
        )

    yield from context.per_mm(
        RULE,
        entries.mm,
        evidence,
        lambda row: f"{context.vma_in_words(int(vmas.vma[row]))} in the {view.label} belongs to another address space",
        lambda row: (int(entries.start[row]), int(entries.end[row])),
    )
