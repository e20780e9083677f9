"""Areas of vmalloc, by what allocated them (mm/vmalloc.c, /proc/vmallocinfo)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.columns.ragged import sum_by
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I64, U32, U64
from vmaforensics.views.objects.vmalloc import tree_roots

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

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


@table(struct="vm_struct")
class Areas(Table):
    """Areas in use."""

    addr: U64 = member("addr")
    size: U64 = member("size")  # bytes, with the page behind it that guards it
    caller: U64 = member("caller")


class VmallocUse(NamedTuple):
    """Pages of each caller, those with most first."""

    callers: U64  # address behind the call
    pages: I64
    areas: I64
    whole: bool


def read_vmalloc_use(kernel: Kernel) -> VmallocUse | None:
    """Who allocated how many pages; None where the kernel's trees of areas are not known."""
    roots = np.array(tree_roots(kernel), np.uint64)
    if not len(roots) or not kernel.has("vmap_area", "vm") or kernel.types.struct("vm_struct") is None:
        return None
    vm, whole = _walk(kernel, roots)
    areas, read = kernel.gather(_Areas, np.unique(vm[kernel.arch.kernel_pointer(vm)]))
    areas = areas.take(read & (areas.pages != 0))
    callers, which = np.unique(areas.caller, return_inverse=True)
    pages = sum_by(which, areas.pages, len(callers))
    order = np.argsort(-pages, kind="stable")
    count = sum_by(which, np.ones(len(which)), len(callers))
    return VmallocUse(callers[order], pages[order], count[order], whole and bool(read.all()))


def read_areas(kernel: Kernel) -> Areas:
    """Every area that somebody asked for; none where the kernel's trees of them are not known."""
    roots = np.array(tree_roots(kernel), np.uint64)
    if not len(roots) or not kernel.has("vmap_area", "vm") or kernel.types.struct("vm_struct") is None:
        return Areas.zeros(0)
    vm, _ = _walk(kernel, roots)
    areas, read = kernel.gather(Areas, np.unique(vm[kernel.arch.kernel_pointer(vm)]))
    return areas.take(read)


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
