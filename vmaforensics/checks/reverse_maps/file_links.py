"""Each VMA with a file is in the ``i_mmap`` of that file's address_space, and in no other: which are not?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import rows_of, sort_order, values_at

if TYPE_CHECKING:
    from vmaforensics.checks.reverse_maps.tree_sets import TreeSet
    from vmaforensics.columns.types import I64, U64
    from vmaforensics.views.reverse_maps.reverse_maps import RmapView

_COLOUR: Final = np.uint64(3)  # low bits of __rb_parent_color
_DEPTH: Final = 128  # of a tree


class FileLinks(NamedTuple):
    """VMAs are rows of ``RmapView.vmas``."""

    missing: I64  # VMAs that are in no i_mmap, though their file's was read whole
    foreign: I64  # VMAs that are in the i_mmap of another file than their own
    cut_off: I64  # VMAs that a node they name as their parent, which the tree leads to, does not lead to
    cut_at: U64  # that node, per row of ``cut_off``
    tree: U64  # per VMA: the address_space in whose i_mmap it hangs, 0 for none


def compare_file_links(trees: TreeSet) -> FileLinks:
    """Compare vm_file->f_mapping of every VMA with the i_mmap it is in (vma_link_file, mm/vma.c)."""
    rmap, vmas = trees.vmas.rmap, trees.vmas.rmap.vmas
    nodes, mappings = rmap.file_nodes, rmap.mappings
    order = sort_order(nodes.vma)
    tree = values_at(nodes.tree[order], rows_of(nodes.vma[order], vmas.vma))
    judged = trees.vmas.judged
    has_file = vmas.file != 0
    named = has_file & (rmap.mapping != 0)
    whole = values_at(trees.mapping_whole, rows_of(mappings.mapping, rmap.mapping))
    at_hand = values_at(mappings.ok & (mappings.held == trees.held), rows_of(mappings.mapping, rmap.mapping))
    cut = _cut_off(rmap, np.flatnonzero(judged & named & at_hand & (tree == 0)))
    in_set = np.isin(tree, mappings.mapping[mappings.held == trees.held])
    return FileLinks(
        missing=np.flatnonzero(judged & named & whole & (tree == 0)),
        foreign=np.flatnonzero(judged & in_set & (tree != 0) & (tree != rmap.mapping) & (named | ~has_file)),
        cut_off=cut.rows,
        cut_at=cut.parent,
        tree=tree,
    )


class _CutOff(NamedTuple):
    """VMAs that were cut off from a node."""

    rows: I64
    parent: U64


def _cut_off(rmap: RmapView, rows: I64) -> _CutOff:
    """Those of ``rows`` of the VMAs that the tree does not lead to, though it leads to what they name as their parent.

    What insertions, removals and rotations (lib/rbtree.c) take from a node they give to another, and a node whose
    pointer they clear has another parent then: a rotation makes the former child its parent, and a successor comes to
    the place of what was erased. So where the node has no child on that side, and it and all above it say of their
    parents what led to them, no half of a change is what was read.
    """
    nodes = rmap.file_nodes
    order = sort_order(nodes.node)
    word = rmap.parent_word[rows] & ~_COLOUR
    parent = values_at(order, rows_of(nodes.node[order], word), -1)
    own, above = rmap.vmas.pgoff[rows], values_at(rmap.vmas.pgoff, rmap.vma_rows(values_at(nodes.vma, parent)))
    left, right = values_at(nodes.left, parent, 0) < 0, values_at(nodes.right, parent, 0) < 0
    free = ((own <= above) & left) | ((own >= above) & right)
    proven = (parent >= 0) & free & (values_at(nodes.tree, parent) == rmap.mapping[rows])
    at = np.where(proven, parent, -1)
    for _ in range(_DEPTH):
        if not (at >= 0).any():
            break
        up = values_at(nodes.parent, at, -1)
        says = values_at(nodes.parent_word, at) & ~_COLOUR
        torn = (says != values_at(nodes.node, up)) | np.isin(values_at(nodes.node, at), rmap.torn_nodes)
        proven &= ~(torn & (at >= 0))
        at = up
    return _CutOff(rows[proven], word[proven])
