"""The figures of /proc/meminfo that an image allows (fs/proc/meminfo.c, mm/show_mem.c, mm/util.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import U32, U64
from vmaforensics.views.memory.counters import read_counters
from vmaforensics.views.problems import ProblemLog
from vmaforensics.views.structures.circular_lists import walk_rings
from vmaforensics.views.structures.per_cpu import per_cpu_offsets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.memory.counters import Counters

_MOST_KIB: Final = 1 << 52  # more memory than a machine has: such a figure is not believed
_MOST_HSTATES: Final = 8
_SWAP_FILES: Final = 32  # MAX_SWAPFILES and a little
_MOST_SPACES: Final = 1 << 16  # address spaces of one swap file: one for each 64 MiB
_USED, _WRITE_OK = 1, 2  # SWP_USED, SWP_WRITEOK (include/linux/swap.h)

# What is a counter of pages and no more, in the order of /proc/meminfo.
_COUNTERS: Final = {
    "MemFree": ("NR_FREE_PAGES",),
    "Active": ("NR_ACTIVE_ANON", "NR_ACTIVE_FILE"),
    "Inactive": ("NR_INACTIVE_ANON", "NR_INACTIVE_FILE"),
    "Active(anon)": ("NR_ACTIVE_ANON",),
    "Inactive(anon)": ("NR_INACTIVE_ANON",),
    "Active(file)": ("NR_ACTIVE_FILE",),
    "Inactive(file)": ("NR_INACTIVE_FILE",),
    "Unevictable": ("NR_UNEVICTABLE",),
    "Mlocked": ("NR_MLOCK",),
    "Dirty": ("NR_FILE_DIRTY",),
    "Writeback": ("NR_WRITEBACK",),
    "AnonPages": ("NR_ANON_MAPPED",),
    "Mapped": ("NR_FILE_MAPPED",),
    "Shmem": ("NR_SHMEM",),
    "KReclaimable": ("NR_SLAB_RECLAIMABLE_B", "NR_KERNEL_MISC_RECLAIMABLE"),
    "Slab": ("NR_SLAB_RECLAIMABLE_B", "NR_SLAB_UNRECLAIMABLE_B"),
    "SReclaimable": ("NR_SLAB_RECLAIMABLE_B",),
    "SUnreclaim": ("NR_SLAB_UNRECLAIMABLE_B",),
    "PageTables": ("NR_PAGETABLE",),
    "SecPageTables": ("NR_SECONDARY_PAGETABLE",),
    "Unaccepted": ("NR_UNACCEPTED",),
    "Balloon": ("NR_BALLOON_PAGES",),
    "GPUActive": ("NR_GPU_ACTIVE",),
    "GPUReclaim": ("NR_GPU_RECLAIM",),
}
_THP: Final = {
    "AnonHugePages": "NR_ANON_THPS",
    "ShmemHugePages": "NR_SHMEM_THPS",
    "ShmemPmdMapped": "NR_SHMEM_PMDMAPPED",
    "FileHugePages": "NR_FILE_THPS",
    "FilePmdMapped": "NR_FILE_PMDMAPPED",
}
ORDER: Final = (
    "MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapCached", "Active", "Inactive", "Active(anon)",
    "Inactive(anon)", "Active(file)", "Inactive(file)", "Unevictable", "Mlocked", "SwapTotal", "SwapFree", "Dirty",
    "Writeback", "AnonPages", "Mapped", "Shmem", "KReclaimable", "Slab", "SReclaimable", "SUnreclaim", "KernelStack",
    "PageTables", "SecPageTables", "CommitLimit", "Committed_AS", "VmallocUsed", "Percpu", "HardwareCorrupted",
    "AnonHugePages", "ShmemHugePages", "ShmemPmdMapped", "FileHugePages", "FilePmdMapped", "CmaTotal", "CmaFree",
    "Unaccepted", "Balloon", "GPUActive", "GPUReclaim",
    "HugePages_Total", "HugePages_Free", "HugePages_Rsvd", "HugePages_Surp", "Hugepagesize", "Hugetlb",
)  # fmt: skip


class Figure(NamedTuple):
    """A line of /proc/meminfo."""

    name: str
    value: int  # KiB; of HugePages_*, pages
    exact: int  # the same with what CPUs have not added yet


class Figures(NamedTuple):
    """Those that could be read, in the kernel's order, and those that could not though the kernel has them."""

    known: list[Figure]
    unknown: list[str]
    on_cpus: int | None = None  # KiB on the free lists of CPUs, which MemFree leaves out


