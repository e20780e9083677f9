"""Kernel memory that the CPU may execute and that no record of code has, and modules that only such memory shows.

The kernel half of the page tables says what is executable; whose it is say modules, BPF, tracers and probes
(arch/x86/mm, kernel/module, kernel/bpf/core.c). Memory that holds nothing but the filler is a part of a cache of
executable memory (execmem, mm/execmem.c; packs of BPF programs) that nobody uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.arch.page_tables import ALLOW_EXECUTE, ALLOW_WRITE
from vmaforensics.columns.lookup import covering_rows, distinct
from vmaforensics.columns.ragged import expand
from vmaforensics.columns.runs import begins_range, begins_run, run_lasts, run_starts
from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import U8, U64, Bools
from vmaforensics.views.objects.vmalloc import all_areas, find_areas
from vmaforensics.views.road.code_cache import given_back
from vmaforensics.views.road.loaded import Loaded, read_loaded

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.road.code_owners import CodeOwners
    from vmaforensics.views.stacks.modules import Part

_MOST_PAGES: Final = 1 << 14  # that are looked into
_MOST_AREA: Final = 1 << 26  # bytes of an area that are searched for a struct module
_MOST_SEARCHED: Final = 1 << 30  # bytes of all of them
_ALIGN: Final = 64  # of struct module (____cacheline_aligned)
_FIRST: Final = 32  # bytes of code that are kept
_CONTROL_PAGES: Final = 2  # KEXEC_CONTROL_CODE_MAX_SIZE, KEXEC_CONTROL_PAGE_SIZE
_REAL_MODE: Final = 1 << 20  # below which the code lies that other CPUs start with
# Who allocates executable memory for others; any other function of the kernel does so for itself.
_ALLOCATORS: Final = (
    *("load_module", "layout_and_allocate", "move_module", "module_alloc", "module_memory_alloc", "vmalloc_exec"),
    *("execmem_", "__execmem_", "vmalloc", "__vmalloc"),
)


@table()
class ForeignCode(Table):
    """Executable pages that follow each other and that nobody owns; by address."""

    start: U64
    end: U64
    writable: Bools
    area: U64  # start of its area of vmalloc; 0 for none
    area_end: U64
    caller: U64  # who asked for the area; 0: not known
    released: Bools  # part of the cache of executable memory, and handed out to nobody


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundCode:
    """See :func:`find_foreign_code`."""

    code: ForeignCode
    first: tuple[bytes, ...]  # bytes of each that are not the filler
    executable: Pages  # that were looked at
    unread: int  # of those that nobody owns: not in the image
    left_out: int  # of these: more than are looked into
    hidden: Loaded  # modules that lie in such memory and that no other record leads to


@table()
class Pages(Table):
    """Executable pages beside the kernel's own text; by address."""

    va: U64
    writable: Bools


def find_foreign_code(kernel: Kernel, owners: CodeOwners, packs: Part) -> FoundCode:
    """Executable pages that no code of ``owners`` and no pack of BPF programs has, and modules in them."""
    executable, left_out = _executable(kernel)
    size = np.uint64(kernel.arch.page_size)
    ranges = owners.ranges
    pages = executable.take(~_touches(executable.va, size, ranges.start, ranges.end))
    order = np.argsort(packs.start)
    pages = pages.take(covering_rows(packs.start[order], packs.end[order], pages.va) < 0)
    pages = pages.take(~_of_the_machine(kernel, pages.va))
    left_out += max(len(pages) - _MOST_PAGES, 0)
    pages = pages.take(slice(0, _MOST_PAGES))
    data, read = kernel.space.gather(pages.va, kernel.arch.page_size)
    used = read & ((data != kernel.arch.filler) & (data != 0)).any(axis=1)
    unread = int((~read).sum())
    pages, data = pages.take(used), data[used]
    areas = find_areas(kernel, pages.va)
    keep = ~_own_allocations(kernel, areas.caller)
    pages, data, areas = pages.take(keep), data[keep], areas.take(keep)
    released = _released(kernel, pages.va)
    begins = begins_range(pages.va, pages.va + size) | begins_run(released)
    first = run_starts(begins)
    last = run_lasts(first, len(pages))
    code = ForeignCode(
        start=pages.va[first],
        end=pages.va[last] + size,
        writable=pages.writable[first],
        area=areas.start[first],
        area_end=areas.end[first],
        caller=areas.caller[first],
        released=released[first],
    )
    begin = tuple(_begin(data[row], kernel.arch.filler) for row in first.tolist())
    return FoundCode(
        code=code,
        first=begin,
        executable=executable,
        unread=unread,
        left_out=left_out,
        hidden=_modules_in(kernel, code),
    )


