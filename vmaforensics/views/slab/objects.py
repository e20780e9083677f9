"""Objects of address spaces by the allocator's account: what is allocated, whether or not anything leads to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.views.slab.free_objects import Slabs, free_objects
from vmaforensics.views.slab.slab_pages import ObjectKind, find_slabs, outside, read_caches
from vmaforensics.views.vmas.files import read_files
from vmaforensics.views.vmas.names import vma_names
from vmaforensics.views.vmas.paths import reader_root
from vmaforensics.views.vmas.vmas import Vmas, classify, read_vmas

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.problems import ProblemLog
    from vmaforensics.views.views import Views

_READERS = 0x3FFFFFFF  # vm_refcnt without VM_REFCNT_EXCLUDE_READERS_FLAG (include/linux/mm_types.h)


class State(IntEnum):
    """What the allocator says of an object."""

    ALLOCATED = 0
    FREE = 1
    UNKNOWN = 2  # a list that may hold it could not be read to its end
    ABSENT = 3  # no object of these caches

    @property
    def text(self) -> str:
        """The state in words."""
        return ("allocated", "free", "allocated or free", "no object of the cache")[self]


OBJECTS = np.dtype(
    [
        ("address", np.uint64),
        ("slab", np.uint64),  # its slab's struct page
        ("cache", np.uint64),  # kmem_cache
        ("state", np.uint8),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlabView:
    """Every object of the caches; see :func:`gather_slab`."""

    caches: NDArray[np.void]  # dtype CACHES, one row per ObjectKind
    slabs: NDArray[np.void]  # dtype SLABS, sorted by base
    objects: NDArray[np.void]  # dtype OBJECTS, sorted by address
    strays: Vmas  # VMA objects, free ones too, that no index view led to
    stray_state: NDArray[np.uint8]  # State of each of strays
    attached: NDArray[np.bool_]  # by its own marks, each of strays is part of a memory map
    names: list[bytes]  # of each of strays, as of Views.names; empty where free
    foreign: NDArray[np.uint64]  # VMAs of the index views that lie in no page of the cache, ascending

    def of(self, kind: ObjectKind) -> NDArray[np.void]:
        """The objects of the cache of ``kind``; others too if the cache is merged."""
        cache = self.caches["cache"][self.caches["kind"] == kind]
        return self.objects[np.isin(self.objects["cache"], cache)]

    def states(self, addresses: NDArray[np.uint64], kind: ObjectKind) -> NDArray[np.uint8]:
        """The :class:`State` of each address as an object of ``kind``."""
        mine = self.of(kind)
        if not len(mine):
            return np.full(len(addresses), State.ABSENT, np.uint8)
        row = np.minimum(np.searchsorted(mine["address"], addresses), len(mine) - 1)
        hit = mine["address"][row] == addresses
        return np.where(hit, mine["state"][row], np.uint8(State.ABSENT)).astype(np.uint8)


def gather_slab(kernel: Kernel, log: ProblemLog) -> SlabView | None:
    """Find every VMA, mm, maple node, anon_vma, AVC and task in its slab cache; None without any cache.

    Memory is proportional to the slab pages found. Problems carry the view ``SLAB`` and no mm. What depends on
    the index views is filled in by :func:`find_strays`.

    >>> slab = gather_slab(kernel, log)
    >>> mms = slab.of(ObjectKind.MM)
    >>> mms["address"][mms["state"] == State.ALLOCATED]
    """
    caches = read_caches(kernel, log)
    if not len(caches):
        return None
    slabs = find_slabs(kernel, caches, log)
    every = Slabs(caches, slabs)
    free, unsure = free_objects(kernel, every, log)
    objects = np.zeros(every.count, OBJECTS)
    objects["address"] = every.addresses()
    objects["slab"] = np.repeat(slabs["page"], slabs["objects"])
    objects["cache"] = np.repeat(slabs["cache"], slabs["objects"])
    objects["state"] = np.where(free, State.FREE, np.where(unsure, State.UNKNOWN, State.ALLOCATED))
    objects = objects[np.argsort(objects["address"], kind="stable")]
    nothing = np.zeros(0, np.uint64)
    return SlabView(
        caches=caches,
        slabs=slabs,
        objects=objects,
        strays=Vmas.zeros(0),
        stray_state=np.zeros(0, np.uint8),
        attached=np.zeros(0, np.bool_),
        names=[],
        foreign=nothing,
    )


def find_strays(kernel: Kernel, views: Views, log: ProblemLog) -> SlabView | None:
    """``views.slab`` with the VMA objects that ``views.vmas`` lacks, and the VMAs that are no objects."""
    if views.slab is None:
        return None
    caches, objects = views.slab.caches, views.slab.objects
    mine = objects[np.isin(objects["cache"], caches["cache"][caches["kind"] == ObjectKind.VMA])]
    mine = mine[~np.isin(mine["address"], views.vmas["vma"])]
    strays = read_vmas(kernel, mine["address"], log)
    attached = _attached(kernel, strays)
    foreign = np.zeros(0, np.uint64)
    if (caches["kind"] == ObjectKind.VMA).any():
        read = views.vmas["vma"][views.vmas["ok"]]
        read = read[~np.isin(read, objects["address"])]
        foreign = read[outside(kernel, read, int(caches["cache"][caches["kind"] == ObjectKind.VMA][0]))]
    live = attached & (mine["state"] != State.FREE)
    return replace(
        views.slab,
        strays=strays,
        stray_state=mine["state"],
        attached=attached,
        names=_names(kernel, views, strays, live, log),
        foreign=foreign,
    )


def _names(kernel: Kernel, views: Views, strays: Vmas, live: NDArray[np.bool_], log: ProblemLog) -> list[bytes]:
    """What /proc/PID/maps would call the live ones. What they point to may long be gone: the rest has none."""
    named = [b""] * len(strays)
    live = live & np.isin(strays["mm"], views.mms["mm"])
    rows = strays.take(live)
    if len(rows):
        files = read_files(kernel, rows["file"], reader_root(kernel, views.tasks), log)
        classify(kernel, rows, files)
        for at, name in zip(np.flatnonzero(live).tolist(), vma_names(kernel, rows, views.mms, files), strict=True):
            named[at] = name
        strays["kind"][live] = rows["kind"]
    return named


def _attached(kernel: Kernel, rows: Vmas) -> NDArray[np.bool_]:
    """Do the marks of the per-VMA locks say that each VMA is in a tree? All of them before 6.4."""
    fine: NDArray[np.bool_] = rows["ok"] & (rows["mm"] != 0) & (rows["start"] < rows["end"])
    fine &= ((rows["start"] | rows["end"]) & np.uint64(4095)) == 0
    fine &= ~rows["detached"]
    if kernel.has("vm_area_struct", "vm_refcnt"):  # 6.15: 0 is detached, mm/mmap_lock.c
        fine &= (rows["refcnt"] & _READERS) >= 1
    # 6.4 to 6.14: vm_rcu over vm_start and vm_end while the object waits to be freed (__vm_area_free); the
    # callback's address is not aligned to a page of user space, but an unlucky one would be.
    callback = kernel.symbols.get("vm_area_free_rcu_cb")
    if callback is not None:
        fine &= rows["end"] != np.uint64(callback)
    return fine
