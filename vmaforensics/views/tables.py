"""The tables that views fill and checks read: NumPy structured arrays, one row per fact.

Addresses are kernel virtual addresses unless a column says otherwise; every row keeps the address of the
record it came from. Rows of different tables are joined by those addresses, never by pid.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.views.anchors import AnchorsView
    from vmaforensics.views.files import FileTable
    from vmaforensics.views.handles import HandlesView
    from vmaforensics.views.page_tables import PageTablesView
    from vmaforensics.views.rmap import RmapView
    from vmaforensics.views.slab import SlabView
    from vmaforensics.views.sources import SourcesView
    from vmaforensics.views.text_pages import TextPages


class View(IntEnum):
    """A redundant kernel record of address spaces."""

    TASKS = 0
    LIST = 1
    RBTREE = 2
    MAPLE = 3
    VMA = 4  # the vm_area_struct objects themselves
    COUNTERS = 5
    FILES = 6
    PAGE_TABLES = 7
    PAGES = 8  # struct page / folio
    FILE_RMAP = 9  # i_mmap
    ANON_RMAP = 10  # anon_vma trees
    SLAB = 11
    SOURCES = 12  # who else knows of an mm
    ANCHORS = 13  # code, stack, auxv, registers
    HANDLES = 14  # file descriptors and memory files

    @property
    def label(self) -> str:
        """What people call it."""
        return (
            "task list", "vm_next list", "rbtree", "maple tree", "VMA", "counters", "files", "page tables",
            "struct page", "i_mmap", "anon_vma", "slab", "mm sources", "anchors", "descriptors",
        )[self]  # fmt: skip


class Problem(IntEnum):
    """What a walk met that it could not follow or believe."""

    UNREADABLE = 0  # the structure is not in the dump, or nothing maps its address
    NON_CANONICAL = 1  # the pointer cannot be an address of this kernel
    MISALIGNED = 2  # the pointer cannot be one to such a structure
    BAD_TAG = 3  # type or flag bits that do not occur
    CYCLE = 4  # leads back to where the walk has been
    SHARED = 5  # reached before from another address space
    DEAD = 6  # a maple node that was replaced, still reachable
    NULL_CHILD = 7  # an inner node with an empty slot before its end
    RESERVED = 8  # a maple entry that is no pointer (XA_ZERO_ENTRY: a failed fork)
    CUT_SHORT = 9  # the bound on the walk was reached

    @property
    def text(self) -> str:
        """The problem in a few words."""
        return (
            "not in the dump or not mapped",
            "not a canonical kernel address",
            "misaligned pointer",
            "impossible tag bits",
            "leads back into the walk (cycle)",
            "already reached from another address space",
            "dead node still reachable",
            "empty slot in an inner node",
            "reserved entry",
            "walk cut short at its bound",
        )[self]


PROBLEMS = np.dtype(
    [
        ("view", np.uint8),
        ("problem", np.uint8),
        ("mm", np.uint64),
        ("where", np.uint64),  # address of the word that was wrong
        ("value", np.uint64),  # what it held
    ]
)

REGIONS = np.dtype(
    [
        ("mm", np.uint64),
        ("vma", np.uint64),
        ("start", np.uint64),  # as this view says it: the index range of a maple entry, else vm_start
        ("end", np.uint64),  # exclusive
        ("slot", np.uint64),  # address of the word that led to the VMA
        ("order", np.int64),  # position within the mm in this view's own order
        ("vma_row", np.int64),  # row of views.vmas; filled in once they are decoded
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RbNodes:
    """The red-black tree's nodes, one row per row of its regions; -1 where there is no such row."""

    address: NDArray[np.uint64]  # of the rb_node
    parent: NDArray[np.int64]  # row by which the walk came
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    depth: NDArray[np.int64]
    parent_word: NDArray[np.uint64]  # __rb_parent_color
    has_left: NDArray[np.bool_]  # the pointer is not NULL, whether or not it could be followed
    has_right: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class MapleNodes:
    """Every maple node reached, one row each; slot-wise arrays have as many columns as the widest type.

    ``low`` and ``high`` are the inclusive index range the parent gives the node. ``end`` is the last used
    slot. ``pivots[i]`` is the inclusive maximum of slot i (the node's own maximum for the last).
    """

    mm: NDArray[np.uint64]
    address: NDArray[np.uint64]
    kind: NDArray[np.uint8]  # enum maple_type
    leaf: NDArray[np.bool_]
    gapped: NDArray[np.bool_]  # of the type that records gaps
    parent: NDArray[np.int64]  # row of the parent, -1 for a root
    parent_slot: NDArray[np.int64]
    parent_word: NDArray[np.uint64]
    expected_parent: NDArray[np.uint64]
    depth: NDArray[np.int64]  # 1 for a root
    low: NDArray[np.uint64]
    high: NDArray[np.uint64]
    end: NDArray[np.int64]
    capacity: NDArray[np.int64]  # slots a node of this kind has
    slots: NDArray[np.uint64]
    pivots: NDArray[np.uint64]  # logical: what bounds the slots
    raw_pivots: NDArray[np.uint64]
    gaps: NDArray[np.uint64]  # arange nodes only
    gap_slot: NDArray[np.int64]  # meta.gap
    slot_offset: NDArray[np.int64]  # bytes into the node

    @classmethod
    def empty(cls) -> MapleNodes:
        """No nodes."""
        u, i = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        wide = np.zeros((0, 1), np.uint64)
        return cls(
            mm=u, address=u, kind=np.zeros(0, np.uint8), leaf=np.zeros(0, np.bool_),
            gapped=np.zeros(0, np.bool_), parent=i,
            parent_slot=i, parent_word=u, expected_parent=u, depth=i, low=u, high=u, end=i, capacity=i,
            slots=wide, pivots=wide, raw_pivots=wide, gaps=wide, gap_slot=i, slot_offset=i,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.address)


