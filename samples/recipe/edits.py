"""Labelled edits of the memory of a guest that is stopped: one word or two, by kernel address, made from outside.

The guest's memory is a file that QEMU shares; below the PCI hole an offset in it is a physical address. Where a word
lies is read from an image of the stopped guest.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vmaforensics.analysis import analyse_image
from vmaforensics.arch.page_tables import PteState
from vmaforensics.kernel.edit import Edit
from vmaforensics.views.structures.per_cpu import per_cpu_offsets

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmaforensics.analysis import Analysis
    from vmaforensics.views.indices.entries import IndexEntries
    from vmaforensics.views.pages.ptes import Ptes

LOW_MEMORY = 2 << 30  # bytes below the PCI hole of QEMU's q35
RWSEM_WRITER_LOCKED = 1  # kernel/locking/rwsem.c
RWBASE_WRITER_BIAS = 1 << 30  # WRITER_BIAS, include/linux/rwbase_rt.h


@dataclass(frozen=True)
class Change:
    """A word that was changed."""

    what: str  # structure and member, or what kind of word
    address: int | None  # kernel virtual; None for what is known by its physical address
    physical: int
    size: int
    before: int
    after: int
    pid: int  # of the process it belongs to
    user_address: int | None = None  # that it is about

    def label(self) -> dict[str, str | int]:
        """For the manifest: addresses and words in hexadecimal, and nothing that is not known."""
        words = {
            "address": self.address,
            "physical": self.physical,
            "before": self.before,
            "after": self.after,
            "user_address": self.user_address,
        }
        known = {name: hex(value) for name, value in words.items() if value is not None}
        return {"what": self.what, "pid": self.pid, "size": self.size, **known}


class Bench:
    """A stopped guest on which words are changed."""

    def __init__(self, memory: Path, found: Analysis, pid: int) -> None:
        self.edit = Edit(found.image, found.kernel)
        self.kernel, self.views, self.pid = found.kernel, found.views, pid
        self.changes: list[Change] = []
        self._memory = memory

    @property
    def mm_row(self) -> int:
        """Row of the victim's mm; a vfork child may be the one it is listed under."""
        tasks = self.views.tasks
        mine = tasks.mm[(tasks.tgid == self.pid) & (tasks.mm != 0)]
        return int(self.views.mm_rows(mine[:1])[0])

    @property
    def mm(self) -> int:
        """Address of the victim's mm_struct."""
        return int(self.views.mms.mm[self.mm_row])

    def put(
        self,
        what: str,
        address: int | None,
        change: Callable[[int], int],
        *,
        physical: int = 0,
        size: int = 8,
        user_address: int | None = None,
    ) -> None:
        """Change the integer at a kernel address, or at a physical one."""
        at = physical if address is None else self.edit.physical(address)
        if at + size > min(LOW_MEMORY, self._memory.stat().st_size):
            raise ValueError(f"{what} lies at {at:#x}, above the PCI hole")
        with self._memory.open("r+b", buffering=0) as stream:
            before = int.from_bytes(os.pread(stream.fileno(), size, at), "little")
            after = change(before) % (1 << 8 * size)
            os.pwrite(stream.fileno(), after.to_bytes(size, "little"), at)
        self.changes.append(Change(what, address, at, size, before, after, self.pid, user_address))

    def member(self, struct: str, address: int, path: str) -> int:
        """Address of a member of the structure at ``address``."""
        return self.edit.at(struct, address, path)


def rss_counter(bench: Bench) -> None:
    """MM_ANONPAGES of the victim, seven more."""
    kind = bench.kernel.types.constant("MM_ANONPAGES")
    assert kind is not None
    field = bench.kernel.member("mm_struct", "rss_stat")
    if bench.kernel.has("mm_struct", "rss_stat.counters"):  # an array of percpu_counter
        counter = bench.mm + field.offset + field.size * kind
        address, what = bench.member("percpu_counter", counter, "count"), "rss_stat[MM_ANONPAGES].count"
    else:  # an array of atomic_long_t in a structure
        address, what = bench.member("mm_struct", bench.mm, "rss_stat.count") + 8 * kind, "rss_stat.count[MM_ANONPAGES]"
    bench.put(f"mm_struct.{what}", address, lambda value: value + 7)


