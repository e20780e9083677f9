"""Everything that the views of one image say."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.views.indices.maple import MapleNodes
from vmaforensics.views.indices.regions import union_of
from vmaforensics.views.problems import PROBLEMS
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.views.anchors.anchors import AnchorsView
    from vmaforensics.views.descriptors.descriptors import HandlesView
    from vmaforensics.views.indices.rbtree import RbNodes
    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.pages.text_pages import TextPages
    from vmaforensics.views.processes.mm_sources import SourcesView
    from vmaforensics.views.reverse_maps.reverse_maps import RmapView
    from vmaforensics.views.slab.objects import SlabView
    from vmaforensics.views.vmas.files import FileTable


@dataclass(kw_only=True)
class Views:
    """Everything the views of one image say. A view that the kernel does not have is None."""

    tasks: NDArray[np.void]
    mms: NDArray[np.void]
    vma_list: NDArray[np.void] | None = None
    rbtree: NDArray[np.void] | None = None
    maple: NDArray[np.void] | None = None
    rb_nodes: RbNodes | None = None
    maple_nodes: MapleNodes = field(default_factory=MapleNodes.empty)
    vmas: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, np.uint64).view(np.void))
    mm_offsets: dict[str, int] = field(default_factory=dict)  # column of mms: byte offset in mm_struct
    vma_size: int = 0  # bytes of vm_area_struct
    stack_guard_gap: int = 0  # bytes kept free below an area that grows down
    shadow_stacks: bool = False  # does bit 37 of vm_flags mean a shadow stack?
    names: list[bytes] = field(default_factory=list)  # one per row of vmas, as /proc/PID/maps shows it
    files: FileTable | None = None
    slab: SlabView | None = None
    sources: SourcesView | None = None
    rmap: RmapView | None = None
    anchors: AnchorsView | None = None
    handles: HandlesView | None = None
    page_tables: PageTablesView | None = None
    text: TextPages | None = None
    problems: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, PROBLEMS))
    _pieces: dict[str, tuple[NDArray[np.void], NDArray[np.uint64]]] = field(default_factory=dict, repr=False)

    def regions(self) -> dict[View, NDArray[np.void]]:
        """The views that list regions, by view, in a fixed order."""
        pairs = ((View.LIST, self.vma_list), (View.RBTREE, self.rbtree), (View.MAPLE, self.maple))
        return {view: rows for view, rows in pairs if rows is not None}

    def available(self) -> list[View]:
        """Every view that was read."""
        optional = {
            View.PAGE_TABLES: self.page_tables,
            View.PAGES: self.page_tables,
            View.FILE_RMAP: self.rmap,
            View.ANON_RMAP: self.rmap,
            View.SLAB: self.slab,
            View.SOURCES: self.sources,
            View.ANCHORS: self.anchors,
            View.HANDLES: self.handles,
        }
        read = [View.TASKS, *self.regions(), View.VMA, View.COUNTERS]
        return read + [view for view, table in optional.items() if table is not None]

    def _keys(self, name: str, table: NDArray[np.void]) -> NDArray[np.uint64]:
        """The key column of a table in one piece: searching a column of wide rows would copy it every time."""
        held = self._pieces.get(name)
        if held is None or held[0] is not table:
            held = self._pieces[name] = (table, np.ascontiguousarray(table[name]))
        return held[1]

    def vma_rows(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Row in ``vmas`` of each VMA address, -1 where it is not there."""
        known = self._keys("vma", self.vmas)
        if not len(known):
            return np.full(len(addresses), -1, np.int64)
        row = np.minimum(np.searchsorted(known, addresses), len(known) - 1)
        return np.where(known[row] == addresses, row, -1)

    @cached_property
    def union(self) -> NDArray[np.void]:
        """Every area of every address space once, over all index views, by mm and start; see ``union_of``."""
        return union_of(list(self.regions().values()))

    def mm_rows(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Row in ``mms`` of each mm address, -1 where it is not there."""
        known = self._keys("mm", self.mms)
        if not len(known):
            return np.full(len(addresses), -1, np.int64)
        row = np.minimum(np.searchsorted(known, addresses), len(known) - 1)
        return np.where(known[row] == addresses, row, -1)
