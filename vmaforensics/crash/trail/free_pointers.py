"""Free pointers of slab objects that lead astray: what ``kmem_cache_alloc`` took from the list of its CPU (mm/slub.c).

An object that is handed out is overwritten, its free pointer too. What the list of the CPU came to next shows that the
pointer was wrong; the object that had it is among those handed out last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.crash.trail.members import struct_of_cache
from vmaforensics.crash.trail.word import BrokenWord, Sure, Trail, flipped
from vmaforensics.views.slab.free_objects import reveal
from vmaforensics.views.slab.objects import State
from vmaforensics.views.structures.per_cpu import per_cpu_offsets

if TYPE_CHECKING:
    from vmaforensics.columns.types import I64, U64
    from vmaforensics.crash.complaints import Complaint
    from vmaforensics.crash.trail.records import Records

_MOST: Final = 4


def follow_free_pointer(records: Records, complaint: Complaint, value: int) -> Trail:
    """The free pointer that held ``value``, or where it was, if a CPU's list of free objects has come to it."""
    trail, slab, kernel = Trail(), records.views.slab, records.kernel
    if slab is None:
        return trail
    layout = slab.layout
    every = layout.addresses(np.arange(len(layout.slabs)))
    owner = np.repeat(np.arange(len(layout.slabs)), layout.slabs.objects)
    cache = layout.slabs.cache[owner].astype(np.int64)
    where = every + layout.caches.offset[cache]
    words, ok = kernel.words(where, 1)
    held = reveal(words[:, 0], where, layout.caches.random[cache])
    rows = np.flatnonzero(ok & (held == np.uint64(value)))
    for row in rows[:_MOST].tolist():
        trail.words.append(_word(records, int(every[row]), int(where[row]), value, _astray(value, every), Sure.CERTAIN))
    if trail.words or (cpu := _cpu_list(records, value)) is None:
        return trail
    number, page = cpu
    (slab_row,) = np.flatnonzero(layout.slabs.page == np.uint64(page))[:1] if page else (None,)
    if slab_row is None:
        return trail
    here = every[owner == slab_row]
    right = _astray(value, here)
    trail.notes.append(
        f"the list of free objects of CPU {number} has come to {value:#x}"
        + ("" if right is None else f", where {right:#x} should be: {flipped(value, right)}")
    )
    trail.notes.append("the object that had this free pointer has been handed out since, and overwritten")
    for address in _handed_out(records, complaint, here)[:_MOST]:
        offset = int(layout.caches.offset[layout.slabs.cache[slab_row]])
        trail.words.append(_word(records, address, address + offset, value, right, Sure.POSSIBLE))
    return trail


def _word(records: Records, start: int, where: int, value: int, right: int | None, sure: Sure) -> BrokenWord:
    found = records.objects.at(start)
    name = hex(start) if found is None else records.object_name(found)
    reasons = [f"it leads to {value:#x}, which is no object of its slab"]
    if right is not None:
        reasons.append(f"{flipped(value, right)}: without that it leads to the free object {right:#x}")
    if sure is Sure.POSSIBLE:
        reasons[0] = "it was handed out to the task that died, from this slab, before the list led astray"
    return BrokenWord(
        what=f"the free pointer in {name}",
        address=where,
        physical=records.physical(where),
        found=f"led to {value:#x}",
        expected="" if right is None else f"leading to {right:#x}",
        sure=sure,
        why=tuple(reasons),
    )


def _astray(value: int, objects: U64) -> int | None:
    """The one object whose address differs from ``value`` in one byte."""
    difference = objects ^ np.uint64(value)
    near = np.zeros(len(objects), np.bool_)
    for byte in range(8):
        near |= difference & ~(np.uint64(0xFF) << np.uint64(8 * byte)) == 0
    fits = objects[near & (difference != 0)]
    return int(fits[0]) if len(fits) == 1 else None


def _cpu_list(records: Records, value: int) -> tuple[int, int] | None:
    """(CPU, struct page of the slab) of the list of free objects that has come to ``value``; up to 6.19."""
    kernel, slab = records.kernel, records.views.slab
    if slab is None or not kernel.has("kmem_cache", "cpu_slab") or not kernel.has("kmem_cache_cpu", "freelist"):
        return None
    path = "slab" if kernel.has("kmem_cache_cpu", "slab") else "page"
    for cache in slab.caches.distinct().cpu_slab.tolist():
        with np.errstate(over="ignore"):
            places = np.uint64(cache) + per_cpu_offsets(kernel)
        heads, ok = kernel.gather_member("kmem_cache_cpu", "freelist", places)
        pages, _ = kernel.gather_member("kmem_cache_cpu", path, places)
        for cpu in np.flatnonzero(ok & (heads == np.uint64(value))).tolist():
            return cpu, int(pages[cpu])
    return None


def _handed_out(records: Records, complaint: Complaint, objects: U64) -> list[int]:
    """Those of the objects that belong to the task that died; all kinds but VMAs cannot be told apart."""
    mm = records.mm_of(complaint.said.pid)
    first = records.objects.at(int(objects[0])) if len(objects) else None
    if not mm or first is None or struct_of_cache(records.kernel, first.cache) != "vm_area_struct":
        return []
    slab = records.views.slab
    assert slab is not None
    rows: I64 = slab.layout.rows(objects, slab.layout.slab_of(objects))
    taken = objects[slab.state[rows] != State.FREE]
    vmas = records.vmas(np.sort(taken))
    own = vmas.vma[vmas.mm == np.uint64(mm)]
    found: list[int] = own.tolist()
    return found