def read_figures(kernel: Kernel) -> Figures:
    """The lines of /proc/meminfo."""
    counters = read_counters(kernel)
    reader = _Reader(kernel, counters)
    found = {}
    for figure in reader.figures():
        if max(figure.value, figure.exact) < _MOST_KIB:
            found[figure.name] = figure
        else:
            reader.missing.append(figure.name)
    known = [found[name] for name in ORDER if name in found]
    on_cpus = None if counters.on_cpus is None else counters.on_cpus * kernel.arch.page_size >> 10
    return Figures(known, [name for name in reader.missing if name not in found], on_cpus)


@table(struct="hstate")
class _Hstates(Table):
    order: U32 = member("order")
    total: U64 = member("nr_huge_pages")
    free: U64 = member("free_huge_pages")
    reserved: U64 = member("resv_huge_pages")
    surplus: U64 = member("surplus_huge_pages")


@table(struct="swap_info_struct")
class _SwapFiles(Table):
    flags: U64 = member("flags")
    pages: U32 = member("pages")
    used: U32 = member("inuse_pages.counter|inuse_pages")


class _Reader:
    def __init__(self, kernel: Kernel, counters: Counters) -> None:
        self._kernel, self._counters = kernel, counters
        self._page = kernel.arch.page_size >> 10  # KiB
        self.missing: list[str] = []

    def figures(self) -> Iterator[Figure]:
        """Each line that can be had; names of others are noted in ``missing``."""
        yield from self._pages("MemTotal", self._variable("_totalram_pages", "totalram_pages"))
        for name, items in _COUNTERS.items():
            yield from self._sum(name, items)
        buffers = self._buffers()
        cached, swapped = self._counter("NR_FILE_PAGES"), self._swap_cache()
        yield from self._pages("Buffers", buffers)
        yield from self._pages("SwapCached", swapped)
        if cached is None or buffers is None or swapped is None:
            self.missing.append("Cached")
        else:
            yield from self._pages("Cached", max(cached - buffers - swapped, 0))
        yield from self._pages("MemAvailable", self._available())
        total, free = self._swap()
        yield from self._pages("SwapTotal", total)
        yield from self._pages("SwapFree", free)
        yield from self._kilobytes("KernelStack", "NR_KERNEL_STACK_KB")
        yield from self._huge_pages(total)
        yield from self._pages("Committed_AS", self._committed())
        vmalloc = self._counter("NR_VMALLOC")
        yield from self._pages("VmallocUsed", self._variable("nr_vmalloc_pages") if vmalloc is None else vmalloc)
        populated, units = self._variable("pcpu_nr_populated"), self._variable("pcpu_nr_units", size=4)
        yield from self._pages("Percpu", None if populated is None or units is None else populated * units)
        yield from self._pages("HardwareCorrupted", self._variable("num_poisoned_pages"))
        if self._kernel.symbols.get("cma_alloc") is not None:
            yield from self._pages("CmaTotal", self._variable("totalcma_pages"))
            yield from self._sum("CmaFree", ("NR_FREE_CMA_PAGES",))
        # Huge pages are counted in pages since 5.12, as the swap cache is (NR_SWAPCACHE came with that).
        scale = 1 if self._kernel.types.constant("NR_SWAPCACHE") is not None else 1 << self._kernel.arch.huge_order
        for name, item in _THP.items() if self._kernel.symbols.get("transparent_hugepage_flags") is not None else ():
            yield from self._sum(name, (item,), scale)

    def _variable(self, *names: str, size: int = 8) -> int | None:
        return next((value for name in names if (value := self._kernel.variable(name, size)) is not None), None)

    def _counter(self, name: str) -> int | None:
        return self._counters.value(self._kernel, name)

    def _pages(self, name: str, pages: int | None) -> Iterator[Figure]:
        """A figure of pages that no CPU keeps a part of."""
        if pages is None:
            self.missing.append(name)
        else:
            yield Figure(name, pages * self._page, pages * self._page)

    def _sum(self, name: str, items: tuple[str, ...], scale: int = 1) -> Iterator[Figure]:
        """A figure of pages that is the sum of counters; nothing where the kernel has none of them."""
        names = [item for item in items if self._has(item)]
        shown = [value for item in names if (value := self._counter(item)) is not None]
        exact = [value for item in names if (value := self._counters.exact(self._kernel, item)) is not None]
        if len(shown) < len(names):
            self.missing.append(name)
        elif names:
            value = sum(shown) * scale * self._page
            yield Figure(name, value, sum(exact) * scale * self._page if len(exact) == len(names) else value)

    def _has(self, item: str) -> bool:
        return self._kernel.types.constant(item) is not None

    def _kilobytes(self, name: str, item: str) -> Iterator[Figure]:
        """A counter of KiB."""
        shown, exact = self._counter(item), self._counters.exact(self._kernel, item)
        if shown is None:
            self.missing.append(name)
        else:
            yield Figure(name, shown, shown if exact is None else exact)

    def _buffers(self) -> int | None:
        """Pages in the page caches of block devices (nr_blockdev_pages, block/bdev.c)."""
        kernel = self._kernel
        block = self._variable("blockdev_superblock")
        if not block or not kernel.has("super_block", "s_inodes") or not kernel.has("inode", "i_sb_list"):
            return None
        inodes = inodes_of(kernel, block)
        if inodes is None:
            return None
        mapping, ok = kernel.gather_member("inode", "i_mapping", inodes)
        pages, read = kernel.gather_member("address_space", "nrpages", mapping)
        return int(pages.sum()) if (ok & read).all() else None

    def _swap_cache(self) -> int | None:
        """Pages of the swap cache; before 5.12 counted by each of its address spaces."""
        kernel = self._kernel
        if self._has("NR_SWAPCACHE"):
            return self._counter("NR_SWAPCACHE")
        spaces, counts = kernel.symbols.get("swapper_spaces"), kernel.symbols.get("nr_swapper_spaces")
        if spaces is None or counts is None or kernel.types.struct("address_space") is None:
            return None
        pointers, ok = kernel.words(np.array([spaces], np.uint64), _SWAP_FILES - 9)
        data, read = kernel.space.gather(np.array([counts], np.uint64), 4 * (_SWAP_FILES - 9))
        if not ok[0] or not read[0]:
            return None
        total = 0
        for pointer, count in zip(pointers[0].tolist(), data.view("<u4")[0].tolist(), strict=True):
            places = np.arange(min(count, _MOST_SPACES), dtype=np.uint64) * np.uint64(kernel.sizeof("address_space"))
            if not pointer or not len(places):
                continue
            with np.errstate(over="ignore"):
                pages, known = kernel.gather_member("address_space", "nrpages", np.uint64(pointer) + places)
            if not known.all():
                return None
            total += int(pages.sum())
        return total

    def _swap(self) -> tuple[int | None, int | None]:
        """(pages of swap, free ones): si_swapinfo, mm/swapfile.c; what is being switched off counts too."""
        kernel = self._kernel
        total, free, files = (self._variable(name) for name in ("total_swap_pages", "nr_swap_pages", "swap_info"))
        at, count = kernel.symbols.get("swap_info"), self._variable("nr_swapfiles", size=4)
        if total is None or free is None:
            return None, None
        free = int(np.array([free], np.uint64).view(np.int64)[0])  # below 0 while swap is being switched off
        if files is None or at is None or count is None or kernel.types.struct("swap_info_struct") is None:
            return total, max(free, 0)
        pointers, ok = kernel.words(np.array([at], np.uint64), min(count, _SWAP_FILES)) if count else (None, None)
        if pointers is None or ok is None or not ok[0]:
            return total, max(free, 0)
        rows, read = kernel.gather(_SwapFiles, pointers[0])
        going = read & (rows.flags & np.uint64(_USED) != 0) & (rows.flags & np.uint64(_WRITE_OK) == 0)
        leaving = int(rows.used[going].sum())
        return total + leaving, max(free + leaving, 0)

    def _available(self) -> int | None:
        """si_mem_available, mm/show_mem.c."""
        free, reserve = self._counter("NR_FREE_PAGES"), self._variable("totalreserve_pages")
        items = ("NR_ACTIVE_FILE", "NR_INACTIVE_FILE", "NR_SLAB_RECLAIMABLE_B", "NR_KERNEL_MISC_RECLAIMABLE")
        active, inactive, slab, misc = (self._counter(item) for item in items)
        mark = self._low_watermark()
        if None in (free, reserve, active, inactive, slab, misc, mark):
            return None
        assert free is not None and reserve is not None and active is not None and inactive is not None
        assert slab is not None and misc is not None and mark is not None
        cache, reclaimable = active + inactive, slab + misc
        available = free - reserve + cache - min(cache // 2, mark) + reclaimable - min(reclaimable // 2, mark)
        return max(available, 0)

    def _low_watermark(self) -> int | None:
        """Pages below which zones are reclaimed from, of all of them (low_wmark_pages)."""
        kernel, low = self._kernel, self._kernel.types.constant("WMARK_LOW")
        if low is None or not kernel.has("zone", "_watermark") or not len(self._counters.zones):
            return None
        zones = self._counters.zones
        at = np.uint64(kernel.offset("zone", "_watermark") + 8 * low)
        marks, ok = kernel.words(zones + at, 1)
        boost, _ = kernel.gather_member("zone", "watermark_boost?", zones)
        return int(marks.sum()) + int(boost.sum()) if ok.all() else None

    def _huge_pages(self, swap: int | None) -> Iterator[Figure]:
        """Pages of hugetlb, and the limit to commitments, which leaves them out (vm_commit_limit, mm/util.c)."""
        kernel = self._kernel
        at, most = kernel.symbols.get("hstates"), self._variable("hugetlb_max_hstate", size=4)
        default = self._variable("default_hstate_idx", size=4)
        taken = 0
        if at is not None and most is not None and kernel.types.struct("hstate") is not None:
            places = np.arange(min(most, _MOST_HSTATES), dtype=np.uint64) * np.uint64(kernel.sizeof("hstate"))
            rows, ok = kernel.gather(_Hstates, np.uint64(at) + places)
            if not ok.all() or (rows.order > 40).any():
                self.missing.append("Hugetlb")
                return
            sizes = [self._page << order for order in rows.order.tolist()]
            totals = [size * total for size, total in zip(sizes, rows.total.tolist(), strict=True)]
            taken = sum(totals) // self._page
            yield Figure("Hugetlb", sum(totals), sum(totals))
            if default is not None and default < len(rows):
                values = (rows.total, rows.free, rows.reserved, rows.surplus)
                for name, column in zip(("Total", "Free", "Rsvd", "Surp"), values, strict=True):
                    yield Figure(f"HugePages_{name}", int(column[default]), int(column[default]))
                yield Figure("Hugepagesize", sizes[default], sizes[default])
        yield from self._pages("CommitLimit", self._commit_limit(taken, swap))

    def _commit_limit(self, huge: int, swap: int | None) -> int | None:
        total, ratio = (
            self._variable("_totalram_pages", "totalram_pages"),
            self._variable("sysctl_overcommit_ratio", size=4),
        )
        fixed = self._variable("sysctl_overcommit_kbytes")
        if total is None or ratio is None or fixed is None or swap is None:
            return None
        return (fixed // self._page if fixed else max(total - huge, 0) * ratio // 100) + swap

    def _committed(self) -> int | None:
        """vm_memory_committed: a percpu_counter with all its parts."""
        kernel, at = self._kernel, self._kernel.symbols.get("vm_committed_as")
        if at is None or kernel.types.struct("percpu_counter") is None:
            return None
        place = np.array([at], np.uint64)
        count, ok = kernel.gather_signed("percpu_counter", "count", place)
        parts, read = kernel.gather_member("percpu_counter", "counters?", place)
        if not ok[0] or not read[0]:
            return None
        with np.errstate(over="ignore"):
            data, known = kernel.space.gather(parts[0] + per_cpu_offsets(kernel), 4)
        return max(int(count[0]) + int(data.view("<i4").sum()), 0) if known.all() else None


def inodes_of(kernel: Kernel, super_block: int) -> U64 | None:
    """The inodes of a file system (``s_inodes``); None if the list could not be followed to its end."""
    head = np.array([super_block + kernel.offset("super_block", "s_inodes")], np.uint64)
    ring = walk_rings(kernel, head, ProblemLog())
    if not ring.whole:
        return None
    nodes: U64 = ring.node[ring.node != head[0]]
    return nodes - np.uint64(kernel.offset("inode", "i_sb_list"))
