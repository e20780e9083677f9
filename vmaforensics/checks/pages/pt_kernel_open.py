"""PT-KERNEL-OPEN: user mode can use memory in the kernel half.

*Compared:* the user bit of each leaf entry of the kernel's own page tables, over all levels. The vsyscall page may have
it, if it can only be read.

*Guaranteed by:* the kernel maps itself without that bit (`__PAGE_KERNEL` and the like, arch/x86/include/asm/
pgtable_types.h); entries that lead to tables may have it, entries that map pages have not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmaforensics.checks.pages.kernel_leaves import leaf_bounds, leaf_evidence, leaf_text
from vmaforensics.checks.rule import BUG, SMEAR, Rule, Severity
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="PT-KERNEL-OPEN",
    title="user mode can use memory in the kernel half",
    severity=Severity.CRITICAL,
    why="Every process can read, or write, or run what is mapped there, and no VMA of any process has it.",
    benign=(SMEAR, BUG),
    attack=("T1014", "T1564", "T1068"),
    compares="the user bit of each leaf entry of the kernel's own page tables; the vsyscall page aside",
    views=(View.PAGE_TABLES,),
    transient="none",
    by_hand=("crash: vtop ADDRESS",),
    steps=("word",),
    rank=206,
    changed_by=(),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding, of no process."""
    view = context.views.kernel_half
    if view is None or not len(view.open_leaves):
        return
    leaves = view.open_leaves
    title = f"the kernel half maps {leaf_text(context, leaves)}, in every process, first at {int(leaves.va[0]):#x}"
    evidence = leaf_evidence(context, leaves, view.open_contents)
    yield context.finding(RULE, 0, title, evidence, bounds=leaf_bounds(context, leaves))
