"""Interval trees of the reverse maps (lib/interval_tree_generic.h): all trees at once, a level per gather.

A node is an ``rb_node`` inside an item, next to ``rb_subtree_last``, the largest last page of its subtree.
What the walk cannot follow is handed back, for only the caller knows whose memory map it concerns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import is_first, is_in
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I8, I64, U8, U64, Bools
from vmaforensics.views.problems import Problem
from vmaforensics.views.slab.homes import ANON_VMA_CHAIN, VMA, Homes
from vmaforensics.views.structures.address_set import AddressSet
from vmaforensics.views.structures.tree_order import in_order

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.slab.homes import Kind

_DEPTH = 128  # a red-black tree of 2**64 nodes is no deeper


@table()
class IntervalNodes(Table):
    """The nodes of any number of interval trees, by tree and in-order position."""

    tree: U64  # the address_space or anon_vma
    item: U64  # the vm_area_struct or anon_vma_chain that holds the node
    vma: U64  # the item itself, or its member vma
    node: U64  # address of the rb_node
    slot: U64  # address of the word that points here
    parent: I64  # row by which the walk came, -1 for a root
    left: I64  # row, -1 for none
    right: I64
    parent_word: U64  # __rb_parent_color
    last: U64  # rb_subtree_last, pages
    order: I64  # in-order position within the tree


@table()
class BrokenLinks(Table):
    """Pointers that the walk did not follow, in the order in which it met them."""

    tree: U64
    item: U64  # whose pointer it is, 0 for the root's
    problem: U8  # Problem
    slot: U64  # address of the pointer
    value: U64  # the pointer


class IntervalWalk(NamedTuple):
    """What :func:`walk_trees` read, and where it broke off."""

    nodes: IntervalNodes
    broken: BrokenLinks


@table()
class _Words(Table):
    """What is read of an item."""

    parent_word: U64
    left: U64
    right: U64
    last: U64
    vma: U64


@table(struct="vm_area_struct")
class _FileWords(_Words):
    """Of a VMA in the i_mmap of its file."""

    parent_word: U64 = member("shared.rb.__rb_parent_color")
    left: U64 = member("shared.rb.rb_left")
    right: U64 = member("shared.rb.rb_right")
    last: U64 = member("shared.rb_subtree_last")


@table(struct="anon_vma_chain")
class _AnonWords(_Words):
    """Of a link in the tree of an anon_vma."""

    parent_word: U64 = member("rb.__rb_parent_color")
    left: U64 = member("rb.rb_left")
    right: U64 = member("rb.rb_right")
    last: U64 = member("rb_subtree_last")
    vma: U64 = member("vma")


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeKind:
    """Where one kind of tree keeps its words."""

    words: type[_Words]
    node: str  # member path of the rb_node
    item: Kind  # what holds the nodes


FILE = TreeKind(words=_FileWords, node="shared.rb", item=VMA)
ANON = TreeKind(words=_AnonWords, node="rb", item=ANON_VMA_CHAIN)


@table()
class _Links(Table):
    """The pointers of one level that are still to be followed."""

    tree: U64
    pointer: U64
    slot: U64
    holder: U64  # item that holds the pointer, 0 for a root's
    parent: I64  # row of the node it was read from, over all levels; -1 for a root
    side: I8  # 1 for a right child


class _Level(NamedTuple):
    """The nodes at one depth of all trees."""

    nodes: IntervalNodes
    side: I8  # of each node
    below: _Links
    broken: BrokenLinks


def walk_trees(kernel: Kernel, kind: TreeKind, trees: U64, roots: U64, slots: U64) -> IntervalWalk:
    """Every node below ``roots`` (``rb_node`` pointers found at ``slots``, NULL allowed), and what broke off.

    ``trees`` says what each root is the root of. A node is visited once: what leads to it again is broken, and so is
    what leads to where the allocator says that no such node lives.
    Raises :class:`KernelNotFoundError` where the kernel's types lack the node.
    """
    links = _Links.of(tree=trees, pointer=roots, slot=slots, parent=np.full(len(trees), -1, np.int64))
    levels: list[_Level] = []
    visited = AddressSet()
    total = 0
    for _ in range(_DEPTH):
        links = links.take(links.pointer != 0)
        if not len(links):
            break
        levels.append(_read_level(kernel, kind, links, visited, total))
        links = levels[-1].below
        total += len(levels[-1].nodes)
    return _settle(levels, _broken(Problem.CUT_SHORT, links, links.pointer != 0))


def _read_level(kernel: Kernel, kind: TreeKind, links: _Links, visited: AddressSet, total: int) -> _Level:
    """The nodes that ``links`` lead to, and the links in those; ``total`` nodes were read before, all ``visited``."""
    pointer = links.pointer
    wild = ~kernel.arch.kernel_pointer(pointer)
    misaligned = ~wild & ((pointer & np.uint64(7)) != 0)
    repeated = ~wild & ~misaligned & ~(is_first(pointer) & is_in(pointer, visited.add(pointer)))
    struct = kind.words.struct
    with np.errstate(over="ignore"):
        item = pointer - np.uint64(kernel.offset(struct, kind.node))
    stale = ~wild & ~misaligned & ~repeated & kernel.shared(Homes).strangers(kind.item, item)
    good = np.flatnonzero(~wild & ~misaligned & ~repeated & ~stale)
    words, ok = kernel.gather(kind.words, item[good])
    unreadable = np.zeros(len(pointer), np.bool_)
    unreadable[good[~ok]] = True
    broken = (
        (Problem.NON_CANONICAL, wild),
        (Problem.MISALIGNED, misaligned),
        (Problem.CYCLE, repeated),
        (Problem.STALE, stale),
        (Problem.UNREADABLE, unreadable),
    )
    good, words = good[ok], words.take(ok)
    nodes = IntervalNodes.of(
        tree=links.tree[good],
        item=item[good],
        vma=item[good] if kind.item is VMA else words.vma,
        node=pointer[good],
        slot=links.slot[good],
        parent=links.parent[good],
        parent_word=words.parent_word,
        last=words.last,
    )
    left_at, right_at = (np.uint64(kernel.offset(struct, f"{kind.node}.{name}")) for name in ("rb_left", "rb_right"))
    below = _Links(
        tree=np.tile(nodes.tree, 2),
        pointer=np.concatenate([words.left, words.right]),
        slot=np.concatenate([nodes.item + left_at, nodes.item + right_at]),
        holder=np.tile(nodes.item, 2),
        parent=np.tile(total + np.arange(len(nodes), dtype=np.int64), 2),
        side=np.repeat(np.array([0, 1], np.int8), len(nodes)),
    )
    return _Level(
        nodes=nodes,
        side=links.side[good],
        below=below,
        broken=BrokenLinks.concatenate(_broken(problem, links, which) for problem, which in broken),
    )


def _broken(problem: Problem, links: _Links, which: Bools) -> BrokenLinks:
    """Those of ``links`` that are not followed because of ``problem``."""
    lost = links.take(which)
    return BrokenLinks(
        tree=lost.tree,
        item=lost.holder,
        problem=np.full(len(lost), problem, np.uint8),
        slot=lost.slot,
        value=lost.pointer,
    )


def _settle(levels: list[_Level], cut: BrokenLinks) -> IntervalWalk:
    """All levels in one, in order; ``cut`` is broken too."""
    broken = [*(level.broken for level in levels), cut]
    nodes = IntervalNodes.concatenate(level.nodes for level in levels)
    if not len(nodes):
        return IntervalWalk(nodes, BrokenLinks.concatenate(broken))
    side = np.concatenate([level.side for level in levels])
    edges = np.cumsum([0, *(len(level.nodes) for level in levels)])
    # Fill in children and in-order positions of rows that stand level by level, and sort by them.
    found = in_order(nodes.parent, side, edges, nodes.tree)
    nodes = nodes.replace(parent=found.parent, left=found.left, right=found.right, order=found.order)
    return IntervalWalk(nodes.take(found.sort), BrokenLinks.concatenate(broken))
