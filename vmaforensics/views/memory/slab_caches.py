"""Every slab cache, and how much memory each takes (mm/slub.c, get_slabinfo)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.columns.ragged import sum_by
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.texts import Texts
from vmaforensics.columns.types import I32, I64, U32, U64, Bools
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.structures.circular_lists import walk_rings

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_OO_SHIFT: Final = np.uint64(16)  # OO_SHIFT: the order is above
_MOST_NODES: Final = 1 << 10
_NAME: Final = 64


@table(struct="kmem_cache")
class SlabCaches(Table):
    """A row is a ``kmem_cache``."""

    cache: U64  # address
    object_size: U32 = member("object_size")  # bytes of an object
    size: U32 = member("size")  # with what is beside it
    oo: U64 = member("oo.x")  # order and objects of a slab
    users: I32 = member("refcount?")  # how many kinds of objects were merged into it
    name_at: U64 = member("name")
    slabs: I64
    objects: I64  # that its slabs have room for: num_objs of /proc/slabinfo
    bytes: I64
    ok: Bools  # False: a node of it could not be read


class SlabUse(NamedTuple):
    """The caches, their names, and whether the list of them was followed to its end."""

    caches: SlabCaches
    names: Texts
    whole: bool


@table(struct="kmem_cache_node")
class _Nodes(Table):
    slabs: I64 = member("nr_slabs.counter")
    objects: I64 = member("total_objects.counter")


def read_slab_use(kernel: Kernel) -> SlabUse | None:
    """The caches by the list ``slab_caches``; None for a kernel without, or without SLUB_DEBUG, which counts slabs."""
    head = kernel.symbols.get("slab_caches")
    if head is None or not kernel.has("kmem_cache_node", "total_objects") or not kernel.has("kmem_cache", "list"):
        return None
    ring = walk_rings(kernel, np.array([head], np.uint64), ProblemLog())
    with np.errstate(over="ignore"):
        addresses = ring.node[(ring.node != head) & ring.read] - np.uint64(kernel.offset("kmem_cache", "list"))
    caches, ok = kernel.gather(SlabCaches, addresses)
    caches.cache[:] = addresses
    caches.ok[:] = ok
    _count(kernel, caches)
    names = [name or b"?" for name in kernel.strings(caches.name_at, _NAME)]
    return SlabUse(caches, Texts.of(names), ring.whole and bool(caches.ok.all()))


def _count(kernel: Kernel, caches: SlabCaches) -> None:
    """Add up the nodes of each cache."""
    pointers, ok = _node_pointers(kernel, caches.cache)
    caches.ok[~ok] = False
    row, place = np.nonzero(kernel.arch.kernel_pointer(pointers))
    nodes, read = kernel.gather(_Nodes, pointers[row, place])
    caches.ok[row[~read]] = False
    sane = read & (nodes.slabs >= 0) & (nodes.objects >= 0) & (nodes.slabs < 1 << 40) & (nodes.objects < 1 << 48)
    caches.ok[row[~sane]] = False
    row, nodes = row[sane], nodes.take(sane)
    caches.slabs[:] = sum_by(row, nodes.slabs, len(caches))
    caches.objects[:] = sum_by(row, nodes.objects, len(caches))
    order = np.minimum(caches.oo >> _OO_SHIFT, np.uint64(kernel.arch.max_order)).astype(np.int64)
    caches.bytes[:] = caches.slabs * kernel.arch.page_size << order


def _node_pointers(kernel: Kernel, caches: U64) -> tuple[U64, Bools]:
    """Pointers to the kmem_cache_node of each memory node, shape (caches, nodes)."""
    count = min(max(kernel.variable("nr_node_ids", 4) or 1, 1), _MOST_NODES)
    if kernel.has("kmem_cache", "node"):
        at, step = kernel.offset("kmem_cache", "node"), 1
    elif kernel.has("kmem_cache", "per_node") and kernel.has("kmem_cache_per_node_ptrs", "node"):  # since 7.2
        at = kernel.offset("kmem_cache", "per_node") + kernel.offset("kmem_cache_per_node_ptrs", "node")
        step = kernel.sizeof("kmem_cache_per_node_ptrs") // 8
    else:
        return np.zeros((len(caches), 0), np.uint64), np.zeros(len(caches), np.bool_)
    with np.errstate(over="ignore"):
        words, ok = kernel.words(caches + np.uint64(at), step * (count - 1) + 1)
    return words[:, ::step], ok
