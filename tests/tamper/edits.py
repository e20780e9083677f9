"""Labelled edits: each changes words of a clean image's memory as one technique would, and says what it did.

Edits are made on an :class:`Overlay`; the image file is never changed. They work on any kernel that has the
structures, by member name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.analysis import Analysis, analyse_image
from vmaforensics.checks.finding import Severity
from vmaforensics.image.overlay import Overlay
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

WORD = 1 << 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What an edit did, to be compared with what is found."""

    technique: str
    pid: int
    start: int
    end: int
    rank: Severity = Severity.HIGH  # that a finding must have at least; lower for what leaves a legal state


class Bench:
    """A clean analysis, an overlay to edit, and the words of kernel structures by name."""

    def __init__(self, clean: Analysis) -> None:
        self.clean = clean
        self.kernel = clean.kernel
        self.views = clean.views
        self.overlay = Overlay(clean.image.memory)

    def put(self, address: int, value: int, size: int = 8) -> None:
        """Write an integer at a kernel address."""
        pa, _, mapped = self.kernel.space.translate(np.array([address], np.uint64))
        assert mapped[0], hex(address)
        self.overlay.write(int(pa[0]), (value % (1 << 8 * size)).to_bytes(size, "little"))

    def get(self, address: int) -> int:
        """The word at a kernel address, edits made so far included."""
        pa, _, mapped = self.kernel.space.translate(np.array([address], np.uint64))
        assert mapped[0], hex(address)
        return int.from_bytes(self.overlay.read(int(pa[0]), 8), "little")

    def at(self, struct: str, address: int, member: str) -> int:
        """Address of a member."""
        return address + self.kernel.offset(struct, member)

    def drop(self, address: int) -> None:
        """Take the page of a kernel address out of the dump."""
        pa, _, mapped = self.kernel.space.translate(np.array([address], np.uint64))
        assert mapped[0], hex(address)
        self.overlay.drop(int(pa[0]) >> 12)

    def again(self) -> Analysis:
        """Analyse the edited memory."""
        image = self.clean.image
        changed = type(image)(
            **{name: getattr(image, name) for name in image.__dataclass_fields__ if name != "memory"},
            memory=self.overlay,
        )
        return analyse_image(changed)

    def region(self, view: View, pick: Callable[[NDArray[np.void], NDArray[np.void]], NDArray[np.bool_]]) -> np.void:
        """The first row of ``view`` that ``pick(rows, their vmas)`` chooses."""
        rows = self.views.regions()[view]
        vmas = self.views.vmas[self.views.vma_rows(rows["vma"])]
        found = np.flatnonzero(pick(rows, vmas))
        assert len(found), "no region fits this edit"
        return rows[found[0]]

    def vma(self, row: np.void) -> np.void:
        """The decoded VMA of a region."""
        return self.views.vmas[self.views.vma_rows(np.array([row["vma"]], np.uint64))[0]]

    def label(self, technique: str, row: np.void) -> Label:
        """A label for an edit of ``row``."""
        mm = self.views.mms[self.views.mm_rows(np.array([row["mm"]], np.uint64))[0]]
        vma = self.vma(row)
        return Label(technique=technique, pid=int(mm["pid"]), start=int(vma["start"]), end=int(vma["end"]))

    def repair_counters(self, row: np.void) -> None:
        """Take an area out of every counter, as the kernel's own unmapping would."""
        vma, mm = self.vma(row), int(row["mm"])
        pages = int(vma["end"] - vma["start"]) >> 12
        vm_flags = int(vma["flags"])
        amounts = {"map_count": 1, "total_vm": pages}
        if vm_flags & (flags.VM_EXEC | flags.VM_WRITE | flags.VM_GROWSDOWN) == flags.VM_EXEC:
            amounts["exec_vm"] = pages
        elif vm_flags & flags.VM_GROWSDOWN:
            amounts["stack_vm"] = pages
        elif vm_flags & (flags.VM_WRITE | flags.VM_SHARED) == flags.VM_WRITE:
            amounts["data_vm"] = pages
        for name, amount in amounts.items():
            size = self.kernel.member("mm_struct", name).size
            where = self.at("mm_struct", mm, name)
            old = self.get(where) % (1 << 8 * size)
            self.put(where, old - amount, size)


