"""Labelled edits of the reverse maps, and of areas in ways that only the reverse maps contradict."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.tamper.edits import Bench, Label, executable_file
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vmaforensics.views.reverse_maps.reverse_maps import RmapView


def _rmap(bench: Bench) -> RmapView:
    assert bench.views.rmap is not None
    return bench.views.rmap


def _index(bench: Bench) -> View:
    return View.MAPLE if View.MAPLE in bench.views.regions() else View.LIST


def _region_of(bench: Bench, vma: int) -> np.void:
    rows = bench.views.regions()[_index(bench)]
    found: np.void = rows[rows["vma"] == np.uint64(vma)][0]
    return found


def _hide(
    bench: Bench, technique: str, pick: Callable[[NDArray[np.void], NDArray[np.void]], NDArray[np.bool_]]
) -> Label:
    """The first area of ``pick`` taken out of every index, counters repaired."""
    if View.MAPLE in bench.views.regions():
        row = bench.region(View.MAPLE, pick)
    else:
        nodes = bench.views.rb_nodes
        assert nodes is not None
        childless = ~nodes.has_left & ~nodes.has_right & (nodes.parent >= 0)
        row = bench.region(
            View.RBTREE,
            lambda rows, vmas: childless & (vmas["prev"] != 0) & (vmas["next"] != 0) & pick(rows, vmas),
        )
        vma = bench.vma(row)
        bench.put(bench.at("vm_area_struct", int(vma["prev"]), "vm_next"), int(vma["next"]))
        bench.put(bench.at("vm_area_struct", int(vma["next"]), "vm_prev"), int(vma["prev"]))
    bench.put(int(row["slot"]), 0)
    bench.repair_counters(row)
    return bench.label(technique, row)


def file_area_hidden(bench: Bench) -> Label:
    """An executable area of a file taken out of every index, counters repaired."""
    return _hide(bench, "file area out of the index, counters repaired", executable_file)


def anon_area_hidden(bench: Bench) -> Label:
    """An anonymous area whose pages another area may map too, taken out of every index, counters repaired."""
    rmap = _rmap(bench)
    trees, count = np.unique(rmap.anon_nodes["tree"], return_counts=True)
    shared = np.isin(rmap.anon_nodes["tree"], trees[count > 1])
    others = rmap.anon_nodes["vma"][shared]

    def pick(rows: NDArray[np.void], vmas: NDArray[np.void]) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = np.isin(vmas["vma"], others) & (vmas["file"] == 0)
        return found

    return _hide(bench, "anonymous area out of the index, counters repaired", pick)


def _cut(bench: Bench, nodes: NDArray[np.void], last: str, struct: str, choice: NDArray[np.bool_], mend: bool) -> int:
    """Cut the first childless node of ``choice`` off its parent; returns its VMA."""
    rmap = _rmap(bench)
    alone = (nodes["left"] < 0) & (nodes["right"] < 0) & (nodes["parent"] >= 0)
    row = int(np.flatnonzero(alone & choice)[0])
    vma = int(nodes["vma"][row])
    bench.put(int(nodes["slot"][row]), 0)
    if mend:
        area = rmap.area_rows(nodes["vma"])
        key = rmap.areas["pgoff" if struct == "vm_area_struct" else "anon_pgoff"][area]
        pages = (rmap.areas["end"][area] - rmap.areas["start"][area]) >> np.uint64(12)
        stored = nodes["last"].astype(np.uint64)
        stored[row] = 0
        up = int(nodes["parent"][row])
        while up >= 0:
            below = [int(stored[one]) for one in (nodes["left"][up], nodes["right"][up]) if one >= 0]
            stored[up] = max([int(key[up] + pages[up]) - 1, *below])
            bench.put(bench.at(struct, int(nodes["item"][up]), last), int(stored[up]))
            up = int(nodes["parent"][up])
    return vma


def file_link_cut(bench: Bench, *, mend: bool = False) -> Label:
    """An area taken out of its file's i_mmap; with ``mend`` its ancestors' rb_subtree_last too."""
    nodes = _rmap(bench).file_nodes
    listed = np.isin(nodes["vma"], bench.views.regions()[_index(bench)]["vma"])
    vma = _cut(bench, nodes, "shared.rb_subtree_last", "vm_area_struct", listed, mend)
    return bench.label("out of i_mmap" + (", last pages mended" if mend else ""), _region_of(bench, vma))


def anon_link_cut(bench: Bench, *, mend: bool = False) -> Label:
    """An area taken out of the tree of its own anon_vma."""
    rmap = _rmap(bench)
    nodes = rmap.anon_nodes
    own = rmap.areas["anon_vma"][rmap.area_rows(nodes["vma"])] == nodes["tree"]
    vma = _cut(bench, nodes, "rb_subtree_last", "anon_vma_chain", own, mend)
    return bench.label("out of the anon_vma tree" + (", last pages mended" if mend else ""), _region_of(bench, vma))


def anon_vma_cleared(bench: Bench) -> Label:
    """``vma->anon_vma`` set to NULL; the chain stays."""
    row = bench.region(_index(bench), lambda rows, vmas: vmas["anon_vma"] != 0)
    bench.put(bench.at("vm_area_struct", int(row["vma"]), "anon_vma"), 0)
    return bench.label("anon_vma cleared", row)


def file_swapped(bench: Bench) -> Label:
    """``vm_file`` of an executable area replaced by a file that another process maps."""
    row = bench.region(_index(bench), executable_file)
    rmap = _rmap(bench)
    own = rmap.mapping[rmap.area_rows(np.array([row["vma"]], np.uint64))[0]]
    others = (rmap.areas["mm"] != row["mm"]) & (rmap.mapping != 0) & (rmap.mapping != own)
    bench.put(bench.at("vm_area_struct", int(row["vma"]), "vm_file"), int(rmap.areas["file"][others][0]))
    return bench.label("vm_file swapped", row)


def file_cleared(bench: Bench) -> Label:
    """``vm_file`` of an executable area set to NULL: it looks anonymous."""
    row = bench.region(_index(bench), executable_file)
    bench.put(bench.at("vm_area_struct", int(row["vma"]), "vm_file"), 0)
    return bench.label("vm_file cleared", row)


def pgoff_moved(bench: Bench) -> Label:
    """``vm_pgoff`` of an executable area moved on by 16 pages."""
    row = bench.region(_index(bench), executable_file)
    where = bench.at("vm_area_struct", int(row["vma"]), "vm_pgoff")
    bench.put(where, bench.get(where) + 16)
    return bench.label("vm_pgoff moved", row)


def pgoff_moved_writable(bench: Bench) -> Label:
    """``vm_pgoff`` of a written area of a file moved on by 16 pages."""
    row = bench.region(
        _index(bench),
        lambda rows, vmas: (
            (vmas["file"] != 0) & (vmas["anon_vma"] != 0) & ((vmas["flags"] & np.uint64(flags.VM_WRITE)) != 0)
        ),
    )
    where = bench.at("vm_area_struct", int(row["vma"]), "vm_pgoff")
    bench.put(where, bench.get(where) + 16)
    return bench.label("vm_pgoff of data moved", row)


def file_link_self_pointing(bench: Bench) -> Label:
    """A childless node of an i_mmap whose left pointer leads to itself."""
    nodes = _rmap(bench).file_nodes
    row = int(np.flatnonzero((nodes["left"] < 0) & (nodes["right"] < 0) & (nodes["parent"] >= 0))[0])
    vma = int(nodes["vma"][row])
    bench.put(bench.at("vm_area_struct", vma, "shared.rb.rb_left"), int(nodes["node"][row]))
    return bench.label("self-pointing i_mmap node", _region_of(bench, vma))


def _mended(edit: Callable[..., Label]) -> Callable[[Bench], Label]:
    def mended(bench: Bench) -> Label:
        return edit(bench, mend=True)

    mended.__name__ = f"{edit.__name__}_mended"
    return mended


RMAP_EDITS: tuple[tuple[Callable[[Bench], Label], str], ...] = (
    (file_area_hidden, "RMAP-FILE-HIDDEN"),
    (anon_area_hidden, "RMAP-ANON-HIDDEN"),
    (file_link_cut, "RMAP-FILE-MISSING"),
    (_mended(file_link_cut), "RMAP-FILE-MISSING"),
    (anon_link_cut, "RMAP-ANON-MISSING"),
    (_mended(anon_link_cut), "RMAP-ANON-MISSING"),
    (anon_vma_cleared, "RMAP-ANON-MISSING"),
    (file_swapped, "RMAP-FILE-MISMATCH"),
    (file_cleared, "RMAP-FILE-MISMATCH"),
    (pgoff_moved, "RMAP-FILE-MISMATCH"),
    (pgoff_moved_writable, "RMAP-FILE-MISMATCH"),
    (file_link_self_pointing, "VMA-LINK"),
)
