"""The counters of pages that the kernel keeps (mm/vmstat.c): of all zones, of all nodes, and what CPUs have not added.

/proc/meminfo shows the global counters alone. Each CPU adds to them only what has piled up beyond a threshold: the
rest is here too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I64, U64
from vmaforensics.views.structures.per_cpu import per_cpu_offsets

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel

_MOST_NODES: Final = 1 << 10  # MAX_NUMNODES with MAXSMP
_MOST_ITEMS: Final = 1 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """See :func:`read_counters`. None: could not be read."""

    zone: I64 | None  # by enum zone_stat_item
    node: I64 | None  # by enum node_stat_item
    zone_pending: I64 | None  # what CPUs have not added yet
    node_pending: I64 | None
    zones: U64  # addresses of the zones that have pages
    on_cpus: int | None  # pages on the free lists of CPUs: not in NR_FREE_PAGES

    def value(self, kernel: Kernel, name: str) -> int | None:
        """A counter as /proc/meminfo shows it: never below 0. None where this kernel does not have or keep it."""
        found = self._at(kernel, name, self.zone, self.node)
        return None if found is None else max(found, 0)

    def exact(self, kernel: Kernel, name: str) -> int | None:
        """The same with what CPUs have not added yet."""
        shown = self._at(kernel, name, self.zone, self.node)
        pending = self._at(kernel, name, self.zone_pending, self.node_pending)
        return None if shown is None or pending is None else max(shown + pending, 0)

    def _at(self, kernel: Kernel, name: str, zone: I64 | None, node: I64 | None) -> int | None:
        number = kernel.types.constant(name)
        if number is None:
            return None
        of_zones = name in _OF_ZONES and number < (kernel.types.constant("NR_VM_ZONE_STAT_ITEMS") or 0)
        values = zone if of_zones else node
        return None if values is None or not 0 <= number < len(values) else int(values[number])


# Items that are, or once were, of zones. NR_PAGETABLE has moved to nodes, where its number is larger than any of zones.
_OF_ZONES: Final = frozenset(
    {"NR_FREE_PAGES", "NR_MLOCK", "NR_PAGETABLE", "NR_BOUNCE", "NR_FREE_CMA_PAGES", "NR_UNACCEPTED"}
)


@table(struct="pglist_data")
class _Nodes(Table):
    per_cpu: U64 = member("per_cpu_nodestats?")
    zones: I64 = member("nr_zones?")


@table(struct="zone")
class _Zones(Table):
    per_cpu: U64 = member("per_cpu_zonestats|pageset?")
    lists: U64 = member("per_cpu_pageset|pageset?")
    managed: U64 = member("managed_pages.counter")


def read_counters(kernel: Kernel) -> Counters:
    """The counters of all zones and nodes."""
    zone_items, node_items = (
        min(kernel.types.constant(name) or 0, _MOST_ITEMS)
        for name in ("NR_VM_ZONE_STAT_ITEMS", "NR_VM_NODE_STAT_ITEMS")
    )
    nodes = _nodes(kernel)
    zones = _zones(kernel, nodes)
    zone_struct = "per_cpu_zonestat" if kernel.types.struct("per_cpu_zonestat") is not None else "per_cpu_pageset"
    node_rows, node_ok = kernel.gather(_Nodes, nodes) if len(nodes) else (_Nodes.zeros(0), np.zeros(0, np.bool_))
    zone_rows, zone_ok = kernel.gather(_Zones, zones) if len(zones) else (_Zones.zeros(0), np.zeros(0, np.bool_))
    known = bool(len(nodes)) and bool(node_ok.all() and zone_ok.all())
    return Counters(
        zone=_global(kernel, "vm_zone_stat", zone_items),
        node=_global(kernel, "vm_node_stat", node_items),
        zone_pending=_pending(kernel, zone_struct, "vm_stat_diff", zone_rows.per_cpu, zone_items) if known else None,
        node_pending=_pending(kernel, "per_cpu_nodestat", "vm_node_stat_diff", node_rows.per_cpu, node_items)
        if known
        else None,
        zones=zones[zone_ok & (zone_rows.managed != 0)],
        on_cpus=_on_cpus(kernel, zone_rows.lists) if known else None,
    )


def _global(kernel: Kernel, name: str, count: int) -> I64 | None:
    """An array of atomic_long_t."""
    at = kernel.symbols.get(name)
    if at is None or not count:
        return None
    words, ok = kernel.words(np.array([at], np.uint64), count)
    return words[0].view(np.int64) if ok[0] else None


def _nodes(kernel: Kernel) -> U64:
    """Every pg_data_t: of ``node_data`` with NUMA, else the one there is."""
    table, count = kernel.symbols.get("node_data"), kernel.variable("nr_node_ids", 4)
    if table is None:
        one = kernel.symbols.get("contig_page_data")
        return np.array([] if one is None else [one], np.uint64)
    words, ok = kernel.words(np.array([table], np.uint64), min(count or 1, _MOST_NODES))
    nodes: U64 = words[0] if ok[0] else np.zeros(0, np.uint64)
    return nodes[kernel.arch.kernel_pointer(nodes)]


def _zones(kernel: Kernel, nodes: U64) -> U64:
    """Every zone of ``nodes``, which lie in them one behind the other."""
    if not len(nodes) or not kernel.has("pglist_data", "node_zones") or kernel.types.struct("zone") is None:
        return np.zeros(0, np.uint64)
    found = kernel.member("pglist_data", "node_zones")
    places = np.uint64(found.offset) + np.arange(found.count or 1, dtype=np.uint64) * np.uint64(kernel.sizeof("zone"))
    with np.errstate(over="ignore"):
        zones: U64 = (nodes[:, None] + places).reshape(-1)
    return zones


def _pending(kernel: Kernel, struct: str, path: str, pointers: U64, count: int) -> I64 | None:
    """The sum, over CPUs and ``pointers`` to per-CPU structures, of an array of s8; None if one cannot be read."""
    if not kernel.has(struct, path):
        return None
    pointers = pointers[pointers != 0]
    total = np.zeros(count, np.int64)
    for offset in per_cpu_offsets(kernel):
        with np.errstate(over="ignore"):
            data, ok = kernel.space.gather(pointers + offset + np.uint64(kernel.offset(struct, path)), count)
        if not ok.all():
            return None
        total += data.view(np.int8).astype(np.int64).sum(axis=0)
    return total


def _on_cpus(kernel: Kernel, lists: U64) -> int | None:
    """Pages that CPUs keep to hand out, of all zones (struct per_cpu_pages)."""
    struct, path = ("per_cpu_pageset", "pcp.count")
    if not kernel.has(struct, path):
        struct, path = ("per_cpu_pages", "count")
    if not kernel.has(struct, path):
        return None
    total = 0
    for offset in per_cpu_offsets(kernel):
        with np.errstate(over="ignore"):
            count, ok = kernel.gather_signed(struct, path, lists[lists != 0] + offset)
        if not ok.all():
            return None
        total += int(np.maximum(count, 0).sum())
    return total
