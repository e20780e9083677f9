"""Areas of vmalloc, by what allocated them (mm/vmalloc.c, /proc/vmallocinfo)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.columns.ragged import sum_by
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I64, U32, U64

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_MOST_NODES: Final = 1 << 10  # vmap_nodes
_DEEPEST: Final = 127  # of a red-black tree with 2**64 nodes
_MOST_AREAS: Final = 1 << 22


@table(struct="vmap_area")
class _Nodes(Table):
    vm: U64 = member("vm")
    left: U64 = member("rb_node.rb_left")
    right: U64 = member("rb_node.rb_right")


@table(struct="vm_struct")
class _Areas(Table):
    pages: U32 = member("nr_pages")
    caller: U64 = member("caller")


class VmallocUse(NamedTuple):
    """Pages of each caller, those with most first."""

    callers: U64  # address behind the call
    pages: I64
    areas: I64
    whole: bool


def read_vmalloc_use(kernel: Kernel) -> VmallocUse | None:
    """Who allocated how many pages; None where the kernel's trees of areas are not known."""
    roots = _roots(kernel)
    if roots is None or not kernel.has("vmap_area", "vm") or kernel.types.struct("vm_struct") is None:
        return None
    vm, whole = _walk(kernel, roots)
    areas, read = kernel.gather(_Areas, np.unique(vm[kernel.arch.kernel_pointer(vm)]))
    areas = areas.take(read & (areas.pages != 0))
    callers, which = np.unique(areas.caller, return_inverse=True)
    pages = sum_by(which, areas.pages, len(callers))
    order = np.argsort(-pages, kind="stable")
    count = sum_by(which, np.ones(len(which)), len(callers))
    return VmallocUse(callers[order], pages[order], count[order], whole and bool(read.all()))


def _roots(kernel: Kernel) -> U64 | None:
    """The first node of each tree of areas that are in use: of one, or of one for each vmap_node (since 6.9)."""
    one = kernel.symbols.get("vmap_area_root")
    if one is not None:
        words, ok = kernel.words(np.array([one], np.uint64), 1)
        return words[0] if ok[0] else None
    nodes, count = kernel.variable("vmap_nodes", 8), kernel.variable("nr_vmap_nodes", 4)
    if not nodes or not count or not kernel.has("vmap_node", "busy.root.rb_node"):
        return None
    places = np.arange(min(count, _MOST_NODES), dtype=np.uint64) * np.uint64(kernel.sizeof("vmap_node"))
    with np.errstate(over="ignore"):
        roots, ok = kernel.gather_member("vmap_node", "busy.root.rb_node", np.uint64(nodes) + places)
    return roots if ok.all() else None


def _walk(kernel: Kernel, roots: U64) -> tuple[U64, bool]:
    """(the vm_struct of every area in the trees, was everything read?); a level of all trees with each gather."""
    offset = np.uint64(kernel.offset("vmap_area", "rb_node"))
    found, seen = [np.zeros(0, np.uint64)], np.zeros(0, np.uint64)
    frontier, whole = np.unique(roots[roots != 0]), True
    for _ in range(_DEEPEST):
        usable = kernel.arch.kernel_pointer(frontier) & ~np.isin(frontier, seen)
        whole &= bool(usable.all())
        frontier = frontier[usable]
        if not len(frontier) or len(seen) > _MOST_AREAS:
            break
        seen = np.union1d(seen, frontier)
        nodes, ok = kernel.gather(_Nodes, frontier - offset)
        whole &= bool(ok.all())
        nodes = nodes.take(ok)
        found.append(nodes.vm)
        below = np.concatenate([nodes.left, nodes.right])
        frontier = np.unique(below[below != 0])
    return np.concatenate(found), whole and not len(frontier)
