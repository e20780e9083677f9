"""VMAs that two neighbours of a file's ``i_mmap`` leave no place for, by what one page says.

A node that has no child on one side, and on that side of which lies what it names as its parent, is next to that in the
order of the tree (lib/rbtree.c): nothing of the tree lies between them at that moment. Its own words say so, and
those were read at once; of the parent only the first page is asked, which does not change while it is in the tree.
So if a VMA belongs between them and was there when the node was read, the tree did not have it, however often the rest
of the tree changed before the rest of it was read. The parents of the node that lie in its page may stand between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import distinct, last_rows_of, rows_of, sort_order, values_at
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I64, U64

if TYPE_CHECKING:
    from vmaforensics.columns.types import Bools
    from vmaforensics.views.clocks.clocks import Places
    from vmaforensics.views.reverse_maps.reverse_maps import RmapView

_COLOUR: Final = np.uint64(3)  # low bits of __rb_parent_color
_DEPTH: Final = 64  # parents in one page
_NEAR: Final = 8  # neighbours that begin before a VMA that are asked whether they reach beyond it


NEIGHBOURS = (
    "a node and its parent were neighbours in the tree when the node was read, and nobody wrote to them or to the VMA "
    "that belongs between them from then on until they were read, or back"
)


@table()
class _Neighbours(Table):
    """Pairs with nothing between them. VMAs are rows of ``RmapView.vmas``."""

    tree: U64
    low: U64  # first page of the lower one
    high: U64
    node: I64  # row of the VMA whose page says so
    parent: I64  # row of the other VMA


class PassedBy(NamedTuple):
    """VMAs that lie between two neighbours, and these; rows of ``RmapView.vmas``."""

    rows: I64
    node: I64
    parent: I64

    def take(self, which: Bools | I64) -> PassedBy:
        """Some of them."""
        return PassedBy(self.rows[which], self.node[which], self.parent[which])


def passed_by(rmap: RmapView, rows: I64, places: Places, size: int) -> PassedBy:
    """For each of ``rows`` of the VMAs the neighbours that leave it out, several where there are; ``size`` bytes are a
    vm_area_struct."""
    pairs = _neighbours(rmap, places, size)
    found = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    if len(pairs) and len(rows):
        pgoff, tree = rmap.vmas.pgoff[rows], rmap.mapping[rows]
        trees, pages = distinct(pairs.tree), distinct(np.concatenate([pairs.low, pgoff]))
        width = len(pages)
        key = np.searchsorted(trees, pairs.tree) * width + np.searchsorted(pages, pairs.low)
        order = sort_order(key)
        of = rows_of(trees, tree)
        last = last_rows_of(key[order], of * width + np.searchsorted(pages, pgoff) - 1)
        for back in range(_NEAR):
            at = last - back
            pair = order[np.maximum(at, 0)]
            out = (at >= 0) & (of >= 0) & (pairs.tree[pair] == tree)
            out &= (pairs.low[pair] < pgoff) & (pgoff < pairs.high[pair])
            found[0].append(np.flatnonzero(out))
            found[1].append(pair[out])
    which, pair = np.concatenate(found[0]), np.concatenate(found[1])
    return PassedBy(rows[which], pairs.node[pair], pairs.parent[pair])


def _neighbours(rmap: RmapView, places: Places, size: int) -> _Neighbours:
    nodes, vmas = rmap.file_nodes, rmap.vmas
    own = rmap.vma_rows(nodes.vma)
    good = (own >= 0) & values_at(vmas.ok, own) & ~np.isin(nodes.node, rmap.torn_nodes)
    good &= values_at(rmap.mapping, own) == nodes.tree
    one = _page(places, nodes.item)
    good &= one == _page(places, nodes.item + np.uint64(size - 1))  # all of it was read at one moment
    order = sort_order(nodes.node)
    word = nodes.parent_word & ~_COLOUR
    up = values_at(order, rows_of(nodes.node[order], word), -1)  # row of the nodes
    first = values_at(vmas.pgoff, own)
    parts = []
    for below, above in ((nodes.right, True), (nodes.left, False)):
        start = np.flatnonzero(good & (below < 0) & (up >= 0))
        at = up[start]
        for _ in range(_DEPTH):  # parents in the same page from whose other side the way came
            over = (at >= 0) & (one[at] == one[start]) & good[at] & (up[at] >= 0)
            over &= (first[at] < first[start]) if above else (first[at] > first[start])
            if not over.any():
                break
            at = np.where(over, up[at], at)
        beyond = (first[at] > first[start]) if above else (first[at] < first[start])
        named = (at >= 0) & beyond & (own[at] >= 0) & (values_at(rmap.mapping, own[at]) == nodes.tree[start])
        start, at = start[named], at[named]
        low, high = (start, at) if above else (at, start)
        parts.append(
            _Neighbours.of(
                len(start),
                tree=nodes.tree[start],
                low=first[low],
                high=first[high],
                node=own[start],
                parent=own[at],
            )
        )
    return _Neighbours.concatenate(parts)


def _page(places: Places, addresses: U64) -> U64:
    found: U64 = places.each(addresses) // np.uint64(places.page_size)
    return found
