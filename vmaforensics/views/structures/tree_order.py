"""Binary trees that were walked level by level, put into their own order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import sort_order

if TYPE_CHECKING:
    from vmaforensics.columns.types import I8, I64, U64


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeOrder:
    """Order of the rows of any number of trees; -1 for no row.

    ``sort`` are the rows by tree and by position within it, ``order`` is that position, row by row as they
    came. ``parent``, ``left`` and ``right`` are, row by row as they came, places in the sorted rows.
    """

    sort: I64
    order: I64
    parent: I64
    left: I64
    right: I64


def in_order(parent: I64, side: I8, edges: I64, tree: U64) -> TreeOrder:
    """The in-order positions of rows that stand level by level.

    ``parent`` is the row of each row's parent, -1 for a root; ``side`` is 1 for right children; level *k* is
    the rows ``edges[k]`` to ``edges[k + 1]``; ``tree`` tells the trees apart.
    """
    count = len(parent)
    left, right = np.full(count, -1, np.int64), np.full(count, -1, np.int64)
    for children, number in ((left, 0), (right, 1)):
        child = np.flatnonzero((side == number) & (parent >= 0))
        children[parent[child]] = child
    size = np.ones(count + 1, np.int64)
    size[-1] = 0  # what -1 selects
    for low, high in zip(edges[-2::-1].tolist(), edges[:0:-1].tolist(), strict=True):
        size[low:high] += size[left[low:high]] + size[right[low:high]]
    order = size[left].copy()  # within the subtree, then within the tree as its ancestors push it along
    for low, high in zip(edges[1:-1].tolist(), edges[2:].tolist(), strict=True):
        up = parent[low:high]
        before = order[up] - size[left[up]]
        order[low:high] += np.where(side[low:high] == 1, order[up] + 1, before)
    sort = sort_order(tree, order)
    place = np.empty(count + 1, np.int64)
    place[sort] = np.arange(count)
    place[-1] = -1
    return TreeOrder(sort=sort, order=order, parent=place[parent], left=place[left], right=place[right])
