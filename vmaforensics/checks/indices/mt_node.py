"""MT-NODE: maple tree node does not fit its parent.

Kernels with a maple tree.

*Compared:* the parent word of each node with the slot that points to it (`node | slot << 3 | 6`; `&mm->mm_mt | 1` for a
root); a node marked dead (parent word is its own address) that a live one leads to; the depth of each leaf with the
height in `ma_flags`; the type of inner nodes, which record gaps in this tree (`arange_64`).

*Guaranteed by:* `mas_validate_parent_slot` and `mas_validate_child_slot`, `mas_set_height`, `mas_parent_type`
(lib/maple_tree.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.indices.maple_slots import Wording, node_findings
from vmaforensics.checks.rule import REINDEXES, Part, Rule, Severity
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.views.indices.maple_nodes import MapleNodes

_HEIGHT_SHIFT, _HEIGHT_MASK = np.uint32(2), np.uint32(0x1F)  # MT_FLAGS_HEIGHT_OFFSET, MT_FLAGS_HEIGHT_MASK >> 2
_NODE_MASK = np.uint64(0xFF)  # MAPLE_NODE_MASK

_DEAD = Wording(
    "node {node} is marked dead, as one that was replaced, and its parent still leads to it",
    "dead maple node {node} is still part of the tree",
)
_ASTRAY = Wording(
    "the parent word of node {node} does not name the slot that points to it",
    "maple node {node} does not lead back to its parent",
)
_DEPTH = Wording(
    "leaf {node} lies at another depth than the height in ma_flags",
    "leaf {node} lies at the wrong depth of the maple tree",
)
_KIND = Wording(
    "inner node {node} records no gaps, though its tree keeps them",
    "maple node {node} is of a type this tree does not use",
)

RULE = Rule(
    id="MT-NODE",
    title="maple tree node does not fit its parent",
    severity=Severity.HIGH,
    why="Parent words, types and depth of nodes follow from their place; only a write that bypassed the kernel's "
    "tree code breaks them.",
    compares="the parent word of each node with the slot that points to it, nodes marked dead, the depth of each leaf "
    "with the height in ma_flags, the type of inner nodes",
    views=(View.MAPLE,),
    transient="nodes are published, then their children's parent words are rewritten, then old nodes are marked dead "
    "(6.1 marks them first), under the write lock",
    by_hand=(hand.MAPLE, "drgn: hex(prog.read_u64(NODE))  # the parent word"),
    steps=("node", "tree"),
    part=Part.TRACE,
    rank=340,
    changed_by=REINDEXES,
)


def check(context: Context) -> Iterator[Finding]:
    """Nodes whose parent word, depth or type does not follow from their place."""
    nodes = context.views.maple_nodes
    if len(nodes):
        yield from _parents(context, nodes)
        yield from _heights(context, nodes)
        yield from _kinds(context, nodes)


def _parents(context: Context, nodes: MapleNodes) -> Iterator[Finding]:
    # A node that was replaced bears its own address as parent (mte_set_node_dead).
    dead = (nodes.parent_word & ~_NODE_MASK) == nodes.address
    astray = (nodes.parent_word != nodes.expected_parent) & ~dead
    for which, wording in ((dead, _DEAD), (astray, _ASTRAY)):
        wrong = np.flatnonzero(which)
        yield from node_findings(context, RULE, wrong, wording, nodes.parent_word, nodes.expected_parent)


def _heights(context: Context, nodes: MapleNodes) -> Iterator[Finding]:
    ma_flags = context.views.mms.ma_flags[context.views.mm_rows(nodes.mm)]
    height = (ma_flags >> _HEIGHT_SHIFT) & _HEIGHT_MASK
    wrong = np.flatnonzero(nodes.leaf & (nodes.depth != height))
    depth = nodes.depth.astype(np.uint64)
    yield from node_findings(context, RULE, wrong, _DEPTH, depth, height.astype(np.uint64))


def _kinds(context: Context, nodes: MapleNodes) -> Iterator[Finding]:
    """Inner nodes of a tree that keeps gaps (MT_FLAGS_ALLOC_RANGE) are arange_64; see mas_parent_type."""
    wrong = np.flatnonzero(~nodes.leaf & ~nodes.gapped)
    kind = nodes.kind.astype(np.uint64)
    yield from node_findings(context, RULE, wrong, _KIND, kind, np.zeros_like(kind))
