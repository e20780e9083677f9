"""Free pointers of slab objects that lead astray: what ``kmem_cache_alloc`` took from the list of its CPU (mm/slub.c).

An object that is handed out is overwritten, its free pointer too. What the list of the CPU came to next shows that the
pointer was wrong; the object that had it is among those handed out last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.crash.trail.word import BrokenWord, Sure, Trail, flipped
from vmaforensics.views.slab.free_pointers import free_pointers_to
from vmaforensics.views.slab.objects import State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmaforensics.columns.types import I64, U64
    from vmaforensics.crash.complaints import Complaint
    from vmaforensics.crash.trail.records import Records
    from vmaforensics.crash.trail.targets import Target

_MOST: Final = 4


def follow_free_pointer(records: Records, complaint: Complaint, targets: Iterable[Target], value: int) -> Trail:
    """The free pointer that held ``value``, or where it was, if a CPU's list of free objects has come to it.

    Looked at are the caches that are known, and those that registers lead to.
    """
    trail, slab = Trail(), records.views.slab
    known = [] if slab is None else distinct(slab.layout.caches.cache).tolist()
    named = [target.found.start for target in targets if target.found.struct == "kmem_cache"]
    for cache in dict.fromkeys([*known, *named]):
        found = free_pointers_to(records.kernel, cache, value)
        for where in found.objects[:_MOST]:
            target = records.objects.at(where)
            if target is not None and target.state != State.ALLOCATED:
                right = _astray(value, _objects_of(records, target.page))
                trail.words.append(_word(records, target.start, where, value, right, Sure.CERTAIN))
        if not trail.words and found.lists:
            lists = _of_list(records, complaint, cache, found.lists[0], value)
            trail.words += lists.words
            trail.notes += lists.notes
    return trail


def _of_list(records: Records, complaint: Complaint, cache: int, begun: tuple[int, int], value: int) -> Trail:
    """Say of the free list ``begun`` (CPU, address of its word) that it has come to ``value``, and by way of whom."""
    number, word = begun
    trail = Trail()
    page = _slab_of_cpu(records, word)
    here = _objects_of(records, page)
    right = _astray(value, here)
    handed_out = "the object that had this free pointer has been handed out since, and overwritten"
    trail.notes += [
        f"the list of free objects of CPU {number}, at {word:#x}, has come to {value:#x}"
        + ("" if right is None else f", where {right:#x} should be: {flipped(value, right)}"),
        handed_out,
    ]
    possible = _handed_out(records, complaint, here)[:_MOST]
    slab = records.views.slab
    for address in possible:
        assert slab is not None
        rows = np.flatnonzero(slab.layout.slabs.page == np.uint64(page))
        offset = int(slab.layout.caches.offset[slab.layout.slabs.cache[rows[0]]])
        trail.words.append(_word(records, address, address + offset, value, right, Sure.POSSIBLE))
    if not possible:
        trail.words.append(
            BrokenWord(
                what=f"kmem_cache_cpu.freelist of CPU {number}, {records.leads_to(cache)}",
                address=word,
                physical=records.physical(word),
                found=hex(value),
                expected="" if right is None else hex(right),
                sure=Sure.POSSIBLE,
                why=("it is a copy: the list of free objects has come to this pointer", handed_out),
            )
        )
    return trail


def _objects_of(records: Records, page: int) -> U64:
    """The objects of the slab whose struct page is at ``page``, of the caches that are known."""
    slab = records.views.slab
    if slab is None:
        return np.zeros(0, np.uint64)
    return slab.layout.addresses(np.flatnonzero(slab.slabs.page == np.uint64(page)))


def _slab_of_cpu(records: Records, word: int) -> int:
    """The slab that a CPU has taken, whose list of free objects begins at ``word`` (struct kmem_cache_cpu)."""
    kernel = records.kernel
    start = np.array([word - kernel.offset("kmem_cache_cpu", "freelist")], np.uint64)
    pages, _ = kernel.gather_member("kmem_cache_cpu", "slab|page", start)
    return int(pages[0])


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


def _handed_out(records: Records, complaint: Complaint, objects: U64) -> list[int]:
    """Those of the objects that belong to the task that died; all kinds but VMAs cannot be told apart."""
    mm = records.mm_of(complaint.said.pid)
    first = records.objects.at(int(objects[0])) if len(objects) else None
    if not mm or first is None or first.struct != "vm_area_struct":
        return []
    slab = records.views.slab
    assert slab is not None
    rows: I64 = slab.layout.rows(objects, slab.layout.slab_of(objects))
    taken = objects[slab.state[rows] != State.FREE]
    vmas = records.vmas(np.sort(taken))
    own = vmas.vma[vmas.mm == np.uint64(mm)]
    found: list[int] = own.tolist()
    return found
