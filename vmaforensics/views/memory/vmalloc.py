"""Areas of vmalloc, by what allocated them (mm/vmalloc.c, /proc/vmallocinfo)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.columns.ragged import sum_by
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I64, U32, U64
from vmaforensics.views.objects.vmalloc import area_nodes, tree_roots

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel


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
    if not tree_roots(kernel) or not kernel.has("vmap_area", "vm") or kernel.types.struct("vm_struct") is None:
        return None
    nodes, whole = area_nodes(kernel)
    areas, read = kernel.gather(_Areas, distinct(nodes.vm[kernel.arch.kernel_pointer(nodes.vm)]))
    areas = areas.take(read & (areas.pages != 0))
    callers, which = np.unique(areas.caller, return_inverse=True)
    pages = sum_by(which, areas.pages, len(callers))
    order = np.argsort(-pages, kind="stable")
    count = sum_by(which, np.ones(len(which)), len(callers))
    return VmallocUse(callers[order], pages[order], count[order], whole and bool(read.all()))
