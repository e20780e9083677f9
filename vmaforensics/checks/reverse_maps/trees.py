"""The interval trees of the reverse maps by their own rules, and areas that do not belong where they hang.

Order, ``rb_subtree_last`` and parent words follow from the areas (include/linux/interval_tree_generic.h). Where one
area's pages account for what is wrong, that area was changed; otherwise a neighbour was cut out or the tree edited.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import rules
from vmaforensics.checks.finding import Evidence
from vmaforensics.columns.lookup import rows_of
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.checks.reverse_maps.rmap_vmas import Areas
    from vmaforensics.views.reverse_maps.reverse_maps import RmapView
    from vmaforensics.views.structures.interval_tree import IntervalNodes

_COLOUR = np.uint64(3)


class _Trees:
    """The nodes of one kind of tree that can be judged, and what is wrong with each."""

    def __init__(
        self, view: View, nodes: IntervalNodes, whole: NDArray[np.bool_], rmap: RmapView, areas: Areas
    ) -> None:
        self.view, self.nodes = view, nodes
        self.area = rmap.vma_rows(nodes["vma"])
        known = (self.area >= 0) & rmap.vmas["ok"][self.area] if len(rmap.vmas) else self.area >= 0
        # A tree with an area that could not be read is not judged.
        judged = whole & ~np.isin(nodes["tree"], nodes["tree"][~known])
        first = rmap.vmas["pgoff" if view is View.FILE_RMAP else "anon_pgoff"]
        with np.errstate(over="ignore"):
            self.key = first[self.area] if len(first) else np.zeros(len(nodes), np.uint64)
            own = self.key + areas.span[self.area] if len(first) else self.key
        last = np.append(nodes["last"], np.uint64(0))  # -1 selects the end
        self.own = own
        self.expected = np.maximum(own, np.maximum(last[nodes["left"]], last[nodes["right"]]))
        self.stale = judged & (self.expected != nodes["last"])
        self.beyond = self.stale & (own > nodes["last"])
        up = np.append(nodes["node"], np.uint64(0))[nodes["parent"]]
        self.parents = up
        self.astray = judged & ((nodes["parent_word"] & ~_COLOUR) != up)
        self.judged = judged
        self.moved, self.unclear = self._out_of_order()

    def _out_of_order(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Nodes that stand in the wrong place, and pairs of which either may.

        Of two neighbours in descending order, the one without which the rest is in order is wrong.
        """
        tree, key = self.nodes["tree"], self.key
        moved, unclear = np.zeros(len(tree), np.bool_), np.zeros(len(tree), np.bool_)
        a = np.flatnonzero((tree[1:] == tree[:-1]) & (key[1:] < key[:-1]) & self.judged[1:])
        b = a + 1
        before, after = np.maximum(a - 1, 0), np.minimum(b + 1, len(tree) - 1)
        without_a = (a == 0) | (tree[before] != tree[a]) | (key[before] <= key[b])
        without_b = (b == len(tree) - 1) | (tree[after] != tree[b]) | (key[a] <= key[after])
        hint_a, hint_b = self.stale[a], self.stale[b]
        blame_a = (without_a & ~without_b) | (without_a & without_b & hint_a & ~hint_b)
        blame_b = (without_b & ~without_a) | (without_a & without_b & hint_b & ~hint_a)
        moved[a[blame_a]] = True
        moved[b[blame_b]] = True
        neither = ~blame_a & ~blame_b
        unclear[a[neither]] = unclear[b[neither]] = True
        return moved, unclear & ~moved


def check_trees(
    context: Context, rmap: RmapView, areas: Areas, cut: dict[int, int], traces: list[tuple[int, Evidence]]
) -> Iterator[Finding]:
    """RMAP-FILE-MISMATCH for areas whose pages contradict their place, RMAP-TREE for the rest.

    What is wrong with a tree in ``cut`` is appended to ``traces`` instead: an area is missing from it.
    """
    whole = rmap.mappings["mapping"][rmap.mappings["whole"]]
    files = _Trees(View.FILE_RMAP, rmap.file_nodes, np.isin(rmap.file_nodes["tree"], whole), rmap, areas)
    whole = rmap.anon_vmas["anon_vma"][rmap.anon_vmas["whole"]]
    anons = _Trees(View.ANON_RMAP, rmap.anon_nodes, np.isin(rmap.anon_nodes["tree"], whole), rmap, areas)
    # An area is to blame where its pages reach beyond what is recorded, where it alone breaks the order, or where
    # it is at odds with more than one tree.
    times = np.zeros(len(rmap.vmas), np.int64)
    for trees in (files, anons):
        np.add.at(times, trees.area[trees.stale], 1)
    gone = np.fromiter(cut, np.uint64, len(cut))
    both = []
    for trees in (files, anons):
        blamed = trees.beyond | trees.moved
        more = trees.stale & ~np.isin(trees.nodes["tree"], gone)
        blamed |= more & (times[trees.area] > 1) if len(times) else more
        both.append((trees, np.flatnonzero(blamed)))
        explained = np.isin(trees.nodes["tree"], trees.nodes["tree"][blamed])
        yield from _invariants(context, rmap, areas, trees, explained, cut, traces)
    yield from _mismatches(context, rmap, areas, both)
    yield from _counts(context, rmap, areas, anons, cut, traces)


