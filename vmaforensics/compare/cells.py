"""What the records outside of the memory map's own indices say of areas: a cell for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import rows_of
from vmaforensics.compare.side_by_side import Cell
from vmaforensics.views.anchors.anchors import AUXV
from vmaforensics.views.slab.caches import ObjectKind
from vmaforensics.views.slab.objects import State

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.views.reverse_maps.reverse_maps import RmapView
    from vmaforensics.views.slab.objects import SlabView
    from vmaforensics.views.slab.strays import StrayVmas
    from vmaforensics.views.views import Views
    from vmaforensics.views.vmas.vmas import Vmas

_NOTHING = Cell(state="none")
REMEMBERED = (
    "start_code",
    "start_data",
    "start_brk",
    "start_stack",
    "arg_start",
    "env_start",
    "vdso",
)
_MOST = 3  # anchors named in a cell


def slab_cells(slab: SlabView, strays: StrayVmas | None, vmas: Vmas) -> list[Cell]:
    """What the allocator says of each ``vm_area_struct``; the address is that of its slab's struct page."""
    states = slab.states(vmas.vma, ObjectKind.VMA).tolist()
    pages = slab.slab_pages(vmas.vma, ObjectKind.VMA).tolist()
    foreign = np.isin(vmas.vma, strays.foreign if strays is not None else []).tolist()
    cells = []
    for state, where, outside in zip(states, pages, foreign, strict=True):
        if state == State.ALLOCATED:
            cells.append(Cell(state="held", address=hex(where)))
        elif state == State.FREE:
            cells.append(Cell(state="missing", address=hex(where), note="(free)"))
        elif outside:
            cells.append(Cell(state="missing", note="(outside the cache)"))
        else:
            cells.append(Cell(state="unread"))
    return cells


def file_cells(rmap: RmapView, vmas: Vmas) -> list[Cell]:
    """The node of each area in an ``i_mmap`` tree; missing if it hangs in another file's, or in none."""
    order = np.argsort(rmap.file_nodes["vma"], kind="stable")
    nodes = rmap.file_nodes[order]
    node = rows_of(nodes["vma"], vmas["vma"])
    area = rmap.vma_rows(vmas["vma"])
    mapping = np.where(area >= 0, rmap.mapping[area], np.uint64(0)) if len(rmap.mapping) else vmas["vma"] * 0
    tree = rows_of(rmap.mappings["mapping"], mapping)
    whole = np.where(tree >= 0, rmap.mappings["whole"][tree], False) if len(rmap.mappings) else tree >= 0
    cells = []
    columns = (node.tolist(), mapping.tolist(), whole.tolist(), (vmas["file"] != 0).tolist())
    for at, own, read, has_file in zip(*columns, strict=True):
        if at < 0:
            cells.append(_NOTHING if not has_file else Cell(state="missing" if read else "unread"))
        elif (own and int(nodes["tree"][at]) != own) or not has_file:
            note = f"in that of {int(nodes['tree'][at]):#x}"
            cells.append(Cell(state="missing", address=hex(int(nodes["node"][at])), note=note))
        else:
            cells.append(Cell(state="held", address=hex(int(nodes["node"][at]))))
    return cells


def anon_cells(rmap: RmapView, vmas: Vmas) -> list[Cell]:
    """The anon_vma_chain that links each area with its own anon_vma, and how many links it has."""
    area = rmap.vma_rows(vmas["vma"])
    own = rmap.anon_nodes["tree"] == _anon_vma(rmap, rmap.anon_nodes["vma"])
    nodes = rmap.anon_nodes[own]
    nodes = nodes[np.argsort(nodes["vma"], kind="stable")]
    node = rows_of(nodes["vma"], vmas["vma"])
    linked, count = np.unique(rmap.chains["vma"], return_counts=True)
    link = rows_of(linked, vmas["vma"])
    links = np.where(link >= 0, count[link], 0) if len(linked) else np.zeros(len(vmas), np.int64)
    tree = rows_of(rmap.anon_vmas["anon_vma"], vmas["anon_vma"])
    whole = np.where(tree >= 0, rmap.anon_vmas["whole"][tree], False) if len(rmap.anon_vmas) else tree >= 0
    cut = np.where(area >= 0, rmap.chain_cut[area], True) if len(rmap.chain_cut) else np.ones(len(vmas), np.bool_)
    cells = []
    columns = (node.tolist(), links.tolist(), (vmas["anon_vma"] != 0).tolist(), (whole & ~cut).tolist())
    for at, number, has_anon, read in zip(*columns, strict=True):
        note = f"and {number - 1} more" if number > 1 else ""
        if at >= 0 and has_anon:
            cells.append(Cell(state="held", address=hex(int(nodes["item"][at])), note=note))
        elif has_anon:
            cells.append(Cell(state="missing" if read else "unread"))
        else:
            cells.append(Cell(state="missing", note=f"({number} links)") if number else _NOTHING)
    return cells


def _anon_vma(rmap: RmapView, vmas: NDArray[np.uint64]) -> NDArray[np.uint64]:
    row = rmap.vma_rows(vmas)
    if not len(rmap.vmas):
        return np.zeros(len(row), np.uint64)
    return np.where(row >= 0, rmap.vmas["anon_vma"][row], np.uint64(0))


def anchor_cells(views: Views, mm: int, start: NDArray[np.uint64], end: NDArray[np.uint64]) -> list[Cell]:
    """Addresses that the kernel remembers of the process and that lie in each range."""
    named = list(_anchors(views, mm))
    values = np.array([value for _, value in named], np.uint64)
    cells = []
    for low, high in zip(start.tolist(), end.tolist(), strict=True):
        inside = np.flatnonzero((values >= np.uint64(low)) & (values < np.uint64(high))).tolist()
        told = list(dict.fromkeys(named[at][0] for at in inside))
        more = f" +{len(told) - _MOST}" if len(told) > _MOST else ""
        cells.append(Cell(state="held", note=" ".join(told[:_MOST]) + more) if told else _NOTHING)
    return cells


def _anchors(views: Views, mm: int) -> list[tuple[str, int]]:
    """(name, user address) of each anchor of ``mm`` that is set."""
    assert views.anchors is not None
    anchors = views.anchors
    threads = anchors.threads[(anchors.threads["mm"] == np.uint64(mm)) & anchors.threads["user"]]
    named = [(name, int(value)) for name, column in (("RIP", "ip"), ("RSP", "sp")) for value in threads[column]]
    row = int(views.mm_rows(np.array([mm], np.uint64))[0])
    if row >= 0:
        named += [(name, int(views.mms[name][row])) for name in REMEMBERED]
        named += [(f"AT_{name.upper()}", int(anchors.mms[name][row])) for name in AUXV]
    return [(name, value) for name, value in named if value]
