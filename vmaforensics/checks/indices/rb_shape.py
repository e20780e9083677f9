"""RB-SHAPE: red-black tree violates its own rules.

Kernels up to 6.0.

*Compared:* `__rb_parent_color` of each node with the node that points to it; where the whole tree and its VMAs could be
read, also colours: no red child of a red node, a black root, the same number of black nodes on every way down.

*Guaranteed by:* lib/rbtree.c; `browse_rb` (mm/mmap.c) checks order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import REINDEXES, Part, Rule, Severity
from vmaforensics.columns.lookup import values_at
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import Bools
    from vmaforensics.views.indices.entries import IndexEntries
    from vmaforensics.views.indices.rbtree import RbNodes

_BLACK = np.uint64(1)  # lowest bit of __rb_parent_color (include/linux/rbtree_augmented.h)
_COLOUR_BITS = np.uint64(3)

RULE = Rule(
    id="RB-SHAPE",
    title="red-black tree violates its own rules",
    severity=Severity.HIGH,
    why="Parent pointers, order and colours follow from each other; only a write that bypassed the kernel's tree "
    "code breaks them.",
    compares="__rb_parent_color of each node with the node that points to it, and the colours with each other: no red "
    "child of a red node, a black root, as many black nodes on every way down",
    views=(View.RBTREE,),
    transient="rebalancing, under the mmap write lock",
    by_hand=(
        hand.RBTREE,
        'drgn: validate_rbtree("struct vm_area_struct", mm.mm_rb.address_of_(), "vm_rb", cmp, allow_equal=False)',
    ),
    steps=("vma", "rbtree"),
    part=Part.TRACE,
    rank=320,
    changed_by=REINDEXES,
)


def check(context: Context) -> Iterator[Finding]:
    """Parent pointers that lead elsewhere, and trees that are not balanced."""
    entries, nodes = context.views.rbtree, context.views.rb_nodes
    if entries is None or nodes is None or not len(entries):
        return
    yield from _parents(context, entries, nodes)
    yield from _colours(context, entries, nodes)


def _parents(context: Context, entries: IndexEntries, nodes: RbNodes) -> Iterator[Finding]:
    """Nodes whose ``__rb_parent_color``, colour bits aside, is not the address of the node that points to them."""
    expected = values_at(nodes.address, nodes.parent)
    stored = nodes.parent_word & ~_COLOUR_BITS
    unread = (nodes.parent_word == 0) & ~values_at(context.views.vmas.ok, entries.vma_row)
    wrong = np.flatnonzero((stored != expected) & ~unread)

    def evidence(row: int) -> Evidence:
        at = int(wrong[row])
        return Evidence(
            what=f"the parent pointer of {int(entries.vma[at]):#x} does not lead to its parent",
            view=View.RBTREE.label,
            address=int(nodes.address[at]),
            found=f"{int(stored[at]):#x}",
            expected=f"{int(expected[at]):#x}",
        )

    yield from context.per_mm(
        RULE,
        entries.mm[wrong],
        evidence,
        lambda row: (
            f"parent pointer in the rbtree is wrong for the {context.vma_in_words(int(entries.vma[wrong[row]]))}"
        ),
        lambda row: (int(entries.start[wrong[row]]), int(entries.end[wrong[row]])),
    )


def _colours(context: Context, entries: IndexEntries, nodes: RbNodes) -> Iterator[Finding]:
    """Nodes that break a rule of red-black trees (lib/rbtree.c): the root is black, no red node has a red child, all
    ways down from a node pass equally many black ones. Of trees that were read whole."""
    black = (nodes.parent_word & _BLACK) != 0
    uneven = _uneven(nodes, black)
    red = np.append(~black, False)  # [-1] is that of no child
    red_pair = ~black & (red[nodes.left] | red[nodes.right])
    red_root = (nodes.parent < 0) & ~black
    wrong = np.flatnonzero((uneven | red_pair | red_root) & context.decoded(View.RBTREE, entries.mm))

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
            what=f"the node of {int(entries.vma[at]):#x} {what}",
            view=View.RBTREE.label,
            address=int(nodes.address[at]),
        )

    yield from context.per_mm(
        RULE,
        entries.mm[wrong],
        evidence,
        lambda row: "the rbtree is not balanced as the kernel's code leaves it",
    )


def _uneven(nodes: RbNodes, black: Bools) -> Bools:
    """Nodes whose two subtrees have different numbers of black nodes on the way down; level by level, from below."""
    height = np.zeros(len(nodes) + 1, np.int64)  # black nodes on the way down; [-1] is that of no child
    uneven = np.zeros(len(nodes), np.bool_)
    for depth in range(int(nodes.depth.max()), 0, -1):
        at = np.flatnonzero(nodes.depth == depth)
        left, right = height[nodes.left[at]], height[nodes.right[at]]
        uneven[at] = left != right
        height[at] = np.maximum(left, right) + black[at]
    return uneven
