"""The red-black tree of VMAs, ``mm->mm_rb``, up to 6.0: all trees at once, a level per gather."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import distinct, is_first, is_in
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I8, I32, I64, U64, Bools
from vmaforensics.views.indices.entries import IndexEntries
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.slab.homes import VMA, Homes
from vmaforensics.views.structures.tree_order import in_order
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.mms import Mms

_DEPTH = 128  # a red-black tree of 2**64 nodes is no deeper


@table()
class RbNodes(Table):
    """Nodes of red-black trees, one row per row of the tree's entries; -1 where there is no such row."""

    address: U64  # of the rb_node
    parent: I32  # row by which the walk came
    left: I32
    right: I32
    depth: I32  # 1 for a root
    parent_word: U64  # __rb_parent_color
    has_left: Bools  # the pointer is not NULL, whether or not it could be followed
    has_right: Bools


@table(struct="vm_area_struct")
class _Links(Table):
    word: U64 = member("vm_rb.__rb_parent_color")
    left: U64 = member("vm_rb.rb_left")
    right: U64 = member("vm_rb.rb_right")


@table()
class _Level(Table):
    """Nodes as they are found, level by level."""

    mm: U64
    vma: U64
    node: U64
    slot: U64  # address of the word that points here
    parent: I64  # row, counted over all levels; -1 for a root
    side: I8  # 1 for a right child
    depth: I32
    word: U64
    has_left: Bools
    has_right: Bools


class RbTree(NamedTuple):
    """The red-black tree as an index: its entries in order, and the node of each."""

    entries: IndexEntries
    nodes: RbNodes


def walk_rbtree(kernel: Kernel, mms: Mms, log: ProblemLog) -> RbTree | None:
    """Every node of every tree, in order.

    None where the kernel has no ``mm_rb``. A VMA is visited once: what leads to it again is a problem.
    ``start`` and ``end`` are left 0, for the VMAs are decoded once for all views. VMAs that lie elsewhere than
    the allocator says are problems, and nodes only where they say that they are of this mm.
    """
    if not kernel.has("mm_struct", "mm_rb"):
        return None
    node_at = np.uint64(kernel.offset("vm_area_struct", "vm_rb"))
    left_at = np.uint64(kernel.offset("vm_area_struct", "vm_rb.rb_left"))
    right_at = np.uint64(kernel.offset("vm_area_struct", "vm_rb.rb_right"))

    mm, pointer = mms.mm[mms.ok], mms.rb_root[mms.ok]
    slot = mm + np.uint64(kernel.offset("mm_struct", "mm_rb.rb_node"))
    parent = np.full(len(mm), -1, np.int64)
    side = np.zeros(len(mm), np.int8)
    seen = np.zeros(0, np.uint64)
    homes = kernel.shared(Homes)
    levels: list[_Level] = []
    total = 0
    for depth in range(1, _DEPTH):
        live = pointer != 0
        wild = live & ~kernel.arch.kernel_pointer(pointer)
        log.add(View.RBTREE, Problem.NON_CANONICAL, mm[wild], slot[wild], pointer[wild])
        misaligned = live & ~wild & ((pointer & np.uint64(7)) != 0)
        log.add(View.RBTREE, Problem.MISALIGNED, mm[misaligned], slot[misaligned], pointer[misaligned])
        live &= ~wild & ~misaligned
        again = live & (~is_first(pointer) | is_in(pointer, seen))
        log.add(View.RBTREE, Problem.CYCLE, mm[again], slot[again], pointer[again])
        live &= ~again
        stranger = live & homes.strangers(VMA, pointer - node_at)
        log.add(View.RBTREE, Problem.STALE, mm[stranger], slot[stranger], pointer[stranger])
        if stranger.any():
            owner, ok = kernel.gather_member("vm_area_struct", "vm_mm", pointer - node_at)
            live &= ~stranger | (ok & (owner == mm))
        mm, pointer, slot, parent, side = mm[live], pointer[live], slot[live], parent[live], side[live]
        if not len(mm):
            break
        seen = distinct(seen, pointer)
        vma = pointer - node_at
        links, ok = kernel.gather(_Links, vma)
        log.add(View.RBTREE, Problem.UNREADABLE, mm[~ok], slot[~ok], pointer[~ok])
        levels.append(
            _Level(
                mm=mm,
                vma=vma,
                node=pointer,
                slot=slot,
                parent=parent,
                side=side,
                depth=np.full(len(mm), depth, np.int32),
                word=links.word,
                has_left=links.left != 0,
                has_right=links.right != 0,
            )
        )
        row = total + np.arange(len(mm), dtype=np.int64)
        total += len(mm)
        mm, parent = np.concatenate([mm, mm]), np.concatenate([row, row])
        slot = np.concatenate([vma + left_at, vma + right_at])
        pointer = np.concatenate([links.left, links.right])
        side = np.repeat(np.array([0, 1], np.int8), len(row))
    if len(mm):
        log.add(View.RBTREE, Problem.CUT_SHORT, mm, slot, pointer)
    return _in_order(levels)


def _in_order(levels: list[_Level]) -> RbTree:
    """Put the rows, found level by level, into each tree's own order."""
    if not levels:
        return RbTree(IndexEntries.zeros(0), RbNodes.zeros(0))
    found = _Level.concatenate(levels)
    order = in_order(found.parent, found.side, np.cumsum([0, *map(len, levels)]), found.mm)
    sort = order.sort
    entries = IndexEntries.zeros(len(sort))
    entries.mm[:], entries.vma[:], entries.slot[:] = found.mm[sort], found.vma[sort], found.slot[sort]
    entries.order[:] = order.order[sort]
    nodes = RbNodes(
        address=found.node[sort],
        parent=order.parent[sort].astype(np.int32),
        left=order.left[sort].astype(np.int32),
        right=order.right[sort].astype(np.int32),
        depth=found.depth[sort],
        parent_word=found.word[sort],
        has_left=found.has_left[sort],
        has_right=found.has_right[sort],
    )
    return RbTree(entries, nodes)
