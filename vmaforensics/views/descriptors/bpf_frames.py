"""Page frames that BPF maps hold (kernel/bpf/): areas of vmalloc, those of arenas among them.

A map lives as long as a descriptor, a program, a link or a file in bpffs holds it. Processes may map arrays and arenas
(BPF_F_MMAPABLE); what they wrote stays when they unmap it. Small maps lie in slabs, and hold no frames of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import first_rows
from vmaforensics.columns.ragged import expand_ranges
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U32, U64
from vmaforensics.views.descriptors.holders import HeldFrames, Holder
from vmaforensics.views.descriptors.keepers import Origins
from vmaforensics.views.objects.vmalloc import find_areas
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.structures.xarray import all_pointers
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64
    from vmaforensics.views.descriptors.holders import HeldWalk

_MOST_MAPS = 1 << 16
# Where maps of some types have memory that is not behind their own structure.
_ELSEWHERE = (
    ("BPF_MAP_TYPE_HASH", "bpf_htab", "buckets"),
    ("BPF_MAP_TYPE_HASH", "bpf_htab", "elems"),
    ("BPF_MAP_TYPE_LRU_HASH", "bpf_htab", "elems"),
    ("BPF_MAP_TYPE_RINGBUF", "bpf_ringbuf_map", "rb"),
    ("BPF_MAP_TYPE_ARENA", "bpf_arena", "kern_vm"),
)


@table(struct="bpf_map")
class _Maps(Table):
    type: U32 = member("map_type")


@table()
class _Memory(Table):
    """Memory of a map."""

    map: U64  # row of the maps
    slot: U64  # address of the pointer to it; the map's where it lies in it
    address: U64


def bpf_frames(walk: HeldWalk, maps: U64, origins: Origins) -> list[HeldFrames]:
    """What each ``bpf_map`` holds, those of ``map_idr`` that no descriptor leads to included."""
    kernel = walk.kernel
    listed = _listed(walk)
    nobody = Origins.zeros(len(listed))
    nobody.fd[:] = -1
    every, origins = np.concatenate([maps, listed]), Origins.concatenate([origins, nobody])
    first = np.sort(first_rows(every))
    walk.lost(Problem.CUT_SHORT, every[first[_MOST_MAPS:]][:1])
    first = first[:_MOST_MAPS]
    first = first[kernel.arch.kernel_pointer(every[first])]
    every, origins = every[first], origins.take(first)
    rows, ok = kernel.gather(_Maps, every)
    walk.lost(Problem.UNREADABLE, every[~ok])
    parts = [_Memory(map=np.arange(len(every), dtype=np.uint64), slot=every, address=every).take(ok)]
    for kind, struct, name in _ELSEWHERE:
        number = kernel.types.constant(kind)
        if number is not None and kernel.has(struct, name):
            parts.append(_pointed(walk, every, np.flatnonzero(ok & (rows.type == number)), struct, name))
    memory = _Memory.concatenate(parts)
    areas = find_areas(kernel, memory.address)
    at = np.flatnonzero((areas.end > areas.start) & ((areas.start == memory.address) | (memory.slot == memory.address)))
    # Only what is mapped: an arena is an area of 4 GiB.
    starts, ends, runs = areas.start[at], areas.end[at] - np.uint64(1), kernel.space.runs
    low, high = np.searchsorted(runs.end, starts), np.searchsorted(runs.start, ends, "right")
    row, run = expand_ranges(low, high)
    begin, last = np.maximum(runs.start[run], starts[row]), np.minimum(runs.end[run], ends[row])
    of = memory.map[at][row].astype(np.int64)
    sizes = last - begin + np.uint64(1)
    return [walk.of_memory(Holder.BPF_MAP, every[of], memory.slot[at][row], begin, sizes, origins.take(of))]


def _pointed(walk: HeldWalk, maps: U64, at: I64, struct: str, name: str) -> _Memory:
    """The memory that a member of some maps leads to: its first byte, or a ``vm_struct`` that says where it lies."""
    kernel = walk.kernel
    slot = maps[at] + np.uint64(kernel.offset(struct, name))
    words, ok = kernel.words(slot, 1)
    address = words[:, 0]
    if name == "kern_vm":
        address, there = kernel.gather_member("vm_struct", "addr", address)
        ok &= there
    walk.lost(Problem.UNREADABLE, slot[~ok])
    return _Memory(map=at.astype(np.uint64), slot=slot, address=address).take(ok)


def _listed(walk: HeldWalk) -> U64:
    """The maps of ``map_idr``, by which bpf(2) finds them."""
    kernel = walk.kernel
    at = kernel.symbols.get("map_idr")
    if at is None or not kernel.has("idr", "idr_rt.xa_head"):
        return np.zeros(0, np.uint64)
    heads, ok = kernel.gather_member("idr", "idr_rt.xa_head", np.array([at % (1 << 64)], np.uint64))
    walk.lost(Problem.UNREADABLE, np.array([at % (1 << 64)], np.uint64)[~ok])
    found = all_pointers(kernel, heads[ok], View.HANDLES, ProblemLog())
    walk.whole &= found.whole
    return found.pointers