def map_count(bench: Bench) -> None:
    """mm->map_count, one more."""
    bench.put("mm_struct.map_count", bench.member("mm_struct", bench.mm, "map_count"), lambda value: value + 1, size=4)


def _anonymous_page(bench: Bench) -> Ptes:
    """An entry of the victim for a small anonymous page that nobody else maps."""
    view = bench.views.page_tables
    assert view is not None
    ptes = view.ptes
    ptes = ptes.take(
        (ptes.mm_row == bench.mm_row) & (ptes.page_row >= 0) & (ptes.state == PteState.PRESENT) & (ptes.level == 1)
    )
    pages = view.pages.take(ptes.page_row)
    ptes = ptes.take(pages.anon & ~pages.ksm & ~pages.compound & (pages.mapcount == 1))
    middle = len(ptes) // 2
    return ptes.take(slice(middle, middle + 1))


def pte_cleared(bench: Bench) -> None:
    """The entry of an anonymous page, zero."""
    pte = _anonymous_page(bench)
    bench.put("PTE", None, lambda _: 0, physical=int(pte.where[0]), user_address=int(pte.va[0]))


def pte_flipped(bench: Bench) -> None:
    """Bit 37 of the entry of an anonymous page, which then leads far beyond the end of memory."""
    pte = _anonymous_page(bench)
    bench.put("PTE", None, lambda entry: entry ^ 1 << 37, physical=int(pte.where[0]), user_address=int(pte.va[0]))


def page_mapcount(bench: Bench) -> None:
    """The map count in the struct page of an anonymous page, one more."""
    pte = _anonymous_page(bench)
    base = bench.kernel.variable("vmemmap_base", 8)
    assert base is not None
    page = base + int(pte.pfn[0]) * bench.kernel.sizeof("page")
    at = bench.member("page", page, "_mapcount.counter")
    bench.put("page._mapcount", at, lambda value: value + 1, size=4, user_address=int(pte.va[0]))


def page_mapping(bench: Bench) -> None:
    """Bit 0 of page->mapping of an anonymous page (PAGE_MAPPING_ANON) cleared: its anon_vma is taken for a file's."""
    pte = _anonymous_page(bench)
    base = bench.kernel.variable("vmemmap_base", 8)
    assert base is not None
    at = bench.member("page", base + int(pte.pfn[0]) * bench.kernel.sizeof("page"), "mapping")
    bench.put("page.mapping", at, lambda mapping: mapping & ~1, user_address=int(pte.va[0]))


def tasks_list(bench: Bench) -> None:
    """The victim's neighbours in the list of tasks, made to point at each other."""
    tasks = bench.views.tasks
    (row,) = np.flatnonzero((tasks.pid == bench.pid) & tasks.leader)
    node = bench.member("task_struct", int(tasks.task[row]), "tasks")
    after, before = bench.edit.get(node), bench.edit.get(node + 8)  # struct list_head: next, prev
    bench.put("task_struct.tasks.next of the process before", before, lambda _: after)
    bench.put("task_struct.tasks.prev of the process behind", after + 8, lambda _: before)


def _vmas(bench: Bench) -> IndexEntries:
    """The victim's VMAs in order."""
    index = bench.views.maple or bench.views.vma_list
    assert index is not None
    entries = index.take(index.mm == np.uint64(bench.mm))
    return entries.sort_by(entries.start)


def maple_slot(bench: Bench) -> None:
    """Bit 46 of the pointer to a VMA in the middle of the victim's tree."""
    vmas = _vmas(bench)
    middle = len(vmas) // 2
    start = int(vmas.start[middle])
    bench.put("slot of a maple_node", int(vmas.slot[middle]), lambda slot: slot ^ 1 << 46, user_address=start)


def vma_mm(bench: Bench) -> None:
    """vm_mm of the victim's first VMA, NULL."""
    vmas = _vmas(bench)
    at = bench.member("vm_area_struct", int(vmas.vma[0]), "vm_mm")
    bench.put("vm_area_struct.vm_mm", at, lambda _: 0, user_address=int(vmas.start[0]))


