"""The red-black tree of VMAs, ``mm->mm_rb``, up to 6.0: all trees at once, a level per gather."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.kernel.space.pointers import kernel_pointer
from vmaforensics.views.indices.regions import REGIONS
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.structures.tree_order import in_order
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel

_DEPTH = 128  # a red-black tree of 2**64 nodes is no deeper


@dataclass(frozen=True, slots=True, kw_only=True)
class RbNodes:
    """The red-black tree's nodes, one row per row of its regions; -1 where there is no such row."""

    address: NDArray[np.uint64]  # of the rb_node
    parent: NDArray[np.int64]  # row by which the walk came
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    depth: NDArray[np.int64]
    parent_word: NDArray[np.uint64]  # __rb_parent_color
    has_left: NDArray[np.bool_]  # the pointer is not NULL, whether or not it could be followed
    has_right: NDArray[np.bool_]


def walk_rbtree(kernel: Kernel, mms: NDArray[np.void], log: ProblemLog) -> tuple[NDArray[np.void], RbNodes] | None:
    """Every node of every tree, in order: (rows of dtype ``REGIONS``, the tree's shape, row by row).

    None where the kernel has no ``mm_rb``. A VMA is visited once: what leads to it again is a problem.
    ``start`` and ``end`` are left 0, for the VMAs are decoded once for all views.
    """
    if not kernel.has("mm_struct", "mm_rb"):
        return None
    node_at = kernel.offset("vm_area_struct", "vm_rb")
    left_at = kernel.offset("vm_area_struct", "vm_rb.rb_left")
    right_at = kernel.offset("vm_area_struct", "vm_rb.rb_right")
    root_at = np.uint64(kernel.offset("mm_struct", "mm_rb.rb_node"))
    fields = ("vm_rb.__rb_parent_color", "vm_rb.rb_left", "vm_rb.rb_right")

    mm = mms["mm"][mms["ok"]]
    pointer = mms["rb_root"][mms["ok"]]
    slot = mm + root_at
    came = np.full(len(mm), -1, np.int64)
    side = np.zeros(len(mm), np.int8)
    seen = np.zeros(0, np.uint64)
    levels: list[dict[str, NDArray[np.generic]]] = []
    total = 0
    for depth in range(1, _DEPTH):
        live = pointer != 0
        wild = live & ~kernel_pointer(pointer)
        log.add(View.RBTREE, Problem.NON_CANONICAL, mm[wild], slot[wild], pointer[wild])
        crooked = live & ~wild & ((pointer & np.uint64(7)) != 0)
        log.add(View.RBTREE, Problem.MISALIGNED, mm[crooked], slot[crooked], pointer[crooked])
        live &= ~wild & ~crooked
        _, first = np.unique(pointer, return_index=True)
        once = np.zeros(len(pointer), np.bool_)
        once[first] = True
        again = live & (~once | np.isin(pointer, seen))
        log.add(View.RBTREE, Problem.CYCLE, mm[again], slot[again], pointer[again])
        live &= ~again
        mm, pointer, slot, came, side = (item[live] for item in (mm, pointer, slot, came, side))
        if not len(mm):
            break
        seen = np.union1d(seen, pointer)
        vma = pointer - np.uint64(node_at)
        got, ok = kernel.gather("vm_area_struct", vma, fields)
        log.add(View.RBTREE, Problem.UNREADABLE, mm[~ok], slot[~ok], pointer[~ok])
        row = total + np.arange(len(mm), dtype=np.int64)
        total += len(mm)
        levels.append(
            {
                "mm": mm,
                "vma": vma,
                "node": pointer,
                "slot": slot,
                "parent": came,
                "side": side,
                "depth": np.full(len(mm), depth),
                "word": got[fields[0]],
                "left": got[fields[1]],
                "right": got[fields[2]],
            }
        )
        mm, came = np.concatenate([mm, mm]), np.concatenate([row, row])
        slot = np.concatenate([vma + np.uint64(left_at), vma + np.uint64(right_at)])
        pointer = np.concatenate([got[fields[1]], got[fields[2]]])
        side = np.repeat(np.array([0, 1], np.int8), len(row))
    if len(mm):
        log.add(View.RBTREE, Problem.CUT_SHORT, mm, slot, pointer)
    return _in_order(levels)


def _in_order(levels: list[dict[str, NDArray[np.generic]]]) -> tuple[NDArray[np.void], RbNodes]:
    """Put the rows, found level by level, into each tree's own order."""
    if not levels:
        none = np.zeros(0, np.int64)
        flags = np.zeros(0, np.bool_)
        shape = RbNodes(
            address=np.zeros(0, np.uint64),
            parent=none,
            left=none,
            right=none,
            depth=none,
            parent_word=np.zeros(0, np.uint64),
            has_left=flags,
            has_right=flags,
        )
        return np.zeros(0, REGIONS), shape
    whole = {name: np.concatenate([level[name] for level in levels]) for name in levels[0]}
    edges = np.cumsum([0, *(len(level["mm"]) for level in levels)])
    found = in_order(
        whole["parent"].astype(np.int64), whole["side"].astype(np.int8), edges, whole["mm"].astype(np.uint64)
    )
    sort = found.sort
    rows = np.zeros(len(sort), REGIONS)
    for name in ("mm", "vma", "slot"):
        rows[name] = whole[name][sort]
    rows["order"] = found.order[sort]
    return rows, RbNodes(
        address=whole["node"][sort].astype(np.uint64),
        parent=found.parent[sort],
        left=found.left[sort],
        right=found.right[sort],
        depth=whole["depth"][sort].astype(np.int64),
        parent_word=whole["word"][sort].astype(np.uint64),
        has_left=whole["left"][sort] != 0,
        has_right=whole["right"][sort] != 0,
    )
