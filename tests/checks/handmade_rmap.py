"""Reverse maps made by hand, as the kernel would build them for the VMAs of views made by hand.

    rmap = add_reverse_maps(views)
    rmap.file_nodes.last[0] += 1  # break one record

Every file has an ``i_mmap``, every anonymous VMA an anon_vma of its own with one link. A tree is a chain of right
children in the order of first pages: what the trees say does not depend on their shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from checks.handmade_views import PAGE
from vmaforensics.columns.lookup import values_at
from vmaforensics.columns.runs import begins_run, places_in_run
from vmaforensics.views.reverse_maps.anon_vma_chains import AnonVmaChains, AnonVmas
from vmaforensics.views.reverse_maps.mappings import Mappings
from vmaforensics.views.reverse_maps.reverse_maps import RmapView
from vmaforensics.views.structures.interval_tree import IntervalNodes
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from vmaforensics.columns.types import U64
    from vmaforensics.views.views import Views
    from vmaforensics.views.vmas.vmas import Vmas

ANON_VMAS, LINKS = 0xFFFF_8880_9000_0000, 0xFFFF_8880_A000_0000
_NODE = 88  # of vm_area_struct.shared.rb and anon_vma_chain.rb
OFFSETS = {"vm_file": 160, "vm_pgoff": 152}


def node_row(nodes: IntervalNodes, vma: int) -> int:
    """Row of the only node of a VMA."""
    (row,) = np.flatnonzero(nodes.vma == np.uint64(vma)).tolist()
    return int(row)


def add_reverse_maps(views: Views) -> RmapView:
    """Give ``views`` the reverse maps of its VMAs."""
    vmas = views.vmas
    anonymous = np.flatnonzero(vmas.kind == Kind.ANONYMOUS)
    places = np.uint64(256) * anonymous.astype(np.uint64)
    anon_vma = np.uint64(ANON_VMAS) + places
    vmas.anon_vma[anonymous] = anon_vma
    assert views.files is not None
    files = views.files.rows
    mapping = values_at(files.mapping, vmas.file_row)
    trees = np.unique(mapping[mapping != 0])
    chained = np.uint64(LINKS) + places
    link = np.zeros(len(vmas), np.uint64)
    link[anonymous] = chained
    views.rmap = RmapView(
        mappings=Mappings.of(len(trees), mapping=trees, ok=_all(trees), whole=_all(trees)),
        file_nodes=_nodes(vmas, mapping, vmas.vma, vmas.pgoff),
        anon_vmas=AnonVmas.of(
            len(anon_vma),
            anon_vma=anon_vma,
            ok=_all(anon_vma),
            root=anon_vma,
            active=[1] * len(anon_vma),
            whole=_all(anon_vma),
        ),
        anon_nodes=_nodes(vmas, vmas.anon_vma, link, vmas.anon_pgoff),
        chains=AnonVmaChains.of(
            len(chained), vma=vmas.vma[anonymous], avc=chained, anon_vma=anon_vma, back=vmas.vma[anonymous]
        ),
        vmas=vmas,
        mapping=mapping,
        parent_word=np.ones(len(vmas), np.uint64),
        answered=np.zeros(len(vmas), np.bool_),
        torn_nodes=np.zeros(0, np.uint64),
        chain_cut=np.zeros(len(vmas), np.bool_),
        strays={},
        offsets=OFFSETS,
    )
    return views.rmap


def _all(rows: U64) -> list[bool]:
    return [True] * len(rows)


def _nodes(vmas: Vmas, tree: U64, item: U64, first: U64) -> IntervalNodes:
    """A node for every VMA that has a ``tree``."""
    rows = np.lexsort((first, tree))
    rows = rows[tree[rows] != 0]
    last = first + (vmas.end - vmas.start) // np.uint64(PAGE) - np.uint64(1)
    nodes = IntervalNodes.of(
        len(rows),
        tree=tree[rows],
        item=item[rows],
        vma=vmas.vma[rows],
        node=item[rows] + np.uint64(_NODE),
        slot=item[rows] + np.uint64(_NODE + 8),
        parent=[-1] * len(rows),
        left=[-1] * len(rows),
        right=[-1] * len(rows),
        parent_word=[1] * len(rows),
        last=last[rows],
        order=places_in_run(begins_run(tree[rows])),
    )
    for row in range(len(rows) - 1, 0, -1):
        if nodes.tree[row] == nodes.tree[row - 1]:
            nodes.parent[row], nodes.right[row - 1] = row - 1, row
            nodes.parent_word[row] = nodes.node[row - 1]
            nodes.last[row - 1] = max(nodes.last[row - 1], nodes.last[row])
    return nodes
