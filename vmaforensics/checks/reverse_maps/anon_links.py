"""Each VMA with anonymous pages is chained to its anon_vma, and every link of the chain is in its anon_vma's tree.

anon_vma_chain_link (mm/rmap.c) puts a link into both.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import is_in, rows_of, sort_order, values_at
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import I64, U8, U64, Bools

if TYPE_CHECKING:
    from vmaforensics.checks.reverse_maps.tree_sets import TreeSet


class Fault(IntEnum):
    """What is wrong with the links of a VMA."""

    NOT_IN_TREE = 0
    OTHER_VMA = 1
    NO_LINK_TO_OWN = 2
    NO_ANON_VMA = 3
    NOT_IN_CHAIN = 4

    def text(self, where: int, tree: int) -> str:
        """The fault in words; ``where`` and ``tree`` as in :class:`AnonFaults`."""
        return (
            f"its link {where:#x} is not in the tree of the anon_vma {tree:#x}",
            f"its link {where:#x} says that it is another VMA's",
            f"its chain has no link to its own anon_vma {tree:#x}",
            "it has links to anon_vmas and no anon_vma",
            f"the tree of the anon_vma {tree:#x} holds a link {where:#x} that its chain lacks",
        )[self]


@table()
class AnonFaults(Table):
    """A row for everything that is wrong, by kind of fault."""

    vma_row: I64  # row of RmapView.vmas
    fault: U8  # Fault
    where: U64  # address of the anon_vma_chain, or of the VMA where none is to blame
    tree: U64  # the anon_vma in question, 0 for none


def compare_anon_links(trees: TreeSet) -> AnonFaults:
    """Compare the chain of every VMA with its anon_vma and with the trees of all anon_vmas."""
    rmap, vmas = trees.vmas.rmap, trees.vmas.rmap.vmas
    chains, nodes = rmap.chains, rmap.anon_nodes
    judged = trees.vmas.judged & ~rmap.chain_cut
    row = rmap.vma_rows(chains.vma)
    has_own, linked = np.zeros(len(vmas), np.bool_), np.zeros(len(vmas), np.bool_)
    has_own[row[chains.anon_vma == vmas.anon_vma[row]]] = True
    linked[row] = True
    named = vmas.anon_vma != 0
    lost = np.flatnonzero(judged[row] & ~_in_tree(trees))
    alien = np.flatnonzero(judged[row] & (chains.back != chains.vma))
    unlinked = np.flatnonzero(judged & named & ~has_own)
    nameless = np.flatnonzero(judged & ~named & linked)
    stray = np.flatnonzero(~is_in(nodes.item, chains.avc))
    holder = rmap.vma_rows(nodes.vma[stray])
    keep = (holder >= 0) & values_at(judged, holder)
    stray, holder = stray[keep], holder[keep]
    faults = AnonFaults.concatenate(
        [
            _faults(Fault.NOT_IN_TREE, row[lost], chains.avc[lost], chains.anon_vma[lost]),
            _faults(Fault.OTHER_VMA, row[alien], chains.avc[alien], chains.anon_vma[alien]),
            _faults(Fault.NO_LINK_TO_OWN, unlinked, vmas.vma[unlinked], vmas.anon_vma[unlinked]),
            _faults(Fault.NO_ANON_VMA, nameless, vmas.vma[nameless], vmas.anon_vma[nameless]),
            _faults(Fault.NOT_IN_CHAIN, holder, nodes.item[stray], nodes.tree[stray]),
        ]
    )
    anon_vmas = rmap.anon_vmas
    return faults.take(np.isin(faults.tree, anon_vmas.anon_vma[anon_vmas.held]) == trees.held)


def _in_tree(trees: TreeSet) -> Bools:
    """Is each link of the chains in the tree of its anon_vma, or was that tree not read whole?"""
    rmap = trees.vmas.rmap
    chains, nodes = rmap.chains, rmap.anon_nodes
    whole = values_at(trees.anon_vma_whole, rows_of(rmap.anon_vmas.anon_vma, chains.anon_vma))
    order = sort_order(nodes.item)
    found = rows_of(nodes.item[order], chains.avc)
    inside: Bools = (found >= 0) & (values_at(nodes.tree[order], found) == chains.anon_vma)
    return inside | ~whole


def _faults(fault: Fault, vma_row: I64, where: U64, tree: U64) -> AnonFaults:
    return AnonFaults.of(vma_row=vma_row, fault=np.full(len(vma_row), fault), where=where, tree=tree)
