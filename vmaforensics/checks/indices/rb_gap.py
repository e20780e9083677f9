"""RB-GAP: gap recorded in the red-black tree is not the gap there is.

Kernels up to 6.0.

*Compared:* `rb_subtree_gap` of each VMA with the largest gap before a VMA of its subtree, recomputed: from the end
of the VMA before to its start, less `stack_guard_gap` where it grows down. Only where the whole tree could be read.

*Guaranteed by:* `vma_compute_gap` and the augmented callbacks (mm/mmap.c); `validate_mm_rb` checks it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import LAGS, REINDEXES, Part, Rule, Severity
from vmaforensics.columns.runs import begins_run, value_before
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import U64
    from vmaforensics.views.indices.entries import IndexEntries
    from vmaforensics.views.indices.rbtree import RbNodes

RULE = Rule(
    id="RB-GAP",
    title="gap recorded in the red-black tree is not the gap there is",
    severity=Severity.HIGH,
    why="Each node records the largest free gap below it. Cutting a VMA out by hand leaves that record as it was.",
    compares="rb_subtree_gap of each VMA with the largest gap before a VMA of its subtree, recomputed",
    views=(View.RBTREE, View.VMA),
    transient="expand_downwards of 5.10, under the read lock and page_table_lock",
    by_hand=("crash: struct vm_area_struct.rb_subtree_gap,vm_start,vm_prev VMA",),
    steps=("vma", "rbtree"),
    part=Part.TRACE,
    rank=330,
    excused_by=LAGS,
    changed_by=REINDEXES,
)


def check(context: Context) -> Iterator[Finding]:
    """Nodes whose rb_subtree_gap is not the largest gap before a VMA of their subtree."""
    entries, nodes = context.views.rbtree, context.views.rb_nodes
    if entries is None or nodes is None or not len(entries):
        return
    stored = context.views.vmas.gap[entries.vma_row]
    largest = _largest_below(nodes, _gaps_before(context, entries))
    wrong = np.flatnonzero((largest != stored) & context.decoded(View.RBTREE, entries.mm))

    def evidence(row: int) -> Evidence:
        at = int(wrong[row])
        return Evidence(
            what=f"rb_subtree_gap of {int(entries.vma[at]):#x} is not the largest gap below it",
            view=View.RBTREE.label,
            address=int(entries.vma[at]),
            found=f"{int(stored[at]):#x}",
            expected=f"{int(largest[at]):#x}",
        )

    def title(row: int) -> str:
        at = int(wrong[row])
        return f"the rbtree records a gap of {int(stored[at]):#x} where there is one of {int(largest[at]):#x}"

    yield from context.per_mm(RULE, entries.mm[wrong], evidence, title)


def _gaps_before(context: Context, entries: IndexEntries) -> U64:
    """vma_compute_gap: bytes from the end of the VMA before to the start of each, less the guard of a stack."""
    vmas, at = context.views.vmas, entries.vma_row
    floor = value_before(vmas.end[at], begins_run(entries.mm))
    start = vmas.start[at]
    grows = (vmas.flags[at] & np.uint64(flags.VM_GROWSDOWN)) != 0
    start[grows] -= np.minimum(start[grows], np.uint64(context.views.stack_guard_gap))
    return np.where(start > floor, start - floor, np.uint64(0))


def _largest_below(nodes: RbNodes, own: U64) -> U64:
    """The largest of ``own`` in the subtree of each node; level by level, from below."""
    largest = np.append(own, np.uint64(0))  # [-1] is that of no child
    for depth in range(int(nodes.depth.max()), 0, -1):
        at = np.flatnonzero(nodes.depth == depth)
        below = np.maximum(largest[nodes.left[at]], largest[nodes.right[at]])
        largest[at] = np.maximum(own[at], below)
    return largest[:-1]
