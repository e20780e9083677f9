"""Areas of vmalloc, by what allocated them (mm/vmalloc.c, /proc/vmallocinfo)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.columns.ragged import sum_by
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I64, U32, U64
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.structures.circular_lists import walk_rings

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_MOST_NODES: Final = 1 << 10


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
    """Who allocated how many pages; None where the kernel's lists of areas are not known."""
    heads = _heads(kernel)
    if heads is None or not kernel.has("vmap_area", "vm") or kernel.types.struct("vm_struct") is None:
        return None
    ring = walk_rings(kernel, heads, ProblemLog())
    nodes = np.setdiff1d(ring.node[ring.linked], heads)
    with np.errstate(over="ignore"):
        vm, ok = kernel.gather_member("vmap_area", "vm", nodes - np.uint64(kernel.offset("vmap_area", "list")))
    areas, read = kernel.gather(_Areas, vm[ok & kernel.arch.kernel_pointer(vm)])
    areas = areas.take(read & (areas.pages != 0))
    callers, which = np.unique(areas.caller, return_inverse=True)
    pages = sum_by(which, areas.pages, len(callers))
    order = np.argsort(-pages, kind="stable")
    count = sum_by(which, np.ones(len(which)), len(callers))
    return VmallocUse(callers[order], pages[order], count[order], ring.whole and bool(read.all()))


def _heads(kernel: Kernel) -> U64 | None:
    """The lists of areas that are in use: one, or one for each node (since 6.9)."""
    one = kernel.symbols.get("vmap_area_list")
    if one is not None:
        return np.array([one], np.uint64)
    nodes, count = kernel.variable("vmap_nodes", 8), kernel.variable("nr_vmap_nodes", 4)
    if not nodes or not count or not kernel.has("vmap_node", "busy.head"):
        return None
    places = np.arange(min(count, _MOST_NODES), dtype=np.uint64) * np.uint64(kernel.sizeof("vmap_node"))
    with np.errstate(over="ignore"):
        heads: U64 = np.uint64(nodes) + places + np.uint64(kernel.offset("vmap_node", "busy.head"))
    return heads
