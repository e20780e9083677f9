"""RMAP-TREE: reverse map violates its own rules.

*Compared:* order, `rb_subtree_last` and parent pointers of the interval trees, and `rb_leftmost` with the first node of
each; `num_active_vmas` of each anon_vma with the VMAs in its tree that name it. Reported only where no changed VMA
accounts for it.

*Guaranteed by:* include/linux/interval_tree_generic.h, lib/rbtree.c, mm/rmap.c.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.held import HELD, held
from vmaforensics.checks.reverse_maps.compared_trees import Defect, compared_trees
from vmaforensics.checks.rule import Part, Rule, Severity
from vmaforensics.columns.lookup import rows_of, values_at
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.checks.reverse_maps.compared_trees import ComparedTrees, TreeDefects
    from vmaforensics.checks.reverse_maps.interval_trees import IntervalTrees
    from vmaforensics.columns.types import Bools

RULE = Rule(
    id="RMAP-TREE",
    title="reverse map violates its own rules",
    severity=Severity.MEDIUM,
    why="Order, recorded last pages, parent pointers and counts of a reverse map follow from its VMAs. Cutting "
    "a VMA out by hand leaves those as they were.",
    compares="order, rb_subtree_last, rb_leftmost and parent pointers of the reverse maps; num_active_vmas of each "
    "anon_vma with the VMAs in its tree that name it",
    views=(View.FILE_RMAP, View.ANON_RMAP),
    transient="under the lock of the address_space or the anon_vma; where it was write-held, findings are lowered",
    by_hand=(hand.I_MMAP, hand.ANON),
    steps=("word", "vma", "file", "anon"),
    part=Part.TRACE,
    rank=390,
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process and kind of tree, and one for each process with wrong counts.

    What is wrong with a tree that a VMA is missing from is evidence of RMAP-FILE-MISSING or RMAP-ANON-MISSING.
    """
    for compared in context.shared(compared_trees):
        for intervals, defects in compared.defects():
            same = _same(context, compared, intervals, defects)
            for finding in _broken_nodes(compared, intervals, defects.take(same)):
                yield replace(finding, proven=HELD)
            for finding in _broken_nodes(compared, intervals, defects.take(~same)):
                yield compared.trees.weigh(finding)
            for finding in _wrong_first(compared, intervals):
                yield compared.trees.weigh(finding)
        for finding in _wrong_counts(compared):
            yield compared.trees.weigh(finding)


def _same(context: Context, compared: ComparedTrees, intervals: IntervalTrees, defects: TreeDefects) -> Bools:
    """Which defects are of a node without children whose VMA, which leads to it, was the same when it was read?"""
    known, clocks = context.shared(held), context.acquisition.clocks
    if known is None or clocks is None:
        return np.zeros(len(defects), np.bool_)
    nodes = intervals.nodes.take(defects.node_row)
    rmap = compared.trees.vmas.rmap
    links = rmap.chains.sort_by(rmap.chains.avc)
    leads = values_at(links.vma, rows_of(links.avc, nodes.item)) == nodes.vma
    leads |= intervals.view is View.FILE_RMAP
    alone = (nodes.left < 0) & (nodes.right < 0) & ~np.isin(nodes.node, rmap.torn_nodes)
    alone &= leads & (defects.defect == Defect.STALE)
    same: Bools = alone & known.through(nodes.vma, clocks.places.each(nodes.node))
    return same


def _broken_nodes(compared: ComparedTrees, intervals: IntervalTrees, defects: TreeDefects) -> Iterator[Finding]:
    vmas = compared.trees.vmas
    defects = defects.take(~np.isin(intervals.nodes.tree[defects.node_row], compared.cut.tree))
    rows = intervals.vma_row[defects.node_row]

    def evidence(at: int) -> Evidence:
        return compared.defect_evidence(intervals, defects, at)

    def title(at: int) -> str:
        return f"the {intervals.view.label} tree is wrong at the {vmas.text(int(rows[at]))}"

    yield from vmas.findings(RULE, rows, evidence, title)


def _wrong_first(compared: ComparedTrees, intervals: IntervalTrees) -> Iterator[Finding]:
    """Trees that are said to begin with another node than the first: what lies before that is not looked at
    (interval_tree_iter_first, include/linux/interval_tree_generic.h)."""
    vmas, nodes = compared.trees.vmas, intervals.nodes
    rmap = vmas.rmap
    trees, leftmost = (
        (rmap.mappings.mapping, rmap.mappings.leftmost)
        if intervals.view is View.FILE_RMAP
        else (rmap.anon_vmas.anon_vma, rmap.anon_vmas.leftmost)
    )
    said = values_at(leftmost, rows_of(trees, nodes.tree))
    wrong = np.flatnonzero(intervals.judged & (nodes.order == 0) & (said != 0) & (said != nodes.node))
    wrong = wrong[~np.isin(nodes.tree[wrong], compared.cut.tree)]

    def evidence(at: int) -> Evidence:
        row = int(wrong[at])
        return Evidence(
            what=f"the tree of {int(nodes.tree[row]):#x} is said to begin with another node than its first",
            view=intervals.view.label,
            address=int(nodes.tree[row]),
            found=f"{int(said[row]):#x}",
            expected=f"{int(nodes.node[row]):#x}",
        )

    def title(at: int) -> str:
        return f"the {intervals.view.label} tree does not begin at the {vmas.text(int(intervals.vma_row[wrong[at]]))}"

    yield from vmas.findings(RULE, intervals.vma_row[wrong], evidence, title)


def _wrong_counts(compared: ComparedTrees) -> Iterator[Finding]:
    vmas, counts = compared.trees.vmas, compared.count_defects
    anon_vma = vmas.rmap.anon_vmas.anon_vma[counts.anon_vma_row]
    kept = np.flatnonzero(~np.isin(anon_vma, compared.cut.tree) & (counts.vma_row >= 0))

    def evidence(at: int) -> Evidence:
        return compared.count_evidence(int(kept[at]))

    def title(at: int) -> str:
        return f"anon_vma {int(anon_vma[kept[at]]):#x} counts other VMAs than its tree holds"

    yield from vmas.findings(RULE, counts.vma_row[kept], evidence, title, ranged=False)
