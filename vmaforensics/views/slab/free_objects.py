"""Which objects of a slab are free: chains of free pointers, and arrays of free objects (sheaves).

A free object is on the list of its slab, on that of the CPU which has the slab (``kmem_cache_cpu``, up to 6.19),
or in a sheaf of a CPU or in a node's barn (some caches in 6.18, all from 7.0). Sheaves that wait for RCU with
nobody pointing at them cannot be found; what lies in them looks allocated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.kernel.space.pointers import kernel_pointer
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.slab.slab_pages import cache_rows
from vmaforensics.views.structures.per_cpu import per_cpu_offsets
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel

_MOST_SHEAVES = 1 << 10  # of one barn; MAX_FULL_SHEAVES of mm/slub.c is far less
_LARGEST_SHEAF = 1 << 12
_MOST_NODES = 1024  # MAX_NUMNODES


class Slabs:
    """The slabs of an image with their caches, and which object an address is."""

    def __init__(self, caches: NDArray[np.void], slabs: NDArray[np.void]) -> None:
        self.caches = caches
        self.slabs = slabs
        self.cache = cache_rows(caches, slabs["cache"])  # row of caches, per slab
        self.count = int(slabs["objects"].sum())

    def addresses(self) -> NDArray[np.uint64]:
        """Address of every object, ascending (slabs do not overlap)."""
        slab = np.repeat(np.arange(len(self.slabs)), self.slabs["objects"])
        index = (np.arange(self.count) - self.slabs["first"][slab]).astype(np.uint64)
        kind = self.caches[self.cache[slab]]
        found: NDArray[np.uint64] = self.slabs["base"][slab] + kind["pad"] + index * kind["size"]
        return found

    def slab_of(self, addresses: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Row of the slab each address may lie in, by the bases alone; -1 for none."""
        return np.searchsorted(self.slabs["base"], addresses, "right") - 1

    def rows(self, addresses: NDArray[np.uint64], slab: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of the object that each address is, if it is one of the given slab; else -1."""
        if not len(self.slabs):
            return np.full(len(addresses), -1, np.int64)
        kind = self.caches[self.cache[slab]]
        with np.errstate(over="ignore"):
            offset = addresses - self.slabs["base"][slab] - kind["pad"]
        index = offset // kind["size"]
        fine = (slab >= 0) & (offset % kind["size"] == 0) & (index < self.slabs["objects"][slab].astype(np.uint64))
        return np.where(fine, self.slabs["first"][slab] + index.astype(np.int64), -1)


def free_objects(kernel: Kernel, all_slabs: Slabs, log: ProblemLog) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """``(free, unsure)``, one element per object.

    ``unsure``: not found free, but a list that could hold it was not read to its end.
    """
    free = np.zeros(all_slabs.count, np.bool_)
    unsure = np.zeros(len(all_slabs.slabs), np.bool_)
    slab = np.arange(len(all_slabs.slabs))
    _follow(kernel, all_slabs, all_slabs.slabs["freelist"], slab, free, unsure, log)
    if kernel.has("kmem_cache", "cpu_slab"):
        heads, slab = _cpu_lists(kernel, all_slabs, unsure, log)
        _follow(kernel, all_slabs, heads, slab, free, unsure, log)
    if kernel.has("kmem_cache", "cpu_sheaves"):
        _sheaves(kernel, all_slabs, free, unsure, log)
    return free, np.repeat(unsure, all_slabs.slabs["objects"]) & ~free


def _follow(
    kernel: Kernel,
    all_slabs: Slabs,
    at: NDArray[np.uint64],
    slab: NDArray[np.int64],
    free: NDArray[np.bool_],
    unsure: NDArray[np.bool_],
    log: ProblemLog,
) -> None:
    """Follow chains of free pointers, one step of each at a time; ``slab`` is the one each must stay in."""
    where = np.zeros(len(at), np.uint64)
    for _ in range(int(all_slabs.slabs["objects"].max(initial=0)) + 1):
        on = at != 0
        at, slab, where = at[on], slab[on], where[on]
        if not len(at):
            return
        row = all_slabs.rows(at, slab)
        again = np.zeros(len(at), np.bool_)
        again[row >= 0] = free[row[row >= 0]]
        for wrong, problem in ((row < 0, Problem.MISALIGNED), (again, Problem.CYCLE)):
            told = np.where(where[wrong] == 0, all_slabs.slabs["page"][slab[wrong]], where[wrong])
            log.add(View.SLAB, problem, 0, told, at[wrong])
            unsure[slab[wrong]] = True
        on = (row >= 0) & ~again
        at, slab, row = at[on], slab[on], row[on]
        free[row] = True
        kind = all_slabs.caches[all_slabs.cache[slab]]
        where = at + kind["offset"]
        words, ok = kernel.words(where, 1)
        log.add(View.SLAB, Problem.UNREADABLE, 0, where[~ok])
        unsure[slab[~ok]] = True
        # freelist_ptr (5.7 and later; freelist_ptr_decode): ptr ^ s->random ^ swab(address of the pointer)
        hidden = kind["random"] != 0
        after = np.where(hidden, words[:, 0] ^ kind["random"] ^ where.byteswap(), words[:, 0])
        at, slab, where = after[ok], slab[ok], where[ok]


def _cpu_lists(
    kernel: Kernel, all_slabs: Slabs, unsure: NDArray[np.bool_], log: ProblemLog
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """``(first free object, row of its slab)`` of the list each CPU has taken from a slab."""
    caches = _distinct(all_slabs.caches)
    offsets = per_cpu_offsets(kernel)
    with np.errstate(over="ignore"):
        places = (caches["cpu_slab"][:, None] + offsets[None, :]).reshape(-1)
    got, ok = kernel.gather("kmem_cache_cpu", places, ("freelist", "slab|page"))
    log.add(View.SLAB, Problem.UNREADABLE, 0, places[~ok])
    lost = np.repeat(caches["cache"], len(offsets))[~ok]
    unsure |= np.isin(all_slabs.slabs["cache"], lost) & all_slabs.slabs["frozen"]
    used = ok & (got["freelist"] != 0)
    pages, heads = got["slab"][used], got["freelist"][used]
    order = np.argsort(all_slabs.slabs["page"], kind="stable")
    known = all_slabs.slabs["page"][order]
    row = np.minimum(np.searchsorted(known, pages), max(len(known) - 1, 0))
    fine = known[row] == pages if len(known) else np.zeros(len(pages), np.bool_)
    log.add(View.SLAB, Problem.MISALIGNED, 0, places[used][~fine], pages[~fine])
    return heads[fine], order[row[fine]]


def _sheaves(
    kernel: Kernel, all_slabs: Slabs, free: NDArray[np.bool_], unsure: NDArray[np.bool_], log: ProblemLog
) -> None:
    """Mark the objects that lie in sheaves of CPUs and in full sheaves of barns."""
    caches = _distinct(all_slabs.caches)
    caches = caches[(caches["capacity"] > 0) & (caches["cpu_sheaves"] != 0)]
    offsets = per_cpu_offsets(kernel)
    with np.errstate(over="ignore"):
        places = (caches["cpu_sheaves"][:, None] + offsets[None, :]).reshape(-1)
    owner = np.repeat(np.arange(len(caches)), len(offsets))
    got, ok = kernel.gather("slub_percpu_sheaves", places, ("main", "spare", "rcu_free"))
    log.add(View.SLAB, Problem.UNREADABLE, 0, places[~ok])
    lost = [caches["cache"][owner[~ok]]]
    sheaves = np.concatenate([got[name] for name in ("main", "spare", "rcu_free")])
    owners = np.tile(owner, 3)
    barn_sheaves, barn_owners, broken = _barns(kernel, caches, log)
    lost.append(caches["cache"][broken])
    sheaves, owners = np.concatenate([sheaves, barn_sheaves]), np.concatenate([owners, barn_owners])
    sheaves, first = np.unique(sheaves, return_index=True)
    owners = owners[first]
    used = sheaves != 0
    sheaves, owners = sheaves[used], owners[used]
    sizes, ok = kernel.gather("slab_sheaf", sheaves, ("size",))
    log.add(View.SLAB, Problem.UNREADABLE, 0, sheaves[~ok])
    lost.append(caches["cache"][owners[~ok]])
    most = int(min(caches["capacity"].max(initial=0), _LARGEST_SHEAF))
    begin = np.uint64(kernel.offset("slab_sheaf", "objects"))
    slots = np.arange(most, dtype=np.uint64)
    held = ok[:, None] & (slots[None, :] < np.minimum(sizes["size"], caches["capacity"][owners])[:, None])
    where = (sheaves[:, None] + begin + slots[None, :] * np.uint64(8))[held]
    words, ok = kernel.words(where, 1)
    lost.append(np.repeat(caches["cache"][owners], held.sum(axis=1))[~ok])
    objects = words[ok, 0]
    row = all_slabs.rows(objects, all_slabs.slab_of(objects))
    log.add(View.SLAB, Problem.MISALIGNED, 0, where[ok][row < 0], objects[row < 0])
    free[row[row >= 0]] = True
    unsure |= np.isin(all_slabs.slabs["cache"], np.concatenate(lost))


def _barns(
    kernel: Kernel, caches: NDArray[np.void], log: ProblemLog
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """``(sheaf, row of its cache, rows of caches with a list that breaks off)``, all lists followed at once."""
    barns, owner = _node_barns(kernel, caches)
    link = np.uint64(kernel.offset("slab_sheaf", "barn_list"))
    heads = barns + np.uint64(kernel.offset("node_barn", "sheaves_full"))
    at = heads
    seen = np.zeros(0, np.uint64)
    found, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    broken = [np.zeros(0, np.int64)]
    for _ in range(_MOST_SHEAVES):
        words, ok = kernel.words(at, 1)
        log.add(View.SLAB, Problem.UNREADABLE, 0, at[~ok])
        after = words[:, 0]
        end = ok & (after == heads)
        on = ok & ~end & kernel_pointer(after) & ~np.isin(after, seen)
        broken.append(owner[~on & ~end])
        at, heads, owner = after[on], heads[on], owner[on]
        if not len(at):
            break
        seen = np.union1d(seen, at)
        found.append(at - link)
        owners.append(owner)
    broken.append(owner)
    return np.concatenate(found), np.concatenate(owners), np.concatenate(broken)


def _node_barns(kernel: Kernel, caches: NDArray[np.void]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """``(barn, row of its cache)``: per_node[].barn, or node[]->barn before 7.1."""
    count = 1
    at = kernel.symbols.get("nr_node_ids")
    if at is not None:
        data, ok = kernel.space.gather(np.array([at], np.uint64), 4)
        count = min(max(int(data.view("<u4")[0, 0]), 1), _MOST_NODES) if ok[0] else 1
    nodes = np.arange(count, dtype=np.uint64)
    if kernel.has("kmem_cache", "per_node"):
        member = kernel.member("kmem_cache", "per_node")
        start = member.offset + kernel.offset("kmem_cache_per_node_ptrs", "barn")
        step = member.size
    elif kernel.has("kmem_cache_node", "barn"):
        start, step = kernel.offset("kmem_cache", "node"), 8
    else:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    places = (caches["cache"][:, None] + np.uint64(start) + nodes[None, :] * np.uint64(step)).reshape(-1)
    words, ok = kernel.words(places, 1)
    owner = np.repeat(np.arange(len(caches)), count)
    pointers = words[:, 0]
    if not kernel.has("kmem_cache", "per_node"):
        got, fine = kernel.gather("kmem_cache_node", pointers, ("barn",))
        pointers, ok = got["barn"], ok & fine
    used = ok & kernel_pointer(pointers)
    return pointers[used], owner[used]


def _distinct(caches: NDArray[np.void]) -> NDArray[np.void]:
    """One row per kmem_cache: merged kinds share one."""
    _, first = np.unique(caches["cache"], return_index=True)
    rows: NDArray[np.void] = caches[np.sort(first)]
    return rows
