"""VMAs that fork handed down, and that their process has had ever since: what the anon_vmas of its ancestors prove.

``anon_vma_fork`` (mm/rmap.c) links the copy of a VMA to all anon_vmas that the parent's is linked to, by a chain of
``anon_vma_chain``. What a process maps itself is linked to an anon_vma of its own alone. ``unlink_anon_vmas`` takes the
chain apart when the VMA goes, before it is freed, and nothing makes such a chain again. So as long as the chain has an
ancestor's anon_vma, the VMA is there since the fork, whatever else its process mapped and unmapped. That takes no
number of changes, and so holds for every kernel.

It may have grown since, and it may have been moved (``copy_vma`` takes the chain along): so it is asked of anonymous
memory that lies where its pages say that it was first used, and says that some of it was there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks.held import lives_long
from vmaforensics.columns.lookup import rows_of, sort_order, values_at

if TYPE_CHECKING:
    from vmaforensics.checks.context import Context
    from vmaforensics.columns.types import U64
    from vmaforensics.views.vmas.vmas import Vmas

INHERITED = (
    "fork handed the VMA down: its chain of anon_vmas, which was read after the empty slot, has one of an ancestor; "
    "what a process maps itself has none"
)


def inherited_until(context: Context, vmas: Vmas) -> U64:
    """The last physical address at which each of ``vmas`` was seen to be one that fork handed down to a process that is
    older than the acquisition; 0 where it is none. Asked where the order of reading is known."""
    views, clocks = context.views, context.acquisition.clocks
    until = np.zeros(len(vmas), np.uint64)
    rmap, mm_row = views.rmap, views.mm_rows(vmas.mm)
    if rmap is None or clocks is None or not len(vmas):
        return until
    order = sort_order(vmas.vma)
    at = rows_of(vmas.vma[order], rmap.chains.vma)
    own_links = np.flatnonzero((at >= 0) & (rmap.chains.back == rmap.chains.vma))
    links, row = rmap.chains.take(own_links), order[at[own_links]]
    root = np.where(rmap.anon_vmas.ok, rmap.anon_vmas.root, np.uint64(0))
    own = values_at(root, rows_of(rmap.anon_vmas.anon_vma, vmas.anon_vma))[row]
    theirs = values_at(root, rows_of(rmap.anon_vmas.anon_vma, links.anon_vma))
    ancestral = (links.anon_vma != vmas.anon_vma[row]) & (theirs != 0) & (theirs == own)
    places = clocks.places.each(links.avc[ancestral])  # they were read, and so are mapped
    np.maximum.at(until, row[ancestral], places)
    first = vmas.start >> np.uint64(views.arch.page_shift)
    home = vmas.ok & (vmas.file == 0) & (vmas.anon_pgoff == first) & values_at(lives_long(context), mm_row)
    return np.where(home, until, np.uint64(0))