def vma_file(bench: Bench) -> None:
    """Bit 62 of vm_file of the victim's first VMA of a file: no address any more."""
    for vma, start in zip(_vmas(bench).vma.tolist(), _vmas(bench).start.tolist(), strict=True):
        at = bench.member("vm_area_struct", vma, "vm_file")
        if bench.edit.get(at):
            bench.put("vm_area_struct.vm_file", at, lambda file: file ^ 1 << 62, user_address=start)
            return
    raise ValueError("the victim has no VMA of a file")


def free_pointer(bench: Bench) -> None:
    """A byte of the free pointer in the free VMA that CPU 0 hands out next (kmem_cache_cpu, not in 7.3)."""
    kernel = bench.kernel
    cache = kernel.variable("vm_area_cachep", 8)
    assert cache is not None
    per_cpu = bench.edit.get(bench.member("kmem_cache", cache, "cpu_slab"))
    cpu = (per_cpu + int(per_cpu_offsets(kernel)[0])) % (1 << 64)
    first = bench.edit.get(bench.member("kmem_cache_cpu", cpu, "freelist"))
    offset = int(kernel.gather_member("kmem_cache", "offset", np.array([cache], np.uint64))[0][0])
    bench.put("free pointer of a free vm_area_struct", first + offset, lambda word: word ^ 0x5A << 40)


def _write_lock(bench: Bench, mm: int, task: int) -> None:
    """The mmap_lock of an mm write-locked by a task."""
    lock = bench.member("mm_struct", mm, "mmap_lock")
    if bench.kernel.has("rw_semaphore", "rwbase.rtmutex.owner"):  # PREEMPT_RT
        readers = bench.member("rw_semaphore", lock, "rwbase.readers")
        bench.put("mmap_lock.rwbase.readers", readers, lambda _: RWBASE_WRITER_BIAS, size=4)
        owner = bench.member("rw_semaphore", lock, "rwbase.rtmutex.owner")
        bench.put("mmap_lock.rwbase.rtmutex.owner", owner, lambda _: task)
        return
    writer = RWSEM_WRITER_LOCKED
    bench.put("mmap_lock.count", bench.member("rw_semaphore", lock, "count"), lambda value: value | writer)
    bench.put("mmap_lock.owner", bench.member("rw_semaphore", lock, "owner"), lambda _: task)


def mmap_lock(bench: Bench) -> None:
    """mm->mmap_lock write-locked, with a sleeping thread of the victim as its owner."""
    tasks = bench.views.tasks
    (row,) = np.flatnonzero((tasks.tgid == bench.pid) & (tasks.comm == b"awk-owner"))
    _write_lock(bench, bench.mm, int(tasks.task[row]))


def mmap_locks(bench: Bench) -> None:
    """The mmap_lock of the victim, and that of its child, each write-locked by its own task."""
    mms = bench.views.mms
    for row in np.flatnonzero((mms.pid == bench.pid) | (mms.comm == b"awk-other")).tolist():
        _write_lock(bench, int(mms.mm[row]), int(mms.task[row]))


def arg_lock(bench: Bench) -> None:
    """mm->arg_lock, a spinlock, locked: the low byte of a queued spinlock is 1."""
    bench.put("mm_struct.arg_lock", bench.member("mm_struct", bench.mm, "arg_lock"), lambda value: value | 1, size=4)


EDITS: dict[str, Callable[[Bench], None]] = {
    edit.__name__: edit
    for edit in (
        rss_counter,
        map_count,
        pte_cleared,
        pte_flipped,
        page_mapcount,
        page_mapping,
        tasks_list,
        maple_slot,
        vma_mm,
        vma_file,
        free_pointer,
        mmap_lock,
        mmap_locks,
        arg_lock,
    )
}


def apply(name: str, memory: Path, image: Path, pid: int) -> list[Change]:
    """Make an edit in the memory of a stopped guest, of which ``image`` is a dump; ``pid`` is the victim."""
    bench = Bench(memory, analyse_image(image, views=("page-tables",)), pid)
    EDITS[name](bench)
    return bench.changes