def executable_file(rows: NDArray[np.void], vmas: NDArray[np.void]) -> NDArray[np.bool_]:
    """Executable areas of files that have an area before and after them in the same address space."""
    fits = (vmas["file"] != 0) & ((vmas["flags"] & np.uint64(flags.VM_EXEC)) != 0)
    inside = np.zeros(len(rows), np.bool_)
    inside[1:-1] = (rows["mm"][:-2] == rows["mm"][1:-1]) & (rows["mm"][2:] == rows["mm"][1:-1])
    between = np.zeros(len(rows), np.bool_)
    between[1:-1] = (vmas["end"][:-2] == vmas["start"][1:-1]) & (vmas["start"][2:] == vmas["end"][1:-1])
    return fits & inside & between


# Maple tree, 6.1 and later --------------------------------------------------------------------------


def maple_slot_zeroed(bench: Bench, *, repaired: bool = False) -> Label:
    """The leaf slot of an executable area set to NULL, nothing else."""
    row = bench.region(View.MAPLE, executable_file)
    bench.put(int(row["slot"]), 0)
    if repaired:
        bench.repair_counters(row)
    return bench.label("slot zeroed" + (", counters repaired" if repaired else ""), row)


def maple_root_emptied(bench: Bench) -> Label:
    """``ma_root`` set to NULL."""
    row = bench.region(View.MAPLE, executable_file)
    bench.put(bench.at("mm_struct", int(row["mm"]), "mm_mt.ma_root"), 0)
    return bench.label("root emptied", row)


def bounds_shrunk(bench: Bench) -> Label:
    """``vm_end`` of an executable area moved down by a page."""
    index = View.MAPLE if View.MAPLE in bench.views.regions() else View.LIST
    row = bench.region(index, lambda rows, vmas: executable_file(rows, vmas) & (vmas["end"] - vmas["start"] > 8192))
    end = bench.at("vm_area_struct", int(row["vma"]), "vm_end")
    bench.put(end, bench.get(end) - 4096)
    return bench.label("bounds shrunk", row)