def _executable(kernel: Kernel) -> tuple[Pages, int]:
    """Every executable page of the kernel half but for those of its own text, by address; how many more there are."""
    if kernel.root is None:
        return Pages.zeros(0), 0
    leaves = kernel.arch.walk_kernel(kernel.memory, kernel.root).leaves
    leaves = leaves.take((leaves.allow & ALLOW_EXECUTE) != 0)
    stext, etext = kernel.symbols.get("_stext"), kernel.symbols.get("_etext")
    span = kernel.arch.span(leaves.level)
    if stext is not None and etext is not None:
        own = (leaves.va >= np.uint64(stext & -kernel.arch.page_size)) & (leaves.va < np.uint64(etext))
        leaves, span = leaves.take(~own), span[~own]
    counts = kernel.arch.pages(span)
    kept = np.minimum(counts, np.uint64(_MOST_PAGES))
    row, place = expand(kept)
    va = leaves.va[row] + kernel.arch.bytes_of(place.astype(np.uint64))
    rows = Pages(va=va, writable=(leaves.allow[row] & ALLOW_WRITE) != 0)
    return rows.sort_by(rows.va), int((counts - kept).sum())


def _touches(pages: U64, size: np.uint64, starts: U64, ends: U64) -> Bools:
    """Does each page overlap one of the ranges, which are sorted by start?"""
    if not len(starts):
        return np.zeros(len(pages), np.bool_)
    reach = np.maximum.accumulate(ends)
    row = np.searchsorted(starts, pages + size, "left") - 1  # the last that begins before the page ends
    found: Bools = (row >= 0) & (reach[np.maximum(row, 0)] > pages)
    return found


def _of_the_machine(kernel: Kernel, pages: U64) -> Bools:
    """Pages of the direct map that other CPUs start with, and those that kexec jumps to another kernel from."""
    place = kernel.space.translate(pages)
    # The function too: kallsyms may list functions alone.
    starts_others = any(kernel.symbols.get(name) is not None for name in ("real_mode_header", "reserve_real_mode"))
    mine = place.mapped & (place.pa < np.uint64(_REAL_MODE)) & starts_others
    frames = [np.zeros(0, np.uint64)]
    for name in ("kexec_image", "kexec_crash_image"):
        image = kernel.variable(name, 8)
        if image and kernel.has("kimage", "control_code_page"):
            page, ok = kernel.gather_member("kimage", "control_code_page", np.array([image], np.uint64))
            base = kernel.arch.vmemmap(kernel.variable)
            with np.errstate(over="ignore"):
                frame = (page[ok] - np.uint64(base)) // np.uint64(kernel.sizeof("page"))
            frames += [frame + np.uint64(more) for more in range(_CONTROL_PAGES)]
    mine |= place.mapped & np.isin(kernel.arch.pages(place.pa), np.concatenate(frames))
    return mine


def _released(kernel: Kernel, pages: U64) -> Bools:
    """Which pages the cache of executable memory has got back: what was there need not be overwritten."""
    free = given_back(kernel)
    last = pages + np.uint64(kernel.arch.page_size - 1)
    row = covering_rows(free.start, free.end, pages)
    back: Bools = (row >= 0) & (row == covering_rows(free.start, free.end, last))
    return back


def _own_allocations(kernel: Kernel, callers: U64) -> Bools:
    """Which areas a function of the kernel asked for that does so for itself (a hypercall page, a JIT)."""
    found = np.zeros(len(callers), np.bool_)
    stext, etext = kernel.symbols.get("_stext") or 0, kernel.symbols.get("_etext") or 0
    symbols = kernel.symbols.by_address()
    for caller in distinct(callers).tolist():
        if stext <= caller < etext:
            row = int(symbols.nearest(np.array([caller], np.uint64)).row[0])
            found[callers == np.uint64(caller)] = not symbols.name(row).startswith(_ALLOCATORS)
    return found


def _begin(page: U8, filler: int) -> bytes:
    """The first bytes of a page that are no filler."""
    used = np.flatnonzero((page != filler) & (page != 0))
    start = int(used[0]) if len(used) else 0
    return page[start : start + _FIRST].tobytes()


def _modules_in(kernel: Kernel, code: ForeignCode) -> Loaded:
    """Every ``struct module`` that names itself in an area that was asked for as ``code`` was."""
    if not len(code) or not kernel.has("module", "mkobj.mod"):
        return Loaded.zeros(0)
    offset = kernel.offset("module", "mkobj.mod")
    found, room = [np.zeros(0, np.uint64)], _MOST_SEARCHED
    for start, end in _searched(kernel, code):
        length = max(min(end - start, _MOST_AREA, room), 0)
        room -= length
        at = np.arange(start, start + length, _ALIGN, dtype=np.uint64)
        words, ok = kernel.words(at + np.uint64(offset), 1)
        found.append(at[ok & (words[:, 0] == at)])
    modules = read_loaded(kernel, distinct(np.concatenate(found)))
    return modules.take(modules.credible())


def _searched(kernel: Kernel, code: ForeignCode) -> list[tuple[int, int]]:
    """Areas of vmalloc that may hold the data of a module: those that modules ask for, this code's among them."""
    areas = all_areas(kernel)
    rows = ~_own_allocations(kernel, areas.caller) & (areas.caller != 0)
    rows &= (areas.executable != 0) | np.isin(areas.start, code.area)
    return list(zip(areas.start[rows].tolist(), areas.end[rows].tolist(), strict=True))
