"""VMA-UNLINKED: VMA in one index of the memory map and not in another.

Kernels up to 6.0.

*Compared:* every (mm, VMA) of the `vm_next` list with those of the red-black tree, both ways.

*Guaranteed by:* `__vma_link` (mm/mmap.c) puts a VMA into both; `validate_mm` checks that the list and the tree have
`map_count` VMAs each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.checks import hand
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import REINDEXES, Part, Rule, Severity
from vmaforensics.columns.lookup import rows_of, sort_order, values_at
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import Bools
    from vmaforensics.views.indices.entries import IndexEntries

RULE = Rule(
    id="VMA-UNLINKED",
    title="VMA in one index of the memory map and not in another",
    severity=Severity.HIGH,
    why="The kernel adds a VMA to the list and to the tree under one lock. Tools that read only one of them do "
    "not see this VMA.",
    compares="every VMA of the vm_next list with those of the red-black tree, both ways (kernels up to 6.0)",
    views=(View.LIST, View.RBTREE),
    transient="fork has a VMA in the list before it is in the tree, under the write lock",
    by_hand=(hand.LIST, hand.RBTREE),
    steps=("vma", "index", "list", "rbtree"),
    part=Part.CAUSE,
    rank=10,
    hides=True,
    explains_counts=True,
    changed_by=REINDEXES,
)


def check(context: Context) -> Iterator[Finding]:
    """VMAs that one index holds and another, which was read whole, does not; for every pair of indices."""
    indices = context.views.indices()
    for here, entries in indices.items():
        for there, others in indices.items():
            if here != there:
                missing = ~_in(entries, others) & context.whole(there, entries.mm)
                yield from _missing(context, here, there, entries.take(missing))


def _in(entries: IndexEntries, others: IndexEntries) -> Bools:
    """Is each VMA of ``entries`` in ``others`` too, under the same mm? An index visits a VMA once."""
    order = sort_order(others.vma)
    at = rows_of(others.vma[order], entries.vma)
    both: Bools = (at >= 0) & (values_at(others.mm[order], at) == entries.mm)
    return both


def _missing(context: Context, here: View, there: View, missing: IndexEntries) -> Iterator[Finding]:
    def evidence(row: int) -> Evidence:
        vma = context.vma_in_words(int(missing.vma[row]))
        return Evidence(
            what=f"the {here.label} holds the {vma}, the {there.label} does not",
            view=here.label,
            address=int(missing.slot[row]),
            found=f"{int(missing.vma[row]):#x}",
        )

    def title(row: int) -> str:
        vma = context.vma_in_words(int(missing.vma[row]))
        return f"{vma} is in the {here.label}, hidden from the {there.label}"

    yield from context.per_mm(
        RULE, missing.mm, evidence, title, lambda row: (int(missing.start[row]), int(missing.end[row]))
    )
