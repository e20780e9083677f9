"""Where the memory went, as a part of the document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.crash.memory_case import MOST
from vmaforensics.crash.memory_document import (
    FigurePart,
    MemoryPart,
    ProcessMemory,
    ShmemPart,
    SlabPart,
    VmallocPart,
)
from vmaforensics.crash.oom_report import last_oom_report
from vmaforensics.views.pages.rss import KINDS
from vmaforensics.words.amounts import counted
from vmaforensics.words.printable import comm_of, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.crash.memory_case import MemoryCase
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.log.records import Log
    from vmaforensics.views.memory.slab_caches import SlabUse
    from vmaforensics.views.memory.tmpfs import ShmemUse
    from vmaforensics.views.memory.vmalloc import VmallocUse

# Figures that add up to all of memory, with those that none of the others includes.
_PARTS: Final = (
    "MemFree", "Buffers", "Cached", "SwapCached", "AnonPages", "Slab", "PageTables", "SecPageTables", "VmallocUsed",
    "Percpu", "Hugetlb", "Balloon", "GPUActive", "GPUReclaim", "HardwareCorrupted", "Unaccepted",
)  # fmt: skip
_MOST_PAGES: Final = 1 << 40  # of a process: more is not believed
_NEEDED: Final = ("MemTotal", "MemFree", "Buffers", "Cached", "AnonPages", "Slab")


def memory_part(kernel: Kernel, memory: MemoryCase, log: Log | None) -> MemoryPart:
    """What was read of ``memory``, and what the OOM killer said last."""
    page = kernel.arch.page_size
    return MemoryPart(
        figures=list(_figures(memory)),
        on_cpus=None if memory.figures.on_cpus is None else memory.figures.on_cpus << 10,
        unaccounted=_unaccounted(memory),
        processes=list(_processes(memory, page)),
        slabs=[] if memory.slabs is None else list(_slabs(memory.slabs)),
        slab_caches=0 if memory.slabs is None else len(memory.slabs.caches),
        shmem=[] if memory.shmem is None else list(_shmem(memory.shmem, page)),
        vmalloc=[] if memory.vmalloc is None else list(_vmalloc(kernel, memory.vmalloc, page)),
        oom=None if log is None else last_oom_report(log, page),
    )


def _figures(memory: MemoryCase) -> Iterator[FigurePart]:
    for name, value, exact in memory.figures.known:
        unit = "" if name.startswith("HugePages_") else "kB"
        yield FigurePart(name=name, value=value, unit=unit, exact=exact)


def _unaccounted(memory: MemoryCase) -> int | None:
    """Bytes of MemTotal that none of the figures has; None where one that matters could not be read."""
    values = {name: exact for name, _, exact in memory.figures.known}
    if not values.keys() >= set(_NEEDED):
        return None
    known = sum(values.get(name, 0) for name in _PARTS) + (memory.figures.on_cpus or 0)
    return (values["MemTotal"] - known) << 10


def _processes(memory: MemoryCase, page: int) -> Iterator[ProcessMemory]:
    """The processes with most in memory and in swap."""
    mms, rss, known = memory.mms, memory.rss, memory.rss_ok
    if mms is None or rss is None or known is None:
        return
    sane = (np.abs(rss) < _MOST_PAGES).all(axis=1)
    rows = np.flatnonzero(known & sane & (mms.task != 0))
    for row in rows[np.argsort(-rss[rows].sum(axis=1), kind="stable")][:MOST].tolist():
        pages = dict(zip(KINDS, (max(count, 0) * page for count in rss[row].tolist()), strict=True))
        swapped = pages.pop("MM_SWAPENTS")
        yield ProcessMemory(
            pid=int(mms.pid[row]),
            comm=printable(comm_of(mms.comm[row])),
            mm=hex(int(mms.mm[row])),
            resident=sum(pages.values()),
            anonymous=pages["MM_ANONPAGES"],
            file=pages["MM_FILEPAGES"],
            shared_memory=pages["MM_SHMEMPAGES"],
            swapped=swapped,
            page_tables=int(mms.pgtables_bytes[row]),
        )


def _slabs(use: SlabUse) -> Iterator[SlabPart]:
    """The largest caches."""
    caches = use.caches
    for row in np.argsort(-caches.bytes, kind="stable")[:MOST].tolist():
        if caches.ok[row] and caches.bytes[row]:
            yield SlabPart(
                name=printable(use.names[row]),
                cache=hex(int(caches.cache[row])),
                objects=int(caches.objects[row]),
                object_size=int(caches.object_size[row]),
                slabs=int(caches.slabs[row]),
                size=int(caches.bytes[row]),
                kinds=max(int(caches.users[row]), 1),
            )


def _shmem(use: ShmemUse, page: int) -> Iterator[ShmemPart]:
    files = use.files
    for row in range(len(files)):
        yield ShmemPart(
            name=printable(use.names[row]),
            inode=hex(int(files.inode[row])),
            length=int(files.size[row]),
            resident=int(files.pages[row]) * page,
            swapped=int(files.swapped[row]) * page,
        )


def _vmalloc(kernel: Kernel, use: VmallocUse, page: int) -> Iterator[VmallocPart]:
    """The callers with most; one outside of the kernel's own symbols by its address."""
    arch, symbols = kernel.arch, kernel.symbols.by_address()
    for row in range(min(len(use.callers), MOST)):
        address = int(use.callers[row])
        near = symbols.nearest(use.callers[row : row + 1])
        inside = arch.image_start <= address < arch.image_start + arch.image_size and near.row[0] >= 0
        yield VmallocPart(
            caller=printable(symbols.name(int(near.row[0]))) if inside else hex(address),
            address=hex(address),
            size=int(use.pages[row]) * page,
            areas=int(use.areas[row]),
        )


def memory_not_assessed(memory: MemoryCase) -> Iterator[str]:
    """What of this could not be read."""
    if memory.figures.unknown:
        yield "figures whose variables are not in the image or not known: " + ", ".join(memory.figures.unknown)
    if memory.mms is None or memory.rss_ok is None:
        yield "processes: the list of tasks, or structures of the kernel, are not known"
    elif lost := int((~memory.rss_ok).sum()):
        yield f"{counted(lost, 'address space')}: counters that are not in the image or not whole"
    for what, part in (("slab caches", memory.slabs), ("shared memory", memory.shmem), ("vmalloc", memory.vmalloc)):
        if part is None:
            yield f"{what}: the kernel's lists of them are not known"
        elif not part.whole:
            yield f"{what}: the kernel's lists of them could not be followed to the end, or not all of it was read"
