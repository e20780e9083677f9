"""VMA-DEVICE: VMA says that it maps a device, and does not.

*Compared:* `VM_PFNMAP`, `VM_IO` and `VM_MIXEDMAP` of each VMA with what the VMA has: its file or special mapping; and
with the entries of the VMA: a page that a driver mapped as raw page frame is marked so in its entry; the others are
private copies of a VMA that may be written to and is not shared. Anonymous pages in a VMA that is shared, or that has
no anon_vma, are nobody's copies. Pages that a file system has cached, of the regular file that a VMA with `VM_IO` maps,
are no device's.

*Guaranteed by:* only drivers' `mmap` set these flags (`remap_pfn_range_internal`, `vmf_insert_pfn`, `vm_insert_page`,
mm/memory.c), and these have a file; `vdso` and the like are special mappings. `insert_pfn` and `remap_pte_range` mark
each entry special. `vm_insert_page` refuses anonymous pages. While `mlock` looks at the pages of a VMA, it has VM_IO
beside VM_LOCKED (`mlock_vma_pages_range`, mm/mlock.c, since 5.18), which no VMA of a device has.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.arch.page_tables import ALLOW_EXECUTE, PteState
from vmaforensics.checks import hand
from vmaforensics.checks.context import allows
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.pages.kernel_leaves import entries_text
from vmaforensics.checks.rule import BUG, SMEAR, Part, Rule, Severity
from vmaforensics.checks.vmas.indexed import indexed_vmas, like_vmas
from vmaforensics.columns.lookup import distinct, values_at
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import I32, I64, Bools
    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.pages.ptes import Ptes

RULE = Rule(
    id="VMA-DEVICE",
    title="VMA says that it maps a device, and does not",
    severity=Severity.HIGH,
    why="Memory of devices is left out of core dumps, of counts and by most tools: nobody expects contents there. "
    "Ordinary memory with these flags is disguised.",
    benign=(SMEAR, BUG),
    attack=("T1564", "T1036"),
    compares="VM_PFNMAP, VM_IO and VM_MIXEDMAP with the file of the VMA, and with the pages that its entries lead to",
    views=(View.VMA, View.PAGE_TABLES, View.PAGES),
    transient="mmap of a driver, and mlock, under the write lock",
    by_hand=("crash: struct vm_area_struct.vm_flags,vm_file,vm_ops,anon_vma VMA", hand.VTOP),
    steps=("vma", "file", "memory", "entry", "frame"),
    part=Part.CAUSE,
    rank=155,
    changed_by=(Operation.MAP, Operation.PROTECT),
)

_BY_DRIVERS = (Operation.MAP,)
_BEING_LOCKED = flags.VM_LOCKED | flags.VM_IO
_LOCKED_DEVICE = flags.VM_LOCKED | flags.VM_DEVICE

_NAMES = ((flags.VM_PFNMAP, "VM_PFNMAP"), (flags.VM_IO, "VM_IO"), (flags.VM_MIXEDMAP, "VM_MIXEDMAP"))


def check(context: Context) -> Iterator[Finding]:
    """One finding for each VMA with such flags and no file, and for each process with entries that fit no driver."""
    views = context.views
    vmas = views.vmas
    device = vmas.ok & ((vmas.flags & np.uint64(flags.VM_DEVICE)) != 0) & (vmas.kind != Kind.SPECIAL)
    bare = device & (vmas.file == 0)
    if bare.any():
        indexed = indexed_vmas(context)[context.index]
        own = bare[indexed.vma_row] & (vmas.mm[indexed.vma_row] == indexed.entries.mm)
        for row in distinct(indexed.vma_row[own]).tolist():
            yield _without_file(context, int(row))
    if views.page_tables is not None:
        yield from _unfit_entries(context, views.page_tables, device & ~bare & (vmas.kind != Kind.HUGETLB))


def _without_file(context: Context, row: int) -> Finding:
    vmas, view = context.views.vmas, context.views.page_tables
    vm_flags, start, end = int(vmas.flags[row]), int(vmas.start[row]), int(vmas.end[row])
    names = ", ".join(name for bit, name in _NAMES if vm_flags & bit)
    evidence = [
        Evidence(
            what=f"vm_flags has {names}, and neither a file nor a special mapping",
            view=View.VMA.label,
            address=int(vmas.vma[row]),
            found=f"{vm_flags:#x}",
        )
    ]
    if view is not None:
        evidence += _pages_of(context, view, row)
    title = f"{allows(vm_flags)} VMA {start:#x}-{end:#x} says that it maps a device ({names}), and no driver made it"
    found = context.finding(RULE, int(vmas.mm[row]), title, evidence, bounds=(start, end))
    if vm_flags & _LOCKED_DEVICE == _BEING_LOCKED:
        return found  # the lock, which says whether mlock was at it, is read at a moment of its own
    return replace(found, at_once=_of_one_moment(context, row), changed_by=_BY_DRIVERS)


def _of_one_moment(context: Context, row: int) -> bool:
    """Are the words of a VMA in one page, and is it none that was freed?

    An index has a VMA once flags and file are set. Special mappings that were freed lose their operations to a pointer
    of the allocator; anonymous memory has none.
    """
    vmas, page_bases = context.views.vmas, context.views.arch.page_bases
    first = vmas.vma[row : row + 1]
    last = first + np.uint64(context.views.vma_size - 1)
    one = vmas.ops[row] == 0 and page_bases(first)[0] == page_bases(last)[0]
    return bool(one and like_vmas(context, np.array([row], np.int64))[0])


def _pages_of(context: Context, view: PageTablesView, row: int) -> list[Evidence]:
    """What the entries of a VMA lead to."""
    ptes = view.in_ranges(view.ranges.vma_row == row).ptes
    ptes = ptes.take(ptes.maps_frames())
    if not len(ptes):
        return []
    anon = int(values_at(view.pages.anon, ptes.page_row).sum())
    runs = int(((ptes.allow & ALLOW_EXECUTE) != 0).sum())
    what = f"{entries_text(len(ptes))}, {int(ptes.special.sum())} marked as raw page frames, "
    what += f"{anon} of anonymous pages, {runs} executable"
    return [
        Evidence(what=what, view=View.PAGE_TABLES.label, address=int(ptes.where[0]), found=f"{int(ptes.entry[0]):#x}")
    ]


def _unfit_entries(context: Context, view: PageTablesView, device: Bools) -> Iterator[Finding]:
    vmas = context.views.vmas
    ptes = view.in_ranges(values_at(device, view.ranges.vma_row)).ptes
    ptes = ptes.take((ptes.state == PteState.PRESENT) & (ptes.level == 1) & ~ptes.special)
    vma = view.ranges.vma_row[ptes.range_row]
    vm_flags = vmas.flags[vma]
    private = (vm_flags & np.uint64(flags.VM_SHARED | flags.VM_MAYWRITE)) == np.uint64(flags.VM_MAYWRITE)
    anon = values_at(view.pages.anon & view.pages.ok, ptes.page_row)
    copy = anon & private & (vmas.anon_vma[vma] != 0)
    mixed = (vm_flags & np.uint64(flags.VM_MIXEDMAP)) != 0
    raw = (vm_flags & np.uint64(flags.VM_PFNMAP)) != 0
    cached = ((vm_flags & np.uint64(flags.VM_IO)) != 0) & _of_regular_file(context, view, ptes, vma)
    wrong = np.flatnonzero((anon & ~copy) | (raw & ~mixed & ~copy) | cached)
    words = np.where(anon, "an anonymous page", "a page that is not marked as a raw page frame")
    words = np.where(cached, "a page of its file, which is a regular one", words)
    being_locked = (vm_flags[wrong] & np.uint64(_LOCKED_DEVICE)) == np.uint64(_BEING_LOCKED)
    locked, others = wrong[being_locked], wrong[~being_locked]
    yield from _of_entries(context, view, ptes.take(locked), words[locked].tolist())
    for finding in _of_entries(context, view, ptes.take(others), words[others].tolist()):
        yield replace(finding, changed_by=_BY_DRIVERS)


def _of_regular_file(context: Context, view: PageTablesView, ptes: Ptes, vma: I32 | I64) -> Bools:
    """Which entries lead to a page that names the regular file of its VMA (row of the VMAs)?"""
    vmas, files, pages = context.views.vmas, context.views.files, view.pages
    if files is None:
        return np.zeros(len(ptes), np.bool_)
    mapping = np.where(files.rows.ok & files.rows.regular, files.rows.mapping, np.uint64(0))
    named = values_at(np.where(pages.ok & ~pages.anon, pages.mapping, np.uint64(0)), ptes.page_row)
    found: Bools = (named != 0) & (named == values_at(mapping, vmas.file_row[vma]))
    return found


def _of_entries(context: Context, view: PageTablesView, ptes: Ptes, words: list[str]) -> Iterator[Finding]:
    views = context.views
    vma = view.ranges.vma_row[ptes.range_row]

    def title(at: int) -> str:
        where = context.vma_in_words(int(views.vmas.vma[vma[at]]))
        return f"{int(ptes.va[at]):#x} in a VMA of a device is {words[at]}: {where}"

    def evidence(at: int) -> Evidence:
        return Evidence(
            what=title(at),
            view=View.PAGE_TABLES.label,
            address=int(ptes.where[at]),
            found=f"{int(ptes.entry[at]):#x}",
        )

    def bounds(at: int) -> tuple[int, int]:
        return int(ptes.va[at]), int(ptes.va[at]) + int(ptes.sizes(views.arch)[at])

    yield from context.per_mm(RULE, views.mms.mm[ptes.mm_row], evidence, title, bounds)
