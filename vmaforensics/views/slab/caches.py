"""Slab caches of address-space objects: where their objects lie in a slab, and how their free lists are encoded.

Caches may be merged; two kinds of object then share a cache, and a cache may hold objects of no kind we know.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import first_rows
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I64, U8, U64
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.arch.interface import Architecture
    from vmaforensics.kernel.kernel import Kernel

_OO_SHIFT = np.uint64(16)  # OO_SHIFT, mm/slub.c: order above, objects below
_OO_MASK = np.uint64((1 << 16) - 1)
_POINTER = np.uint64(8)


class ObjectKind(IntEnum):
    """What the objects of a cache are."""

    VMA = 0
    MM = 1
    MAPLE_NODE = 2
    ANON_VMA = 3
    ANON_VMA_CHAIN = 4
    TASK = 5

    @property
    def struct(self) -> str:
        """The C type."""
        return ("vm_area_struct", "mm_struct", "maple_node", "anon_vma", "anon_vma_chain", "task_struct")[self]

    @property
    def symbol(self) -> str:
        """The variable that points to the cache."""
        return (
            "vm_area_cachep",
            "mm_cachep",
            "maple_node_cache",
            "anon_vma_cachep",
            "anon_vma_chain_cachep",
            "task_struct_cachep",
        )[self]


@table(struct="kmem_cache")
class Caches(Table):
    """The cache of each kind of object that the kernel has one for, by kind (mm/slab.h, struct kmem_cache)."""

    kind: U8  # ObjectKind
    cache: U64  # address of the kmem_cache; merged kinds have the same
    size: U64 = member("size")  # bytes from one object to the next
    pad: U64 = member("red_left_pad?")  # bytes before the first object
    offset: U64 = member("offset")  # of the free pointer within a free object
    random: U64 = member("random?")  # what free pointers are hidden with; 0 without CONFIG_SLAB_FREELIST_HARDENED
    oo: U64 = member("oo.x")  # order of the slabs, and how many objects each has
    capacity: U64 = member("sheaf_capacity?")  # objects of a sheaf; 0 for none
    cpu_slab: U64 = member("cpu_slab?")  # per-CPU pointers, 0 for none
    cpu_sheaves: U64 = member("cpu_sheaves?")
    users: I64 = member("refcount")  # how many kinds of objects were merged into it

    def most(self, arch: Architecture) -> U64:
        """Objects that a slab of each cache can have."""
        order = np.minimum(self.oo >> _OO_SHIFT, np.uint64(arch.max_order))
        fits = (np.uint64(arch.page_size) << order) // np.maximum(self.size, np.uint64(1))
        most: U64 = np.minimum(self.oo & _OO_MASK, fits)
        return most

    def distinct(self) -> Caches:
        """One row for each kmem_cache, by address: merged kinds share one."""
        return self.take(first_rows(self.cache))


def read_caches(kernel: Kernel, log: ProblemLog) -> Caches:
    """The caches that could be read and believed.

    Kernels without the structure or symbols get a line in ``identity.problems``. What is wrong with a cache is a
    problem of the view ``SLAB``: ``BAD_TAG`` where no object of the kind would fit into the size it states.
    """
    if kernel.types.struct("kmem_cache") is None or not kernel.has("kmem_cache", "oo.x"):
        kernel.identity.problems.append("no struct kmem_cache as we know it: slab objects are not looked at")
        return Caches.zeros(0)
    symbols = {
        kind: kernel.symbols.get(kind.symbol) for kind in ObjectKind if kernel.types.struct(kind.struct) is not None
    }
    missing = [kind.symbol for kind, at in symbols.items() if at is None]
    if missing:
        kernel.identity.problems.append(f"no symbol {', '.join(missing)}: those slab objects are not looked at")
    known = {kind: at for kind, at in symbols.items() if at is not None}
    where = np.array(list(known.values()), np.uint64)
    words, found = kernel.words(where, 1)
    rows, read = kernel.gather(Caches, words[:, 0])
    rows.kind[:] = list(known)
    rows.cache[:] = words[:, 0]
    log.add(View.SLAB, Problem.UNREADABLE, 0, where[~found])
    log.add(View.SLAB, Problem.UNREADABLE, 0, rows.cache[found & ~read])
    least = np.array([_least(kernel, kind) for kind in known], np.uint64)
    sane = (rows.size >= least) & (rows.offset + _POINTER <= rows.size) & (rows.most(kernel.arch) > 0)
    log.add(View.SLAB, Problem.BAD_TAG, 0, rows.cache[read & ~sane], rows.size[read & ~sane])
    return rows.take(found & read & sane)


def _least(kernel: Kernel, kind: ObjectKind) -> int:
    """Bytes an object has at least: task_struct ends with as much FPU state as the CPU has
    (arch_task_struct_size, include/linux/sched/task.h), so less than its type says."""
    if kind is ObjectKind.TASK and kernel.has("task_struct", "thread"):
        return kernel.offset("task_struct", "thread")
    return kernel.sizeof(kind.struct)