def _mismatches(
    context: Context, rmap: RmapView, areas: Areas, both: list[tuple[_Trees, NDArray[np.intp]]]
) -> Iterator[Finding]:
    places: dict[int, list[tuple[_Trees, int]]] = {}  # row of the area: its nodes that contradict it
    for trees, rows in both:
        for at in rows.tolist():
            places.setdefault(int(trees.area[at]), []).append((trees, at))
    area = np.array(list(places), np.int64)

    def evidence(row: int) -> Evidence:
        mine = places[int(area[row])]
        trees, at = mine[0]
        held = " and ".join(
            f"{'out of order' if one.moved[n] else 'at odds'} in the {one.view.label} tree of "
            f"{int(one.nodes['tree'][n]):#x}, whose node records {int(one.nodes['last'][n]):#x} as the last page"
            for one, n in mine[:4]
        )
        return Evidence(
            what=f"the {areas.text(int(area[row]))} has the pages {int(trees.key[at]):#x} to {int(trees.own[at]):#x}: "
            f"{held}",
            view=trees.view.label,
            address=areas.word(int(area[row]), "vm_pgoff"),
            found=f"{int(trees.own[at]):#x}",
            expected=f"{int(trees.nodes['last'][at]):#x}",
        )

    def title(row: int) -> str:
        place = f"its place in the {places[int(area[row])][0][0].view.label} tree"
        return f"{areas.text(int(area[row]))} shows other pages than {place}"

    yield from context.per_mm(
        rules.RMAP_FILE_MISMATCH,
        rmap.vmas["mm"][area],
        evidence,
        title,
        lambda row: areas.bounds(int(area[row])),
    )


def _invariants(
    context: Context,
    rmap: RmapView,
    areas: Areas,
    trees: _Trees,
    explained: NDArray[np.bool_],
    cut: dict[int, int],
    traces: list[tuple[int, Evidence]],
) -> Iterator[Finding]:
    wrong = [
        (trees.stale, "rb_subtree_last is not the largest last page below it", trees.nodes["last"], trees.expected),
        (trees.astray, "the parent pointer does not lead to its parent", trees.nodes["parent_word"], trees.parents),
        (trees.unclear, "neighbours are out of order", trees.key, trees.key),
    ]
    rows = np.concatenate([np.flatnonzero(which & ~explained) for which, *_ in wrong])
    kind = np.concatenate([np.full(int((w & ~explained).sum()), n) for n, (w, *_) in enumerate(wrong)])

    def evidence(row: int) -> Evidence:
        at, (_, what, found, expected) = int(rows[row]), wrong[int(kind[row])]
        return Evidence(
            what=f"node of the {areas.text(int(trees.area[at]))} in the {trees.view.label} tree of "
            f"{int(trees.nodes['tree'][at]):#x}: {what}",
            view=trees.view.label,
            address=int(trees.nodes["node"][at]),
            found=f"{int(found[at]):#x}",
            expected=f"{int(expected[at]):#x}",
        )

    mine = np.isin(trees.nodes["tree"][rows], np.fromiter(cut, np.uint64, len(cut)))
    traces += [(int(trees.nodes["tree"][rows[row]]), evidence(row)) for row in np.flatnonzero(mine).tolist()[:64]]
    rows, kind = rows[~mine], kind[~mine]
    yield from context.per_mm(
        rules.RMAP_TREE,
        rmap.vmas["mm"][trees.area[rows]],
        evidence,
        lambda row: f"the {trees.view.label} tree is wrong at the {areas.text(int(trees.area[rows[row]]))}",
        lambda row: areas.bounds(int(trees.area[rows[row]])),
    )


def _counts(
    context: Context,
    rmap: RmapView,
    areas: Areas,
    anons: _Trees,
    cut: dict[int, int],
    traces: list[tuple[int, Evidence]],
) -> Iterator[Finding]:
    """``num_active_vmas`` is the number of areas whose anon_vma it is, and all of those hang in its tree."""
    objects = rmap.anon_vmas
    at = rows_of(objects["anon_vma"], anons.nodes["tree"])
    mine = anons.judged & (rmap.vmas["anon_vma"][anons.area] == anons.nodes["tree"])
    count = np.bincount(at[mine], minlength=len(objects))
    unjudged = np.bincount(at[~anons.judged], minlength=len(objects)) > 0
    wrong = np.flatnonzero(objects["whole"] & (objects["active"] >= 0) & ~unjudged & (count != objects["active"]))
    # One area of the tree stands for it.
    some = np.full(len(objects), -1, np.int64)
    some[at] = anons.area
    held = some[wrong]

    def evidence(row: int) -> Evidence:
        one = objects[wrong[row]]
        return Evidence(
            what=f"num_active_vmas of the anon_vma {int(one['anon_vma']):#x} is not the number of areas in its tree "
            "that name it",
            view=View.ANON_RMAP.label,
            address=int(one["anon_vma"]),
            found=str(int(one["active"])),
            expected=str(int(count[wrong[row]])),
        )

    told = np.isin(objects["anon_vma"][wrong], np.fromiter(cut, np.uint64, len(cut)))
    traces += [(int(objects["anon_vma"][wrong[row]]), evidence(row)) for row in np.flatnonzero(told).tolist()[:64]]
    keep = ~told & (held >= 0)
    wrong, held = wrong[keep], held[keep]
    yield from context.per_mm(
        rules.RMAP_TREE,
        rmap.vmas["mm"][held],
        evidence,
        lambda row: f"anon_vma {int(objects['anon_vma'][wrong[row]]):#x} counts other areas than its tree holds",
    )
