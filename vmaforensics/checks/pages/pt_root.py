"""PT-ROOT: top-level page table is not that of the address space.

*Compared:* the address space that the `struct page` of `mm->pgd` names (`pt_mm`) with the mm.

*Guaranteed by:* `pgd_alloc` (arch/x86/mm/pgtable.c) makes the table and sets `pt_mm` (`pgd_set_mm`) when an mm is made
(`mm_alloc_pgd`, kernel/fork.c); neither changes until both are given back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import BUG, SMEAR, Rule, Severity
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="PT-ROOT",
    title="top-level page table is not that of the address space",
    severity=Severity.HIGH,
    why="Who gives an address space other page tables decides what its threads see, or, while they run on the old "
    "ones, what is seen of them.",
    benign=(SMEAR, BUG),
    attack=("T1014", "T1055"),
    compares="mm->pgd with pt_mm of the struct page it leads to",
    views=(View.PAGE_TABLES, View.SOURCES),
    transient="none: both are set when an address space is made",
    by_hand=("crash: struct mm_struct.pgd MM", "crash: struct page.pt_mm PAGE"),
    steps=("mm", "word"),
    rank=151,
    changed_by=(),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each such address space."""
    roots, mms = context.views.table_roots, context.views.mms
    if roots is None:
        return
    for row in np.flatnonzero(roots.ok & mms.ok & (roots.owner != mms.mm)).tolist():
        mm, owner = int(mms.mm[row]), int(roots.owner[row])
        evidence = Evidence(
            what=f"the struct page of mm->pgd {int(mms.pgd[row]):#x} names the address space {owner:#x}",
            view=View.SOURCES.label,
            address=int(roots.word[row]),
            found=f"{owner:#x}",
            expected=f"{mm:#x}",
        )
        title = f"mm->pgd is {int(mms.pgd[row]):#x}, whose struct page does not name this address space"
        yield replace(context.finding(RULE, mm, title, [evidence]), settled=True)
