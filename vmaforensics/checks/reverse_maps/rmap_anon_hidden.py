"""RMAP-ANON-HIDDEN: VMA of anonymous memory that no index of the memory map holds.

*Compared:* as RMAP-FILE-HIDDEN, for VMAs that an anon_vma's tree leads to and no `i_mmap` does.

*Guaranteed by:* `anon_vma_clone`, `unlink_anon_vmas` (mm/rmap.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.checks import hand
from vmaforensics.checks.reverse_maps.hidden_vmas import hidden_findings
from vmaforensics.checks.rule import INDICES, LAGS, REINDEXES, Part, Rule, Severity
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="RMAP-ANON-HIDDEN",
    title="VMA of anonymous memory that no index of the memory map holds",
    severity=Severity.HIGH,
    why="An anon_vma's tree leads to every VMA that may map its pages. One that is there, belongs to a "
    "running process and is in no index of its memory map was taken out of it by hand.",
    compares="the VMAs that anon_vma trees lead to, and no i_mmap does, with those of their process's indices",
    views=(View.ANON_RMAP, *INDICES),
    transient="fork, mmap and splits link a VMA into the reverse map before the index has it, under the write lock; "
    "munmap takes it out of the index first, and may go on under the read lock",
    by_hand=(hand.ANON, hand.VM),
    steps=("vma", "anon", "index", "tree", "list"),
    part=Part.CAUSE,
    rank=90,
    hides=True,
    excused_by=LAGS,
    changed_by=REINDEXES,
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process with such VMAs."""
    yield from hidden_findings(context, RULE, View.ANON_RMAP)
