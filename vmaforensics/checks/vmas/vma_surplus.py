"""VMA-SURPLUS: VMA in the memory map that the kernel never counted in.

*Compared:* as VMA-MISSING, the other way: more VMAs, or as many VMAs with more pages, than the counters say.

*Guaranteed by:* as VMA-MISSING.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.checks import hand
from vmaforensics.checks.rule import INDICES, REINDEXES, Part, Rule, Severity
from vmaforensics.checks.vmas.counters import Way, differences
from vmaforensics.views.view import View
from vmaforensics.words.amounts import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="VMA-SURPLUS",
    title="VMA in the memory map that the kernel never counted in",
    severity=Severity.HIGH,
    why="The index holds more VMAs or pages than the kernel's counters. A VMA that was put in by hand, or one "
    "that was made larger, looks like this.",
    compares="as VMA-MISSING, the other way: more VMAs or pages than the counters say",
    views=(View.COUNTERS, *INDICES, View.VMA),
    transient="an insertion, before map_count or total_vm follows, under the write lock",
    by_hand=(hand.COUNTERS, hand.VM, hand.VMAS),
    steps=("counters", "index", "tree", "list", "vma"),
    part=Part.CAUSE,
    rank=50,
    count=True,
    changed_by=REINDEXES,
)


def check(context: Context) -> Iterator[Finding]:
    """Address spaces whose index holds more VMAs or pages than were counted."""
    for difference in context.shared(differences):
        if difference.way is not Way.TOO_MANY:
            continue
        vmas, total = -difference.lacks.map_count, -difference.lacks.total_vm
        what = f"{counted(vmas, 'VMA')} more" if vmas else "larger VMAs"
        title = f"the {context.index.label} holds {what} than the kernel counted ({context.pages(total)})"
        yield context.finding(RULE, difference.mm, title, difference.evidence)