def _node_of(bench: Bench, *, leaf: bool) -> int:
    """Row of a maple node that is not a root, in the tree of the process with most areas."""
    nodes = bench.views.maple_nodes
    mm = np.bincount(bench.views.mm_rows(nodes.mm)).argmax()
    mine = nodes.mm == bench.views.mms["mm"][mm]
    found = np.flatnonzero(mine & (nodes.leaf == leaf) & (nodes.parent >= 0))
    return int(found[len(found) // 2])


def _node_label(bench: Bench, technique: str, node: int) -> Label:
    nodes = bench.views.maple_nodes
    mm = bench.views.mms[bench.views.mm_rows(nodes.mm[node : node + 1])[0]]
    return Label(technique=technique, pid=int(mm["pid"]), start=int(nodes.low[node]), end=int(nodes.high[node]) + 1)


def maple_node_self_pointing(bench: Bench) -> Label:
    """A slot of an inner node that leads to the node itself."""
    nodes = bench.views.maple_nodes
    node = _node_of(bench, leaf=False)
    own = int(nodes.slots[nodes.parent[node], nodes.parent_slot[node]])
    bench.put(int(nodes.address[node]) + int(nodes.slot_offset[node]), own)
    return _node_label(bench, "self-pointing node", node)


def maple_parent_junk(bench: Bench) -> Label:
    """The parent word of a leaf overwritten."""
    node = _node_of(bench, leaf=True)
    bench.put(int(bench.views.maple_nodes.address[node]), 0xFFFF_8880_DEAD_BE06)
    return _node_label(bench, "parent junk", node)


def maple_dead_node(bench: Bench) -> Label:
    """A leaf marked dead while its parent still leads to it."""
    node = _node_of(bench, leaf=True)
    address = int(bench.views.maple_nodes.address[node])
    bench.put(address, address)
    return _node_label(bench, "dead node", node)


def maple_pivot_moved(bench: Bench) -> Label:
    """The pivot of a leaf's second slot moved up by a page."""
    node = _node_of(bench, leaf=True)
    address = int(bench.views.maple_nodes.address[node])
    pivot = bench.at("maple_range_64", address, "pivot") + 8
    bench.put(pivot, bench.get(pivot) + 4096)
    return _node_label(bench, "pivot moved", node)


def maple_gap_edited(bench: Bench) -> Label:
    """A gap recorded in an inner node set to 0."""
    nodes = bench.views.maple_nodes
    low = bench.kernel.offset("maple_arange_64", "gap")
    mine = np.flatnonzero((nodes.parent >= 0) & nodes.leaf)
    recorded = nodes.gaps[nodes.parent[mine], nodes.parent_slot[mine]]
    node = int(mine[recorded > 0][0])
    bench.put(int(nodes.address[nodes.parent[node]]) + low + 8 * int(nodes.parent_slot[node]), 0)
    return _node_label(bench, "gap edited", node)


def maple_foreign_vma(bench: Bench) -> Label:
    """A slot that leads to an area of another process."""
    row = bench.region(View.MAPLE, executable_file)
    rows = bench.views.regions()[View.MAPLE]
    bench.put(int(row["slot"]), int(rows["vma"][rows["mm"] != row["mm"]][-1]))
    return bench.label("foreign VMA in a slot", row)


# List and red-black tree, up to 6.0 --------------------------------------------------------------------


def list_only(bench: Bench, *, repaired: bool = False) -> Label:
    """An area unlinked from the ``vm_next`` list in both directions; the tree still has it."""
    row = bench.region(View.LIST, executable_file)
    vma = bench.vma(row)
    bench.put(bench.at("vm_area_struct", int(vma["prev"]), "vm_next"), int(vma["next"]))
    bench.put(bench.at("vm_area_struct", int(vma["next"]), "vm_prev"), int(vma["prev"]))
    if repaired:
        bench.repair_counters(row)
    return bench.label("list only" + (", counters repaired" if repaired else ""), row)


def tree_only(bench: Bench, *, repaired: bool = False) -> Label:
    """A leaf of the red-black tree cut off; the list still has the area."""
    nodes = bench.views.rb_nodes
    assert nodes is not None
    childless = ~nodes.has_left & ~nodes.has_right & (nodes.parent >= 0)

    def pick(rows: NDArray[np.void], vmas: NDArray[np.void]) -> NDArray[np.bool_]:
        return childless & ((vmas["flags"] & np.uint64(flags.VM_EXEC)) != 0) & (vmas["file"] != 0)

    row = bench.region(View.RBTREE, pick)
    bench.put(int(row["slot"]), 0)
    if repaired:
        bench.repair_counters(row)
    return bench.label("tree only" + (", counters repaired" if repaired else ""), row)


def list_cycle(bench: Bench) -> Label:
    """The list's last element leads back to its first."""
    rows = bench.views.regions()[View.LIST]
    mine = rows[rows["mm"] == rows["mm"][0]]
    bench.put(bench.at("vm_area_struct", int(mine["vma"][-1]), "vm_next"), int(mine["vma"][0]))
    return bench.label("list cycle", mine[-1])


def tree_cycle(bench: Bench) -> Label:
    """A childless node's left pointer leads to the root."""
    nodes, rows = bench.views.rb_nodes, bench.views.regions()[View.RBTREE]
    assert nodes is not None
    leaf = int(np.flatnonzero(~nodes.has_left & ~nodes.has_right & (nodes.parent >= 0))[0])
    mm = np.uint64(rows["mm"][leaf])
    root = int(nodes.address[(nodes.parent < 0) & (rows["mm"] == mm)][0])
    bench.put(bench.at("vm_area_struct", int(rows["vma"][leaf]), "vm_rb.rb_left"), root)
    return bench.label("tree cycle", rows[leaf])


MAPLE_EDITS: tuple[Callable[[Bench], Label], ...] = (
    maple_slot_zeroed,
    maple_root_emptied,
    bounds_shrunk,
    maple_node_self_pointing,
    maple_parent_junk,
    maple_dead_node,
    maple_pivot_moved,
    maple_gap_edited,
    maple_foreign_vma,
)
LIST_EDITS: tuple[Callable[[Bench], Label], ...] = (list_only, tree_only, list_cycle, tree_cycle, bounds_shrunk)
