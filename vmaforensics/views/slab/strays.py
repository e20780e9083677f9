"""VMA objects of the slab that no index leads to, and VMAs of indices that are no objects of the slab."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import is_in
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.texts import Texts
from vmaforensics.columns.types import U64
from vmaforensics.views.slab.caches import ObjectKind
from vmaforensics.views.slab.objects import State
from vmaforensics.views.slab.slab_pages import outside_cache
from vmaforensics.views.vmas.files import read_files
from vmaforensics.views.vmas.names import vma_names
from vmaforensics.views.vmas.paths import reader_root
from vmaforensics.views.vmas.vmas import classify, read_vmas

if TYPE_CHECKING:
    from vmaforensics.columns.types import U8, Bools
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.problems import ProblemLog
    from vmaforensics.views.processes.mms import Mms
    from vmaforensics.views.processes.tasks import Tasks
    from vmaforensics.views.slab.objects import SlabView
    from vmaforensics.views.vmas.vmas import Vmas

_READERS = 0x3FFFFFFF  # vm_refcnt without VM_REFCNT_EXCLUDE_READERS_FLAG (include/linux/mm_types.h)


@table(struct="anon_vma_chain")
class _Linked(Table):
    vma: U64 = member("vma")
    anon_vma: U64 = member("anon_vma")


@dataclass(frozen=True, slots=True, kw_only=True)
class StrayVmas:
    """VMA objects, free ones too, that no index view leads to; the columns beside ``vmas`` have a row for each."""

    vmas: Vmas
    state: U8  # State
    attached: Bools  # by its own marks it is part of a memory map
    avc: U64  # the first anon_vma_chain of each that says that it is; 0 for none
    names: Texts  # as of Views.names; empty where free
    foreign: U64  # VMAs of the index views that lie in no page of the cache, ascending


def find_strays(
    kernel: Kernel,
    slab: SlabView,
    vmas: Vmas,
    mms: Mms,
    tasks: Tasks,
    log: ProblemLog,
) -> StrayVmas:
    """Compare the VMA objects of ``slab`` with ``vmas``, those that the index views lead to."""
    objects = slab.of(ObjectKind.VMA)
    objects = objects.take(~is_in(objects.address, vmas.vma))
    strays = read_vmas(kernel, objects.address, log)
    attached = _attached(kernel, strays)
    return StrayVmas(
        vmas=strays,
        state=objects.state,
        attached=attached,
        avc=_avcs(kernel, strays),
        names=_names(kernel, strays, attached & (objects.state != State.FREE), mms, tasks, log),
        foreign=_foreign(kernel, slab, vmas),
    )


def _avcs(kernel: Kernel, strays: Vmas) -> U64:
    """What ``anon_vma_chain.next`` of each leads to, if that names the VMA and its anon_vma (anon_vma_chain_assign)."""
    avc = np.zeros(len(strays), np.uint64)
    at = np.flatnonzero(strays.ok & (strays.anon_vma != 0))
    if not len(at):
        return avc
    link = kernel.gather_member("vm_area_struct", "anon_vma_chain.next", strays.vma[at])[0]
    with np.errstate(over="ignore"):
        linked = link - np.uint64(kernel.offset("anon_vma_chain", "same_vma"))
    rows, ok = kernel.gather(_Linked, linked)
    named = ok & (rows.vma == strays.vma[at]) & (rows.anon_vma == strays.anon_vma[at])
    avc[at[named]] = linked[named]
    return avc


def _foreign(kernel: Kernel, slab: SlabView, vmas: Vmas) -> U64:
    """VMAs that were read and lie in no page of the cache of VMAs, ascending."""
    cache = slab.caches.cache[slab.caches.kind == ObjectKind.VMA]
    if not len(cache):
        return np.zeros(0, np.uint64)
    read = vmas.vma[vmas.ok]
    read = read[~slab.has(read)]
    return np.sort(read[outside_cache(kernel, read, int(cache[0]))])


def _names(kernel: Kernel, strays: Vmas, live: Bools, mms: Mms, tasks: Tasks, log: ProblemLog) -> Texts:
    """What /proc/PID/maps would call the live ones, whose kind is filled in too; empty for the rest: what they point
    to may long be gone."""
    at = np.flatnonzero(live & np.isin(strays.mm, mms.mm))
    rows = strays.take(at)
    which = np.zeros(len(strays), np.int32)
    if not len(rows):
        return Texts((b"",), which)
    files = read_files(kernel, rows.file, reader_root(kernel, tasks), log)
    classify(kernel, rows, files)
    strays.kind[at] = rows.kind
    names = vma_names(kernel, rows, mms, files)
    which[at] = names.which + 1
    return Texts((b"", *names.strings), which)


def _attached(kernel: Kernel, rows: Vmas) -> Bools:
    """Do the marks of the per-VMA locks say that each VMA is in a tree? All of them before 6.4."""
    attached: Bools = rows.ok & (rows.mm != 0) & (rows.start < rows.end)
    attached &= (rows.start | rows.end) % np.uint64(kernel.arch.page_size) == 0
    attached &= ~rows.detached
    if kernel.has("vm_area_struct", "vm_refcnt"):  # 6.15: 0 is detached, mm/mmap_lock.c
        attached &= (rows.refcnt & _READERS) >= 1
    # 6.4 to 6.14: vm_rcu lies over vm_start and vm_end while the object waits to be freed (__vm_area_free). The
    # callback's address is hardly ever a multiple of a page, and is compared for the case that it is.
    callback = kernel.symbols.get("vm_area_free_rcu_cb")
    if callback is not None:
        attached &= rows.end != np.uint64(callback)
    return attached
