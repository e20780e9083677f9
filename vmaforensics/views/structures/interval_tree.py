"""Interval trees of the reverse maps (lib/interval_tree_generic.h): all trees at once, a level per gather.

A node is an ``rb_node`` inside an item, next to ``rb_subtree_last``, the largest last page of its subtree.
What the walk cannot follow is handed back, for only the caller knows whose memory map it concerns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.kernel.space.pointers import kernel_pointer
from vmaforensics.views.problems import Problem
from vmaforensics.views.structures.tree_order import in_order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel

NODES = np.dtype(
    [
        ("tree", np.uint64),  # the address_space or anon_vma
        ("item", np.uint64),  # the vm_area_struct or anon_vma_chain that holds the node
        ("vma", np.uint64),  # filled in by the caller
        ("node", np.uint64),  # address of the rb_node
        ("slot", np.uint64),  # address of the word that led here
        ("parent", np.int64),  # row by which the walk came, -1 for a root
        ("left", np.int64),  # row, -1 for none
        ("right", np.int64),
        ("parent_word", np.uint64),  # __rb_parent_color
        ("last", np.uint64),  # rb_subtree_last, pages
        ("order", np.int64),  # in-order position within the tree
    ]
)

BROKEN = np.dtype(
    [
        ("tree", np.uint64),
        ("item", np.uint64),  # whose pointer it is, 0 for the root's
        ("problem", np.uint8),
        ("slot", np.uint64),
        ("value", np.uint64),
    ]
)

_DEPTH = 128  # a red-black tree of 2**64 nodes is no deeper


@dataclass(frozen=True, slots=True, kw_only=True)
class Kin:
    """Where one kind of tree keeps its words."""

    struct: str  # of the items
    node: str  # member path of the rb_node
    last: str  # member path of the augmented value
    extra: tuple[str, ...] = ()  # further members of an item to read


FILE = Kin(struct="vm_area_struct", node="shared.rb", last="shared.rb_subtree_last")
ANON = Kin(struct="anon_vma_chain", node="rb", last="rb_subtree_last", extra=("vma",))


def walk_trees(
    kernel: Kernel, kin: Kin, trees: NDArray[np.uint64], roots: NDArray[np.uint64], slots: NDArray[np.uint64]
) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Every node below ``roots`` (``rb_node`` pointers found at ``slots``, NULL allowed), and what broke off.

    Returns rows of dtype ``NODES``, sorted by tree and in-order position, and of dtype ``BROKEN``. A node is
    visited once: what leads to it again is broken. ``vma`` is the item itself, or its member ``vma``.
    """
    offset = np.uint64(kernel.offset(kin.struct, kin.node))
    left_at = np.uint64(kernel.offset(kin.struct, kin.node + ".rb_left"))
    right_at = np.uint64(kernel.offset(kin.struct, kin.node + ".rb_right"))
    word, left, right = (kin.node + one for one in (".__rb_parent_color", ".rb_left", ".rb_right"))
    fields = (word, left, right, kin.last, *kin.extra)

    tree, pointer, slot = trees, roots, slots
    came = np.full(len(trees), -1, np.int64)
    holder = np.zeros(len(trees), np.uint64)
    side = np.zeros(len(trees), np.int8)
    levels: list[NDArray[np.void]] = []
    sides: list[NDArray[np.int8]] = []
    broken = [np.zeros(0, BROKEN)]
    total = 0

    def lose(problem: Problem, which: NDArray[np.bool_]) -> None:
        rows = np.zeros(int(which.sum()), BROKEN)
        rows["problem"] = problem
        for name, values in (("tree", tree), ("item", holder), ("slot", slot), ("value", pointer)):
            rows[name] = values[which]
        broken.append(rows)

    for _ in range(_DEPTH):
        live = pointer != 0
        tree, pointer, slot, came, holder, side = (one[live] for one in (tree, pointer, slot, came, holder, side))
        if not len(tree):
            break
        wild = ~kernel_pointer(pointer)
        crooked = ~wild & ((pointer & np.uint64(7)) != 0)
        once = np.zeros(len(pointer), np.bool_)
        once[np.unique(pointer, return_index=True)[1]] = True
        again = ~wild & ~crooked & ~once
        item = pointer - offset
        good = np.flatnonzero(~wild & ~crooked & once)
        got, ok = kernel.gather(kin.struct, item[good], fields)
        unread = np.zeros(len(pointer), np.bool_)
        unread[good[~ok]] = True
        for problem, which in (
            (Problem.NON_CANONICAL, wild),
            (Problem.MISALIGNED, crooked),
            (Problem.CYCLE, again),
            (Problem.UNREADABLE, unread),
        ):
            if which.any():
                lose(problem, which)
        good, got = good[ok], got[ok]
        rows = np.zeros(len(good), NODES)
        rows["tree"], rows["item"], rows["node"] = tree[good], item[good], pointer[good]
        rows["slot"], rows["parent"] = slot[good], came[good]
        rows["parent_word"], rows["last"] = got[word], got[kin.last]
        rows["vma"] = got[kin.extra[0]] if kin.extra else item[good]
        levels.append(rows)
        sides.append(side[good])
        row = total + np.arange(len(good), dtype=np.int64)
        total += len(good)
        tree, came, holder = (np.concatenate([one, one]) for one in (rows["tree"], row, rows["item"]))
        slot = np.concatenate([rows["item"] + left_at, rows["item"] + right_at])
        pointer = np.concatenate([got[left], got[right]])
        side = np.repeat(np.array([0, 1], np.int8), len(row))
    if len(tree):
        lose(Problem.CUT_SHORT, pointer != 0)
    return _settle(levels, sides, broken)


def _settle(
    levels: list[NDArray[np.void]], sides: list[NDArray[np.int8]], broken: list[NDArray[np.void]]
) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Drop what was reached a second time on a deeper level, and put the rest in order."""
    if not levels:
        return np.zeros(0, NODES), np.concatenate(broken)
    rows, side = np.concatenate(levels), np.concatenate(sides)
    edges = np.cumsum([0, *map(len, levels)])
    first = np.zeros(len(rows), np.bool_)
    first[np.unique(rows["node"], return_index=True)[1]] = True  # the shallowest, for rows go by level
    if not first.all():
        keep = first.copy()
        for low, high in zip(edges[1:-1].tolist(), edges[2:].tolist(), strict=True):
            keep[low:high] &= keep[rows["parent"][low:high]]
        up = rows["parent"]
        told = ~first & (up >= 0) & keep[up]
        extra = np.zeros(int(told.sum()), BROKEN)
        extra["problem"] = Problem.CYCLE
        extra["tree"], extra["slot"], extra["value"] = (rows[name][told] for name in ("tree", "slot", "node"))
        extra["item"] = rows["item"][up[told]]
        broken.append(extra)
        place = np.append(np.cumsum(keep) - 1, -1)
        edges = np.append(0, np.cumsum(keep))[edges]
        rows, side = rows[keep], side[keep]
        rows["parent"] = place[rows["parent"]]
    return _in_order(rows, side, edges), np.concatenate(broken)


def _in_order(rows: NDArray[np.void], side: NDArray[np.int8], edges: NDArray[np.int64]) -> NDArray[np.void]:
    """Fill in children and in-order positions of rows that stand level by level, and sort by them."""
    found = in_order(rows["parent"], side, edges, rows["tree"])
    for name in ("parent", "left", "right", "order"):
        rows[name] = getattr(found, name)
    answer: NDArray[np.void] = rows[found.sort]
    return answer
