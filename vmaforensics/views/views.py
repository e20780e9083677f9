"""Everything that the views of one image say."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from vmaforensics.arch.known import DEFAULT
from vmaforensics.columns.lookup import rows_of
from vmaforensics.columns.texts import Texts
from vmaforensics.views.indices.entries import IndexEntries, union_of
from vmaforensics.views.indices.maple_nodes import MapleNodes
from vmaforensics.views.problems import Problems
from vmaforensics.views.processes.mms import MmOffsets
from vmaforensics.views.view import View
from vmaforensics.views.vmas.vmas import Vmas

if TYPE_CHECKING:
    from vmaforensics.arch.interface import Architecture
    from vmaforensics.columns.types import I64, U64
    from vmaforensics.views.anchors.anchors import AnchorsView
    from vmaforensics.views.clocks.clocks import ClocksView
    from vmaforensics.views.descriptors.handles import HandlesView
    from vmaforensics.views.descriptors.userfaults import Monitored
    from vmaforensics.views.frames.frames import FramesView
    from vmaforensics.views.indices.rbtree import RbNodes
    from vmaforensics.views.operations.operations import OperationsView
    from vmaforensics.views.pages.kernel_half import KernelHalfView
    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.pages.swap_slots import SwapView
    from vmaforensics.views.pages.table_roots import TableRoots
    from vmaforensics.views.pages.text_pages import TextView
    from vmaforensics.views.pages.vdso import VdsoView
    from vmaforensics.views.processes.essentials import Essentials
    from vmaforensics.views.processes.kin import Kin, Shared
    from vmaforensics.views.processes.mm_sources import SourcesView
    from vmaforensics.views.processes.mms import Mms
    from vmaforensics.views.processes.pid_numbers import PidNumbers
    from vmaforensics.views.processes.taskless_mms import TasklessMms
    from vmaforensics.views.processes.tasks import Tasks
    from vmaforensics.views.processes.tracers import Tracers
    from vmaforensics.views.reverse_maps.reverse_maps import RmapView
    from vmaforensics.views.road.road import RoadView
    from vmaforensics.views.slab.objects import SlabView
    from vmaforensics.views.slab.strays import StrayVmas
    from vmaforensics.views.slab.torn_slabs import TornSlabs
    from vmaforensics.views.vmas.files import FileTable
    from vmaforensics.views.vmas.identities import IdentitiesView


@dataclass(kw_only=True)
class Views:
    """Everything the views of one image say. A view that the kernel does not have, or nobody asked for, is None.

    Filled by :func:`~vmaforensics.views.gather.gather_views`, which alone in ``views/`` knows this class.
    """

    arch: Architecture = DEFAULT  # of the kernel read
    tasks: Tasks
    mms: Mms
    vma_list: IndexEntries | None = None
    rbtree: IndexEntries | None = None
    maple: IndexEntries | None = None
    rb_nodes: RbNodes | None = None
    maple_nodes: MapleNodes = field(default_factory=lambda: MapleNodes.zeros(0))
    vmas: Vmas = field(default_factory=lambda: Vmas.zeros(0))
    mm_offsets: MmOffsets = field(default_factory=MmOffsets)
    vma_size: int = 0  # bytes of vm_area_struct
    stack_guard_gap: int = 0  # bytes kept free below a VMA that grows down
    shadow_stack_flag: int = 0  # the bit of vm_flags that marks a shadow stack, 0 for none
    names: Texts = field(default_factory=lambda: Texts.of(()))  # one per row of vmas, as /proc/PID/maps shows it
    files: FileTable | None = None
    slab: SlabView | None = None
    strays: StrayVmas | None = None  # VMAs of the slab that no index has
    torn_slabs: TornSlabs | None = None  # of any cache
    sources: SourcesView | None = None
    taskless: TasklessMms | None = None  # mms that are allocated and no process's
    operations: OperationsView | None = None
    pid_numbers: PidNumbers | None = None  # a row for each of the tasks of sources
    tracers: Tracers | None = None  # a row for each of tasks
    essentials: Essentials | None = None  # a row for each of the tasks of sources
    kin: Kin | None = None  # of the tasks of sources
    shared: Shared | None = None  # what these lead to together
    rmap: RmapView | None = None
    anchors: AnchorsView | None = None
    handles: HandlesView | None = None
    identities: IdentitiesView | None = None  # what files are by each record that names them
    monitored: Monitored | None = None  # VMAs with a userfaultfd
    page_tables: PageTablesView | None = None
    table_roots: TableRoots | None = None  # a row for each of mms
    text: TextView | None = None
    frames: FramesView | None = None
    swap: SwapView | None = None  # None: nothing is swapped to, or its slots are not counted as this reads it
    kernel_half: KernelHalfView | None = None
    vdso: VdsoView | None = None
    road: RoadView | None = None  # code of the kernel, and who has a hand in it
    clocks: ClocksView | None = None  # None: its timekeeper could not be read
    problems: Problems = field(default_factory=lambda: Problems.zeros(0))
    untyped: tuple[str, ...] = ()  # members whose places damaged types do not say: no rule can be sure of anything

    def indices(self) -> dict[View, IndexEntries]:
        """The indices that this kernel has, by view, in a fixed order."""
        pairs = ((View.LIST, self.vma_list), (View.RBTREE, self.rbtree), (View.MAPLE, self.maple))
        return {view: rows for view, rows in pairs if rows is not None}

    @property
    def index_view(self) -> View:
        """The index that the kernel itself uses: the maple tree, or the list before."""
        indices = self.indices()
        return next(view for view in (View.MAPLE, View.LIST, View.RBTREE) if view in indices)

    @property
    def index(self) -> IndexEntries:
        """The entries of :attr:`index_view`."""
        return self.indices()[self.index_view]

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
            View.CODE: self.road,
        }
        read = [View.TASKS, *self.indices(), View.VMA, View.COUNTERS]
        return read + [view for view, table in optional.items() if table is not None]

    def vma_rows(self, addresses: U64) -> I64:
        """Row in ``vmas`` of each VMA address, -1 where it is not there."""
        return rows_of(self.vmas.vma, addresses)

    @cached_property
    def union(self) -> IndexEntries:
        """Every VMA of every address space once, over all indices, by mm and start; see ``union_of``."""
        return union_of(self.indices().values())

    def mm_rows(self, addresses: U64) -> I64:
        """Row in ``mms`` of each mm address, -1 where it is not there."""
        return rows_of(self.mms.mm, addresses)
