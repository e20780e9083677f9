"""Areas of vmalloc space that some addresses lie in (mm/vmalloc.c), by descending the trees of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I64, U64, Bools

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_DEPTH = 127  # of a red-black tree with 2**64 nodes
_MOST_NODES = 1024  # of vmap_nodes; there is one for each CPU, 128 at most
_NONE = np.uint64(0)
_MOST_AREAS = 1 << 22
_RESET_PERMS = np.uint64(0x100)  # VM_FLUSH_RESET_PERMS (include/linux/vmalloc.h), since 5.2


@table(struct="vmap_area")
class AreaNodes(Table):
    """Nodes of a tree of areas that are in use."""

    start: U64 = member("va_start")
    end: U64 = member("va_end")
    vm: U64 = member("vm")
    left: U64 = member("rb_node.rb_left")
    right: U64 = member("rb_node.rb_right")


@table(struct="vm_struct")
class _Areas(Table):
    caller: U64 = member("caller?")  # who asked for it


@table()
class VmallocAreas(Table):
    """The area that each of some addresses lies in; all 0 where it lies in none."""

    start: U64
    end: U64  # behind it, the guard page included
    caller: U64  # instruction behind the call that made it; 0: not known


def find_areas(kernel: Kernel, addresses: U64) -> VmallocAreas:
    """The area of each of ``addresses``: below ``vmap_area_root``, since 6.9 below the roots of all ``vmap_nodes``."""
    found = VmallocAreas.zeros(len(addresses))
    if not kernel.knows("vmap_area", "rb_node.rb_left"):
        return found
    for root in tree_roots(kernel):
        todo = np.flatnonzero(found.end == 0)
        if not len(todo):
            break
        _descend(kernel, root, addresses, todo, found)
    return found


def tree_roots(kernel: Kernel) -> list[int]:
    """Address of the first node of each tree of areas in use: of one, or of one for each vmap_node (since 6.9)."""
    if (single := kernel.symbols.get("vmap_area_root")) is not None:
        words, _ = kernel.words(np.array([single], np.uint64), 1)
        return [int(words[0, 0])]
    array = kernel.variable("vmap_nodes", 8)
    count = kernel.variable("nr_vmap_nodes", 4)
    if array is None or count is None or not kernel.has("vmap_node", "busy.root.rb_node"):
        return []
    at = np.uint64(array) + np.arange(min(count, _MOST_NODES), dtype=np.uint64) * np.uint64(kernel.sizeof("vmap_node"))
    roots, _ = kernel.gather_member("vmap_node", "busy.root.rb_node", at)
    found: list[int] = distinct(roots[roots != 0]).tolist()
    return found


def _descend(kernel: Kernel, root: int, addresses: U64, todo: I64, found: VmallocAreas) -> None:
    """Search one tree for ``addresses[todo]``, a level of it for all at once."""
    link = np.uint64(kernel.offset("vmap_area", "rb_node"))
    at = np.full(len(todo), root, np.uint64)
    for _ in range(_DEPTH):
        on: Bools = kernel.arch.kernel_pointer(at)
        at, todo = at[on], todo[on]
        if not len(at):
            return
        nodes, ok = kernel.gather(AreaNodes, at - link)
        wanted = addresses[todo]
        hit = ok & (nodes.start <= wanted) & (wanted < nodes.end)
        if hit.any():
            vm = np.where(kernel.arch.kernel_pointer(nodes.vm[hit]), nodes.vm[hit], _NONE)
            areas, _ = kernel.gather(_Areas, vm)
            found.start[todo[hit]], found.end[todo[hit]] = nodes.start[hit], nodes.end[hit]
            found.caller[todo[hit]] = areas.caller
        on = ok & ~hit
        at = np.where(wanted < nodes.start, nodes.left, nodes.right)[on]
        todo = todo[on]


@table(struct="vm_struct")
class _Described(Table):
    caller: U64 = member("caller?")
    flags: U64 = member("flags")


@table()
class EveryArea(Table):
    """An area of vmalloc that is in use; by address."""

    start: U64
    end: U64
    caller: U64
    executable: Bools  # its permissions are set back when it is given back (VM_FLUSH_RESET_PERMS): code, or beside code


def all_areas(kernel: Kernel) -> EveryArea:
    """Every area."""
    nodes, _ = area_nodes(kernel)
    nodes = nodes.sort_by(nodes.start)
    areas, ok = kernel.gather(_Described, np.where(kernel.arch.kernel_pointer(nodes.vm), nodes.vm, _NONE))
    return EveryArea(
        start=nodes.start, end=nodes.end, caller=areas.caller, executable=ok & ((areas.flags & _RESET_PERMS) != 0)
    )


def area_nodes(kernel: Kernel) -> tuple[AreaNodes, bool]:
    """(every ``vmap_area`` in use, was everything read?); a level of all trees with each gather."""
    if not kernel.knows("vmap_area", "rb_node.rb_left"):
        return AreaNodes.zeros(0), False
    link = np.uint64(kernel.offset("vmap_area", "rb_node"))
    roots = np.array(tree_roots(kernel), np.uint64)
    frontier, whole = distinct(roots[roots != 0]), True
    seen, parts = np.zeros(0, np.uint64), [AreaNodes.zeros(0)]
    for _ in range(_DEPTH):
        usable = kernel.arch.kernel_pointer(frontier) & ~np.isin(frontier, seen)
        whole &= bool(usable.all())
        frontier = frontier[usable]
        if not len(frontier) or len(seen) > _MOST_AREAS:
            break
        seen = distinct(seen, frontier)
        nodes, ok = kernel.gather(AreaNodes, frontier - link)
        whole &= bool(ok.all())
        parts.append(nodes.take(ok))
        below = np.concatenate([nodes.left[ok], nodes.right[ok]])
        frontier = distinct(below[below != 0])
    return AreaNodes.concatenate(parts), whole and not len(frontier)
