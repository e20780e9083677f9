"""Sheaves: arrays of free objects, of CPUs and in the barns of nodes (some caches in 6.18, all from 7.0; mm/slub.c).

Sheaves that wait for RCU with nobody pointing at them cannot be found; what lies in them looks allocated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmaforensics.columns.lookup import distinct, first_rows
from vmaforensics.columns.ragged import expand
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I64, U64
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.structures.per_cpu import per_cpu_offsets
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.slab.caches import Caches

_MOST_SHEAVES = 1 << 10  # of one barn; MAX_FULL_SHEAVES of mm/slub.c is far less
_LARGEST_SHEAF = np.uint64(1 << 12)
_MOST_NODES = 1024  # MAX_NUMNODES


class SheafObjects(NamedTuple):
    """The free objects that sheaves hold."""

    objects: U64  # addresses of objects
    slots: U64  # where each stands; as long as ``objects``
    doubtful: U64  # kmem_caches with a sheaf or list that could not be read to its end


class _Sheaves(NamedTuple):
    """Sheaves of several caches."""

    sheaf: U64
    cache: I64  # row of the cache; as long as ``sheaf``
    broken: I64  # rows of caches some of whose sheaves could not be reached


@table(struct="slub_percpu_sheaves")
class _CpuSheaves(Table):
    """The sheaves of a CPU; NULL where it has none."""

    main: U64 = member("main")
    spare: U64 = member("spare")
    rcu_free: U64 = member("rcu_free")


def sheaf_objects(kernel: Kernel, caches: Caches, log: ProblemLog) -> SheafObjects:
    """The objects in the sheaves of all CPUs and in the full sheaves of all barns; ``caches`` are distinct."""
    caches = caches.take((caches.capacity > 0) & (caches.cpu_sheaves != 0))
    of_cpus, of_barns = _cpu_sheaves(kernel, caches, log), _barn_sheaves(kernel, caches, log)
    sheaves, cache = np.concatenate([of_cpus.sheaf, of_barns.sheaf]), np.concatenate([of_cpus.cache, of_barns.cache])
    first = first_rows(sheaves)
    first = first[sheaves[first] != 0]
    sheaves, cache = sheaves[first], cache[first]
    sizes, ok = kernel.gather_member("slab_sheaf", "size", sheaves)
    log.add(View.SLAB, Problem.UNREADABLE, 0, sheaves[~ok])
    most = np.minimum(caches.capacity, _LARGEST_SHEAF)
    row, place = expand(np.where(ok, np.minimum(sizes, most[cache]), np.uint64(0)))
    begin = np.uint64(kernel.offset("slab_sheaf", "objects"))
    slots = sheaves[row] + begin + place.astype(np.uint64) * np.uint64(8)
    words, read = kernel.words(slots, 1)
    doubtful = [of_cpus.broken, of_barns.broken, cache[~ok], cache[row[~read]]]
    return SheafObjects(
        objects=words[read, 0], slots=slots[read], doubtful=caches.cache[distinct(np.concatenate(doubtful))]
    )


def _cpu_sheaves(kernel: Kernel, caches: Caches, log: ProblemLog) -> _Sheaves:
    """The sheaves that each CPU has of each of ``caches``; NULL pointers too."""
    offsets = per_cpu_offsets(kernel)
    with np.errstate(over="ignore"):
        places = (caches.cpu_sheaves[:, None] + offsets[None, :]).reshape(-1)
    cache, _ = expand(np.full(len(caches), len(offsets)))
    rows, ok = kernel.gather(_CpuSheaves, places)
    log.add(View.SLAB, Problem.UNREADABLE, 0, places[~ok])
    return _Sheaves(
        sheaf=np.concatenate([rows.main, rows.spare, rows.rcu_free]), cache=np.tile(cache, 3), broken=cache[~ok]
    )


def _barn_sheaves(kernel: Kernel, caches: Caches, log: ProblemLog) -> _Sheaves:
    """The full sheaves of the barns of all nodes, all lists followed at once."""
    heads, cache = _barns(kernel, caches)
    heads = heads + np.uint64(kernel.offset("node_barn", "sheaves_full"))
    link = np.uint64(kernel.offset("slab_sheaf", "barn_list"))
    at = heads
    seen = np.zeros(0, np.uint64)
    found, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    broken = [np.zeros(0, np.int64)]
    for _ in range(_MOST_SHEAVES):
        words, ok = kernel.words(at, 1)
        log.add(View.SLAB, Problem.UNREADABLE, 0, at[~ok])
        after = words[:, 0]
        end = ok & (after == heads)
        on = ok & ~end & kernel.arch.kernel_pointer(after) & ~np.isin(after, seen)
        broken.append(cache[~on & ~end])
        at, heads, cache = after[on], heads[on], cache[on]
        if not len(at):
            break
        seen = distinct(seen, at)
        found.append(at - link)
        owners.append(cache)
    broken.append(cache)
    return _Sheaves(sheaf=np.concatenate(found), cache=np.concatenate(owners), broken=np.concatenate(broken))


def _barns(kernel: Kernel, caches: Caches) -> tuple[U64, I64]:
    """``(barns, rows of their caches)``: per_node[].barn, or node[]->barn before 7.1."""
    nodes = np.arange(_node_count(kernel), dtype=np.uint64)
    by_array = kernel.has("kmem_cache", "per_node")
    if by_array:
        member = kernel.member("kmem_cache", "per_node")
        start, step = member.offset + kernel.offset("kmem_cache_per_node_ptrs", "barn"), member.size
    elif kernel.has("kmem_cache_node", "barn"):
        start, step = kernel.offset("kmem_cache", "node"), 8
    else:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    places = (caches.cache[:, None] + np.uint64(start) + nodes[None, :] * np.uint64(step)).reshape(-1)
    words, ok = kernel.words(places, 1)
    cache, _ = expand(np.full(len(caches), len(nodes)))
    barns = words[:, 0]
    if not by_array:
        barns, held = kernel.gather_member("kmem_cache_node", "barn", barns)
        ok &= held
    used = ok & kernel.arch.kernel_pointer(barns)
    return barns[used], cache[used]


def _node_count(kernel: Kernel) -> int:
    """nr_node_ids: memory nodes there can be (mm/page_alloc.c); 1 if it cannot be read."""
    at = kernel.symbols.get("nr_node_ids")
    if at is None:
        return 1
    data, ok = kernel.space.gather(np.array([at], np.uint64), 4)
    return min(max(int(data.view("<u4")[0, 0]), 1), _MOST_NODES) if ok[0] else 1
