"""The reverse maps against the VMAs: everything that is wrong, before rules make findings of it.

A VMA that was cut out of a tree leaves records in its former neighbours that no longer fit. These traces are kept
apart here, as evidence for the VMA that is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.reverse_maps.anon_links import AnonFaults, compare_anon_links
from vmaforensics.checks.reverse_maps.file_links import FileLinks, compare_file_links
from vmaforensics.checks.reverse_maps.interval_trees import IntervalTrees, judge_trees
from vmaforensics.checks.reverse_maps.rmap_vmas import rmap_vmas
from vmaforensics.checks.reverse_maps.tree_sets import TreeSet, tree_sets
from vmaforensics.columns.lookup import first_rows, rows_of, values_at
from vmaforensics.columns.table import Table, column, table
from vmaforensics.columns.types import I64, U8, U64, Bools
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.checks.context import Context

_MOST_TRACES: Final = 64  # of one kind that are looked at
_MOST_SHOWN: Final = 16  # beside the missing VMAs of one mm


class Defect(IntEnum):
    """How a node breaks the rules of its tree."""

    STALE = 0
    ASTRAY = 1
    UNORDERED = 2

    @property
    def text(self) -> str:
        """The defect in words."""
        return (
            "rb_subtree_last is not the largest last page below it",
            "the parent pointer does not lead to its parent",
            "neighbours are out of order",
        )[self]


@table()
class TreeDefects(Table):
    """Nodes of one kind of tree that no changed VMA accounts for; by defect, in tree order."""

    node_row: I64  # row of the nodes
    defect: U8  # Defect


@table()
class CountDefects(Table):
    """anon_vmas whose num_active_vmas is not the number of VMAs in their tree that name them."""

    anon_vma_row: I64  # row of RmapView.anon_vmas
    counted: I64  # VMAs in the tree
    vma_row: I64 = column(fill=-1)  # row of RmapView.vmas of one that stands for the tree, -1 for an empty tree


@table()
class Contradictions(Table):
    """Nodes whose VMA has other pages than the tree records: the VMA was changed. Those of files come first."""

    anon: Bools  # a node of the anon_vma trees
    node_row: I64
    vma_row: I64  # row of RmapView.vmas


class CutTrees(NamedTuple):
    """Trees from which a VMA is missing."""

    tree: U64  # address_spaces and anon_vmas, ascending
    mm: U64  # that of the first VMA that is missing from each


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComparedTrees:
    """What is wrong with one set of trees."""

    trees: TreeSet
    files: FileLinks
    anon_faults: AnonFaults
    cut: CutTrees
    file_trees: IntervalTrees
    anon_trees: IntervalTrees
    contradictions: Contradictions
    file_defects: TreeDefects
    anon_defects: TreeDefects
    count_defects: CountDefects

    def defects(self) -> tuple[tuple[IntervalTrees, TreeDefects], ...]:
        """Both kinds of trees with their defects."""
        return (self.file_trees, self.file_defects), (self.anon_trees, self.anon_defects)

    def defect_evidence(self, intervals: IntervalTrees, defects: TreeDefects, row: int) -> Evidence:
        """One of ``defects`` as evidence."""
        at, defect = int(defects.node_row[row]), Defect(int(defects.defect[row]))
        found, expected = {
            Defect.STALE: (intervals.nodes.last, intervals.subtree_last),
            Defect.ASTRAY: (intervals.nodes.parent_word, intervals.parent),
            Defect.UNORDERED: (intervals.first, None),
        }[defect]
        return Evidence(
            what=f"node of the {self.trees.vmas.text(int(intervals.vma_row[at]))} in the {intervals.view.label} tree "
            f"of {int(intervals.nodes.tree[at]):#x}: {defect.text}",
            view=intervals.view.label,
            address=int(intervals.nodes.node[at]),
            found=f"{int(found[at]):#x}",
            expected=f"{int(expected[at]):#x}" if expected is not None else "",
        )

    def count_evidence(self, row: int) -> Evidence:
        """One of ``count_defects`` as evidence."""
        anon_vmas, at = self.trees.vmas.rmap.anon_vmas, int(self.count_defects.anon_vma_row[row])
        anon_vma = int(anon_vmas.anon_vma[at])
        return Evidence(
            what=f"num_active_vmas of the anon_vma {anon_vma:#x} is not the number of VMAs in its tree that name it",
            view=View.ANON_RMAP.label,
            address=anon_vma,
            found=str(int(anon_vmas.active[at])),
            expected=str(int(self.count_defects.counted[row])),
        )

    def traces(self) -> dict[int, list[Evidence]]:
        """What the cut trees show, by the mm of the VMA that is missing."""
        found: dict[int, list[Evidence]] = {}
        for intervals, defects in self.defects():
            tree = intervals.nodes.tree[defects.node_row]
            for row in np.flatnonzero(np.isin(tree, self.cut.tree)).tolist()[:_MOST_TRACES]:
                found.setdefault(self._mm_of(tree[row]), []).append(self.defect_evidence(intervals, defects, row))
        tree = self.trees.vmas.rmap.anon_vmas.anon_vma[self.count_defects.anon_vma_row]
        for row in np.flatnonzero(np.isin(tree, self.cut.tree)).tolist()[:_MOST_TRACES]:
            found.setdefault(self._mm_of(tree[row]), []).append(self.count_evidence(row))
        return {mm: traces[:_MOST_SHOWN] for mm, traces in found.items()}

    def _mm_of(self, tree: np.uint64) -> int:
        return int(self.cut.mm[np.searchsorted(self.cut.tree, tree)])


def compared_trees(context: Context) -> tuple[ComparedTrees, ...]:
    """The trees whose lock was free, and those whose lock was held. Ask for it by ``context.shared``."""
    vmas = context.shared(rmap_vmas)
    return tuple(_compare(trees) for trees in tree_sets(vmas)) if vmas is not None else ()


def _compare(trees: TreeSet) -> ComparedTrees:
    """Compare links first: a tree that a VMA is missing from cannot be held against the VMAs in it."""
    files, faults = compare_file_links(trees), compare_anon_links(trees)
    cut = _cut_trees(trees, files, faults)
    file_trees, anon_trees = judge_trees(trees, View.FILE_RMAP), judge_trees(trees, View.ANON_RMAP)
    stale = np.concatenate([kind.vma_row[kind.stale] for kind in (file_trees, anon_trees)])
    times = np.bincount(stale, minlength=len(trees.vmas.rmap.vmas)).astype(np.int64)
    blamed_files, blamed_anons = (_blamed(kind, cut, times) for kind in (file_trees, anon_trees))
    return ComparedTrees(
        trees=trees,
        files=files,
        anon_faults=faults,
        cut=cut,
        file_trees=file_trees,
        anon_trees=anon_trees,
        contradictions=Contradictions.concatenate(
            [_contradictions(file_trees, blamed_files), _contradictions(anon_trees, blamed_anons)]
        ),
        file_defects=_defects(file_trees, blamed_files),
        anon_defects=_defects(anon_trees, blamed_anons),
        count_defects=_count_defects(anon_trees, trees),
    )


def _cut_trees(trees: TreeSet, files: FileLinks, faults: AnonFaults) -> CutTrees:
    rmap = trees.vmas.rmap
    tree = np.concatenate([rmap.mapping[files.missing], faults.tree])
    mm = rmap.vmas.mm[np.concatenate([files.missing, faults.vma_row])]
    first = first_rows(tree)
    return CutTrees(tree=tree[first], mm=mm[first])


def _blamed(intervals: IntervalTrees, cut: CutTrees, times: I64) -> Bools:
    """Nodes whose VMA was changed: its pages reach beyond what is recorded, it alone breaks the order, or it is at odds
    with more than one tree (``times``, by row of the VMAs)."""
    often = values_at(times, intervals.vma_row) > 1
    uncut = ~np.isin(intervals.nodes.tree, cut.tree)
    return intervals.beyond | intervals.moved | (intervals.stale & uncut & often)


def _contradictions(intervals: IntervalTrees, blamed: Bools) -> Contradictions:
    rows = np.flatnonzero(blamed)
    anon = np.full(len(rows), intervals.view is View.ANON_RMAP)
    return Contradictions.of(anon=anon, node_row=rows, vma_row=intervals.vma_row[rows])


def _defects(intervals: IntervalTrees, blamed: Bools) -> TreeDefects:
    """What is wrong with trees in which no VMA is to blame."""
    tree = intervals.nodes.tree
    unexplained = ~np.isin(tree, tree[blamed])
    parts = []
    for defect, nodes in (
        (Defect.STALE, intervals.stale),
        (Defect.ASTRAY, intervals.astray),
        (Defect.UNORDERED, intervals.unclear),
    ):
        rows = np.flatnonzero(nodes & unexplained)
        parts.append(TreeDefects.of(node_row=rows, defect=np.full(len(rows), defect)))
    return TreeDefects.concatenate(parts)


def _count_defects(intervals: IntervalTrees, trees: TreeSet) -> CountDefects:
    """``num_active_vmas`` is the number of VMAs whose anon_vma it is, and all of those are in its tree."""
    rmap, anon_vmas = trees.vmas.rmap, trees.vmas.rmap.anon_vmas
    at = rows_of(anon_vmas.anon_vma, intervals.nodes.tree)
    own = intervals.judged & (values_at(rmap.vmas.anon_vma, intervals.vma_row) == intervals.nodes.tree)
    counted = np.bincount(at[own], minlength=len(anon_vmas))
    unjudged = np.bincount(at[~intervals.judged], minlength=len(anon_vmas)) > 0
    stands_for = np.full(len(anon_vmas), -1, np.int64)
    stands_for[at] = intervals.vma_row
    wrong = np.flatnonzero(trees.anon_vma_whole & (anon_vmas.active >= 0) & ~unjudged & (counted != anon_vmas.active))
    return CountDefects.of(anon_vma_row=wrong, counted=counted[wrong], vma_row=stands_for[wrong])
