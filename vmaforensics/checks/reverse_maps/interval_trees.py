"""The interval trees of the reverse maps by their own rules.

Order, ``rb_subtree_last`` and parent words follow from the VMAs (include/linux/interval_tree_generic.h).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import values_at
from vmaforensics.columns.runs import begins_run, value_before
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.checks.reverse_maps.tree_sets import TreeSet
    from vmaforensics.columns.types import I64, U64, Bools
    from vmaforensics.views.structures.interval_tree import IntervalNodes

_COLOUR: Final = np.uint64(3)  # low bits of __rb_parent_color


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IntervalTrees:
    """All trees of one kind: arrays parallel to ``nodes``. Pages are counted from the start of the file or anon_vma.

    A tree with a VMA that could not be read is not judged.
    """

    view: View
    nodes: IntervalNodes
    vma_row: I64  # row of RmapView.vmas
    judged: Bools
    first: U64  # first page of the VMA
    last: U64  # its last page
    subtree_last: U64  # what rb_subtree_last should be
    parent: U64  # what the parent word should lead to; 0 for a root
    stale: Bools  # rb_subtree_last is another
    beyond: Bools  # stale, and the VMA's own pages reach beyond what is recorded
    astray: Bools  # the parent word leads elsewhere
    moved: Bools  # stands in the wrong place
    unclear: Bools  # one of two neighbours of which either may stand in the wrong place


class Misplaced(NamedTuple):
    """Nodes out of order; see :class:`IntervalTrees`."""

    moved: Bools
    unclear: Bools


def judge_trees(trees: TreeSet, view: View) -> IntervalTrees:
    """Judge the trees of files (``View.FILE_RMAP``) or those of anon_vmas (``View.ANON_RMAP``)."""
    rmap, vmas = trees.vmas.rmap, trees.vmas.rmap.vmas
    if view is View.FILE_RMAP:
        nodes, pgoff, whole = rmap.file_nodes, vmas.pgoff, rmap.mappings.mapping[trees.mapping_whole]
    else:
        nodes, pgoff, whole = rmap.anon_nodes, vmas.anon_pgoff, rmap.anon_vmas.anon_vma[trees.anon_vma_whole]
    row = rmap.vma_rows(nodes.vma)
    unknown = ~values_at(vmas.ok, row)
    judged = np.isin(nodes.tree, whole) & ~np.isin(nodes.tree, nodes.tree[unknown])
    first = values_at(pgoff, row)
    last = first + values_at(trees.vmas.span, row)
    below = np.maximum(values_at(nodes.last, nodes.left), values_at(nodes.last, nodes.right))
    subtree_last = np.maximum(last, below)
    parent = values_at(nodes.node, nodes.parent)
    stale = judged & (subtree_last != nodes.last)
    misplaced = find_misplaced(nodes.tree, first, judged, stale)
    return IntervalTrees(
        view=view,
        nodes=nodes,
        vma_row=row,
        judged=judged,
        first=first,
        last=last,
        subtree_last=subtree_last,
        parent=parent,
        stale=stale,
        beyond=stale & (last > nodes.last),
        astray=judged & ((nodes.parent_word & ~_COLOUR) != parent),
        moved=misplaced.moved,
        unclear=misplaced.unclear,
    )


def find_misplaced(tree: U64, first: U64, judged: Bools, stale: Bools) -> Misplaced:
    """Nodes that stand in the wrong place, and pairs of which either may; ``tree`` and ``first`` are in tree order.

    Of two neighbours in descending order, the one without which the rest is in order is wrong; where that is both,
    the one that is stale.
    """
    count, begins = len(tree), begins_run(tree)
    moved, unclear = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    b = np.flatnonzero(judged & (first < value_before(first, begins)))
    a = b - 1
    after = np.minimum(b + 1, count - 1)
    without_a = begins[a] | (first[np.maximum(a - 1, 0)] <= first[b])
    without_b = (b == count - 1) | begins[after] | (first[a] <= first[after])
    blame_a = without_a & (~without_b | (stale[a] & ~stale[b]))
    blame_b = without_b & (~without_a | (stale[b] & ~stale[a]))
    moved[a[blame_a]] = True
    moved[b[blame_b]] = True
    neither = ~blame_a & ~blame_b
    unclear[a[neither]] = unclear[b[neither]] = True
    return Misplaced(moved=moved, unclear=unclear & ~moved)
