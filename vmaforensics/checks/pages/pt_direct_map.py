"""PT-DIRECT-MAP: direct map leads to other memory than its address says.

*Compared:* each leaf entry of the direct map of RAM with its own address: it maps physical memory in order, from
`page_offset_base` on.

*Guaranteed by:* `kernel_physical_mapping_init` (arch/x86/mm/init_64.c); `set_memory_*` changes what such entries allow,
splits and joins them, and never where they lead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.checks.pages.kernel_leaves import entries_text, leaf_bounds, leaf_evidence
from vmaforensics.checks.rule import BUG, SMEAR, Rule, Severity
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="PT-DIRECT-MAP",
    title="direct map leads to other memory than its address says",
    severity=Severity.HIGH,
    why="The kernel, and whatever reads its memory through it, is shown other memory in the place of some.",
    benign=(SMEAR, BUG),
    compares="where each entry of the direct map leads with its own address",
    views=(View.PAGE_TABLES,),
    transient="none",
    by_hand=("crash: vtop ADDRESS",),
    steps=("word",),
    rank=207,
    changed_by=(),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding, of no process."""
    view = context.views.kernel_half
    if view is None or not len(view.moved):
        return
    leaves = view.moved
    title = f"{entries_text(len(leaves))} of the direct map lead elsewhere, first for {int(leaves.va[0]):#x}"
    yield context.finding(RULE, 0, title, leaf_evidence(context, leaves), bounds=leaf_bounds(context, leaves))