class Kind(IntEnum):
    """What a VMA maps, told from its flags, operations and file."""

    UNKNOWN = 0
    ANONYMOUS = 1
    FILE = 2
    SHARED_MEMORY = 3
    HUGETLB = 4
    DEVICE = 5  # device memory or raw page frames
    SPECIAL = 6  # vdso, vvar, uprobes

    @property
    def label(self) -> str:
        """The kind in words."""
        return ("unknown", "anonymous", "file", "shared memory", "hugetlb", "device", "special")[self]


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


class ProblemLog:
    """Collects problem rows, a batch at a time."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.void]] = []

    def add(
        self,
        view: View,
        problem: Problem,
        mm: NDArray[np.uint64] | int,
        where: NDArray[np.uint64] | int,
        value: NDArray[np.uint64] | int = 0,
    ) -> None:
        """Add one row per element; scalars are repeated."""
        mm_, where_, value_ = np.broadcast_arrays(
            *(np.atleast_1d(np.asarray(item, np.uint64)) for item in (mm, where, value))
        )
        rows = np.zeros(len(where_), PROBLEMS)
        rows["view"], rows["problem"] = view, problem
        rows["mm"], rows["where"], rows["value"] = mm_, where_, value_
        if len(rows):
            self._parts.append(rows)

    def met(self, view: View) -> bool:
        """Has ``view`` met any problem so far?"""
        return any((rows["view"] == view).any() for rows in self._parts)

    def table(self) -> NDArray[np.void]:
        """All rows, sorted; dtype ``PROBLEMS``."""
        if not self._parts:
            return np.zeros(0, PROBLEMS)
        rows = np.concatenate(self._parts)
        return np.sort(rows, order=["view", "mm", "where", "problem"])


def kernel_pointer(values: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Can each value be an address in the kernel half? (57 bits at most: Intel SDM vol. 1, 3.3.7.1)"""
    return values >= np.uint64(0xFF000000_00000000)


def union_of(views: list[NDArray[np.void]]) -> NDArray[np.void]:
    """Rows of several views (dtype ``REGIONS``) with each (mm, VMA) kept once, sorted by mm and start."""
    rows = np.concatenate(views) if views else np.zeros(0, REGIONS)
    rows = rows[np.lexsort((rows["vma"], rows["start"], rows["mm"]))]
    first = np.ones(len(rows), np.bool_)
    first[1:] = (rows["mm"][1:] != rows["mm"][:-1]) | (rows["vma"][1:] != rows["vma"][:-1])
    return rows[first]
