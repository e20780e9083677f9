"""The nodes of an index around what findings name: the ways there from the root, and the neighbours on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import bounds_of
from vmaforensics.compare.nearby.maple import maple_nodes
from vmaforensics.compare.nearby.node import Node
from vmaforensics.compare.nearby.wrong_words import WrongWords
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vmaforensics.checks.finding import Finding
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.indices.entries import IndexEntries
    from vmaforensics.views.indices.rbtree import RbNodes
    from vmaforensics.views.views import Views

MOST = 40  # nodes drawn
_LINKS = 3  # elements of a list on either side of one that is named
_DEPTH = 128  # no red-black tree is deeper


def nodes_near(kernel: Kernel, views: Views, mm: int, index: View, findings: Sequence[Finding]) -> tuple[Node, ...]:
    """At most :data:`MOST` nodes of ``index`` of ``mm``, each after the one above it."""
    wrong = WrongWords.of(views, mm, index, findings)
    if index is View.MAPLE:
        return maple_nodes(kernel, views, mm, wrong, MOST)
    entries = views.rbtree if index is View.RBTREE else views.vma_list
    if entries is None:
        return ()
    low, high = bounds_of(entries.mm, mm)
    own = entries.take(slice(low, high))
    named = _named(own, views.vma_size, wrong)
    if index is View.RBTREE and views.rb_nodes is not None:
        if not named:  # the root
            named = np.flatnonzero(views.rb_nodes.parent[low:high] < 0)[:1].tolist()
        return tuple(_rb_nodes(views.rb_nodes, entries, [low + at for at in named], wrong, views.vma_size))
    named = named or [0] * bool(high > low)
    return tuple(_list_nodes(views, own, named, wrong))


def _named(entries: IndexEntries, size: int, wrong: WrongWords) -> list[int]:
    """Rows that findings name by range or by a word; where a range has none, those beside it."""
    found: dict[int, None] = {}
    if not len(entries):
        return []
    for start, end in wrong.ranges:
        inside = np.flatnonzero((entries.start < np.uint64(end)) & (entries.end > np.uint64(start)))
        if not len(inside):
            after = int((entries.start < np.uint64(start)).sum())
            inside = np.array([at for at in (after - 1, after) if 0 <= at < len(entries)])
        found |= dict.fromkeys(inside[:8].tolist())
    for word in wrong.addresses:
        away = np.uint64(word) - entries.vma
        hit = (entries.slot == np.uint64(word)) | ((entries.vma <= np.uint64(word)) & (away < np.uint64(size)))
        found |= dict.fromkeys(np.flatnonzero(hit)[:2].tolist())
    return list(found)


def _rb_nodes(nodes: RbNodes, entries: IndexEntries, named: Iterable[int], wrong: WrongWords, size: int) -> list[Node]:
    """The nodes at the rows ``named``, with all nodes above and the children of each, at most :data:`MOST`; by depth.

    ``size`` is that of a vm_area_struct in bytes: ``wrong`` is asked for findings about any word of it.
    """
    chosen: dict[int, None] = {}
    for row in named:
        path = [row]
        while nodes.parent[path[-1]] >= 0 and len(path) < _DEPTH:
            path.append(int(nodes.parent[path[-1]]))
        if len(chosen) + len(path) > MOST:
            break
        chosen |= dict.fromkeys(path)
    for row in list(chosen):
        for child in (int(nodes.left[row]), int(nodes.right[row])):
            if child >= 0 and len(chosen) < MOST:
                chosen.setdefault(child)
    out = []
    for row in sorted(chosen, key=lambda row: (int(nodes.depth[row]), row)):
        vma, parent = int(entries.vma[row]), int(nodes.parent[row])
        out.append(
            Node(
                address=hex(int(nodes.address[row])),
                parent=None if parent < 0 else hex(int(nodes.address[parent])),
                kind="rb_node",
                start=hex(int(entries.start[row])),
                end=hex(int(entries.end[row])),
                entries=int(nodes.has_left[row]) + int(nodes.has_right[row]),
                wrong=wrong.text(vma, size, also=int(entries.slot[row])),
            )
        )
    return out


def _list_nodes(views: Views, entries: IndexEntries, named: Iterable[int], wrong: WrongWords) -> list[Node]:
    """The list elements at the rows ``named``, with :data:`_LINKS` neighbours on both sides, at most :data:`MOST`."""
    chosen: set[int] = set()
    for row in named:
        near = set(range(max(row - _LINKS, 0), min(row + _LINKS + 1, len(entries))))
        if len(chosen | near) > MOST:
            break
        chosen |= near
    out = []
    for row in sorted(chosen):
        vma, slot = int(entries.vma[row]), int(entries.slot[row])
        after = int(views.vmas.next[int(entries.vma_row[row])]) if entries.vma_row[row] >= 0 else 0
        out.append(
            Node(
                address=hex(vma),
                parent=hex(int(entries.vma[row - 1])) if row else None,
                kind="vm_area_struct",
                start=hex(int(entries.start[row])),
                end=hex(int(entries.end[row])),
                entries=int(after != 0),
                wrong=wrong.text(vma, views.vma_size, also=slot),
            )
        )
    return out
