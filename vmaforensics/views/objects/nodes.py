"""The tree that single maple nodes belong to: up by their parents, and confirmed by the tree itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import U64, Bools
from vmaforensics.views.objects.maps import read_map

if TYPE_CHECKING:
    from vmaforensics.views.objects.surroundings import Surroundings

_DEPTH = 31  # MAPLE_HEIGHT_MAX
_ROOT_PARENT = np.uint64(1)  # MA_ROOT_PARENT, lib/maple_tree.c


@table()
class NodePlaces(Table):
    """A row for each maple node asked about."""

    mm: U64  # address of the mm_struct whose tree its parents lead to; 0: to none
    met: Bools  # the tree leads to it
    leaf: Bools
    low: U64  # first and last index that the tree gives it
    high: U64


def find_nodes(surroundings: Surroundings, addresses: U64) -> NodePlaces:
    """Where in which tree each ``maple_node`` is; trees other than those of memory maps are not known."""
    found = NodePlaces.zeros(len(addresses))
    kernel = surroundings.kernel
    if not kernel.has("mm_struct", "mm_mt"):
        return found
    mask = np.uint64(kernel.sizeof("maple_node") - 1)
    tree_at = np.uint64(kernel.offset("mm_struct", "mm_mt"))
    at, row = addresses, np.arange(len(addresses))
    for _ in range(_DEPTH):
        words, ok = kernel.words(at, 1)
        parent = words[:, 0]
        root = ok & ((parent & _ROOT_PARENT) != 0)
        with np.errstate(over="ignore"):
            found.mm[row[root]] = ((parent & ~_ROOT_PARENT) - tree_at)[root]
        above = parent & ~mask
        on = ok & ~root & kernel.arch.kernel_pointer(parent) & (above != at)
        at, row = above[on], row[on]
        if not len(at):
            break
    for mm in distinct(found.mm[found.mm != 0]).tolist():
        nodes = read_map(surroundings, mm).nodes
        if nodes is None or not len(nodes):
            continue
        mine = np.flatnonzero(found.mm == np.uint64(mm))
        order = np.argsort(nodes.address, kind="stable")
        place = np.minimum(np.searchsorted(nodes.address[order], addresses[mine]), len(order) - 1)
        node = order[place]
        hit = nodes.address[node] == addresses[mine]
        mine, node = mine[hit], node[hit]
        found.met[mine], found.leaf[mine] = True, nodes.leaf[node]
        found.low[mine], found.high[mine] = nodes.low[node], nodes.high[node]
    return found
