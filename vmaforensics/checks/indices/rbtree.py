"""The red-black tree against its own rules: browse_rb and validate_mm_rb of mm/mmap.c, up to 6.0."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import rules
from vmaforensics.checks.context import before
from vmaforensics.checks.finding import Evidence
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.indices.entries import IndexEntries
    from vmaforensics.views.indices.rbtree import RbNodes

_BLACK = np.uint64(1)  # lowest bit of __rb_parent_color
_FLAG_BITS = np.uint64(3)


def check_rbtree(context: Context) -> Iterator[Finding]:
    """RB-SHAPE and RB-GAP for every tree that could be read whole."""
    rows, nodes = context.views.rbtree, context.views.rb_nodes
    if rows is None or nodes is None or not len(rows):
        return
    whole = context.decoded(View.RBTREE, rows["mm"])
    yield from _parents(context, rows, nodes)
    yield from _colours(context, rows, nodes, whole)
    yield from _gaps(context, rows, nodes, whole)


def _at(context: Context, rows: IndexEntries, row: int) -> tuple[int, int]:
    return int(rows["start"][row]), int(rows["end"][row])


def _parents(context: Context, rows: IndexEntries, nodes: RbNodes) -> Iterator[Finding]:
    expected = np.where(nodes.parent >= 0, nodes.address[nodes.parent], np.uint64(0))
    stored = nodes.parent_word & ~_FLAG_BITS
    wrong = np.flatnonzero((stored != expected) & (nodes.parent_word != 0))

    def evidence(row: int) -> Evidence:
        at = int(wrong[row])
        return Evidence(
            what=f"the parent pointer of {int(rows['vma'][at]):#x} does not lead to its parent",
            view=View.RBTREE.label,
            address=int(nodes.address[at]),
            found=f"{int(stored[at]):#x}",
            expected=f"{int(expected[at]):#x}",
        )

    yield from context.per_mm(
        rules.RB_SHAPE,
        rows["mm"][wrong],
        evidence,
        lambda row: f"parent pointer in the rbtree is wrong for the {context.area(int(rows['vma'][wrong[row]]))}",
        lambda row: _at(context, rows, int(wrong[row])),
    )


def _colours(context: Context, rows: IndexEntries, nodes: RbNodes, whole: NDArray[np.bool_]) -> Iterator[Finding]:
    black = (nodes.parent_word & _BLACK) != 0
    height = np.zeros(len(rows) + 1, np.int64)  # black nodes on the way down; [-1] is that of no child
    uneven = np.zeros(len(rows), np.bool_)
    for depth in range(int(nodes.depth.max()), 0, -1):
        at = np.flatnonzero(nodes.depth == depth)
        left, right = height[nodes.left[at]], height[nodes.right[at]]
        uneven[at] = left != right
        height[at] = np.maximum(left, right) + black[at]
    red = np.append(~black, False)
    red_pair = ~black & (red[nodes.left] | red[nodes.right])
    red_root = (nodes.parent < 0) & ~black
    wrong = np.flatnonzero((uneven | red_pair | red_root) & whole)

    def evidence(row: int) -> Evidence:
        at = int(wrong[row])
        what = (
            "has subtrees with different numbers of black nodes"
            if uneven[at]
            else "is red and so is its child"
            if red_pair[at]
            else "is the root and red"
        )
        return Evidence(
            what=f"the node of {int(rows['vma'][at]):#x} {what}",
            view=View.RBTREE.label,
            address=int(nodes.address[at]),
        )

    yield from context.per_mm(
        rules.RB_SHAPE,
        rows["mm"][wrong],
        evidence,
        lambda row: "the rbtree is not balanced as the kernel's code leaves it",
    )


def _gaps(context: Context, rows: IndexEntries, nodes: RbNodes, whole: NDArray[np.bool_]) -> Iterator[Finding]:
    vmas = context.views.vmas[rows["vma_row"]]
    # vma_compute_gap: from the end of the area before to this one's start, less the guard of a stack.
    floor = before(vmas["end"], rows["mm"])
    start = vmas["start"].copy()
    grows = (vmas["flags"] & np.uint64(flags.VM_GROWSDOWN)) != 0
    guard = np.minimum(start, np.uint64(context.views.stack_guard_gap))
    start[grows] -= guard[grows]
    largest = np.append(np.where(start > floor, start - floor, np.uint64(0)), np.uint64(0))
    own = largest.copy()
    for depth in range(int(nodes.depth.max()), 0, -1):
        at = np.flatnonzero(nodes.depth == depth)
        below = np.maximum(largest[nodes.left[at]], largest[nodes.right[at]])
        largest[at] = np.maximum(own[at], below)
    wrong = np.flatnonzero((largest[:-1] != vmas["gap"]) & whole)

    def evidence(row: int) -> Evidence:
        at = int(wrong[row])
        return Evidence(
            what=f"rb_subtree_gap of {int(rows['vma'][at]):#x} is not the largest gap below it",
            view=View.RBTREE.label,
            address=int(rows["vma"][at]),
            found=f"{int(vmas['gap'][at]):#x}",
            expected=f"{int(largest[at]):#x}",
        )

    yield from context.per_mm(
        rules.RB_GAP,
        rows["mm"][wrong],
        evidence,
        lambda row: (
            f"the rbtree records a gap of {int(vmas['gap'][wrong[row]]):#x} where there is one of "
            f"{int(largest[wrong[row]]):#x}"
        ),
    )
