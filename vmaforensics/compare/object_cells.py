"""What the allocator and the reverse maps say of each ``vm_area_struct``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import rows_of, sort_order, values_at
from vmaforensics.compare.cells import AnonCells, CellState, FileCells, SlabCells
from vmaforensics.views.slab.caches import ObjectKind
from vmaforensics.views.slab.objects import State

if TYPE_CHECKING:
    from vmaforensics.compare.vmas import ComparedVmas
    from vmaforensics.views.reverse_maps.reverse_maps import RmapView
    from vmaforensics.views.slab.objects import SlabView
    from vmaforensics.views.slab.strays import StrayVmas


def slab_cells(slab: SlabView, strays: StrayVmas | None, vmas: ComparedVmas) -> SlabCells:
    """The state of each ``vm_area_struct`` as an object of its cache; ``strays`` knows those that lie outside of it."""
    state = slab.states(vmas.vma, ObjectKind.VMA)
    free = state == State.FREE
    foreign = np.zeros(0, np.uint64) if strays is None else strays.foreign
    outside = np.isin(vmas.vma, foreign) & ~free & (state != State.ALLOCATED)
    return SlabCells.of(
        state=np.select(
            [state == State.ALLOCATED, free | outside], [CellState.HELD, CellState.MISSING], CellState.UNREAD
        ),
        page=slab.slab_pages(vmas.vma, ObjectKind.VMA),
        free=free,
        outside=outside,
    )


def file_cells(rmap: RmapView, vmas: ComparedVmas) -> FileCells:
    """The node of each VMA in an ``i_mmap`` tree; missing if it is in another file's, or in none."""
    nodes = rmap.file_nodes.sort_by(rmap.file_nodes.vma)
    row = rows_of(nodes.vma, vmas.vma)
    mapping = values_at(rmap.mapping, rmap.vma_rows(vmas.vma))  # vm_file->f_mapping
    whole = values_at(rmap.mappings.whole, rows_of(rmap.mappings.mapping, mapping))
    has_node, has_file = row >= 0, vmas.file != 0
    tree = values_at(nodes.tree, row)
    other = has_node & (((mapping != 0) & (tree != mapping)) | ~has_file)
    return FileCells.of(
        state=np.select(
            [has_node & ~other, ~has_node & ~has_file, other | whole],
            [CellState.HELD, CellState.NONE, CellState.MISSING],
            CellState.UNREAD,
        ),
        node=values_at(nodes.node, row),
        tree=tree,
        other_tree=other,
    )


def anon_cells(rmap: RmapView, vmas: ComparedVmas) -> AnonCells:
    """The link of each VMA with its own anon_vma; missing too where there are links without an anon_vma."""
    anon_vma = values_at(rmap.vmas.anon_vma, rmap.vma_rows(rmap.anon_nodes.vma))
    own = rmap.anon_nodes.take(rmap.anon_nodes.tree == anon_vma)
    own = own.take(sort_order(own.vma))
    row = rows_of(own.vma, vmas.vma)
    linked, count = np.unique(rmap.chains.vma, return_counts=True)
    links = values_at(count.astype(np.int64), rows_of(linked, vmas.vma))
    whole = values_at(rmap.anon_vmas.whole, rows_of(rmap.anon_vmas.anon_vma, vmas.anon_vma))
    cut = values_at(rmap.chain_cut, rmap.vma_rows(vmas.vma), fill=1)
    has_anon = vmas.anon_vma != 0
    return AnonCells.of(
        state=np.select(
            [has_anon & (row >= 0), has_anon & ~(whole & ~cut), ~has_anon & (links == 0)],
            [CellState.HELD, CellState.UNREAD, CellState.NONE],
            CellState.MISSING,
        ),
        link=values_at(own.item, np.where(has_anon, row, -1)),
        links=links,
        unowned=~has_anon & (links > 0),
    )
