"""Each VMA with a file is in the ``i_mmap`` of that file's address_space, and in no other: which are not?"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import rows_of, sort_order, values_at

if TYPE_CHECKING:
    from vmaforensics.checks.reverse_maps.tree_sets import TreeSet
    from vmaforensics.columns.types import I64, U64


class FileLinks(NamedTuple):
    """VMAs are rows of ``RmapView.vmas``."""

    missing: I64  # VMAs that are in no i_mmap, though their file's was read whole
    foreign: I64  # VMAs that are in the i_mmap of another file than their own
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
    in_set = np.isin(tree, mappings.mapping[mappings.held == trees.held])
    return FileLinks(
        missing=np.flatnonzero(judged & named & whole & (tree == 0)),
        foreign=np.flatnonzero(judged & in_set & (tree != 0) & (tree != rmap.mapping) & (named | ~has_file)),
        tree=tree,
    )
