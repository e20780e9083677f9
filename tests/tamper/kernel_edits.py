"""Labelled edits of what is the kernel's own in every process: the kernel half, vDSO and vvar, and of disguises."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from support import rows_in

from tamper.edits import Label
from tamper.page_edits import pick_pte, view_of, write_entry
from vmaforensics.arch.page_tables import PteState
from vmaforensics.arch.x86_64 import bits
from vmaforensics.checks.finding import Severity
from vmaforensics.views.vmas import flags
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Edit, Row

    from vmaforensics.columns.types import Bools
    from vmaforensics.views.pages.mapped_pages import Pages
    from vmaforensics.views.pages.ptes import Ptes
    from vmaforensics.views.vmas.vmas import Vmas

PAGE = 4096
_VM_DISGUISE = flags.VM_IO | flags.VM_PFNMAP | 1 << 18 | 1 << 26  # VM_DONTEXPAND, VM_DONTDUMP


def _levels(edit: Edit) -> int:
    return edit.kernel.identity.levels


def _top(edit: Edit, mm_row: int) -> int:
    """Physical address of a process's top-level table."""
    return edit.physical(int(edit.views.mms.pgd[mm_row]))


def _word(edit: Edit, physical: int) -> int:
    return int.from_bytes(edit.overlay.read(physical, 8), "little")


def _count(edit: Edit, pfn: int, entries: int) -> None:
    """Have a page count so many more entries, as whoever adds or takes away one would."""
    page = edit.kernel.arch.vmemmap(edit.kernel.variable) + pfn * edit.kernel.sizeof("page")
    where = edit.at("page", page, "_mapcount.counter")
    edit.put(where, edit.get(where) + entries, 4)


def _heap(vmas: Vmas, pages: Pages) -> Bools:
    small: Bools = pages.anon & ~pages.ksm & ~pages.compound & (pages.mapcount == 1) & (vmas.kind == Kind.ANONYMOUS)
    return small


def _kernel_label(edit: Edit, technique: str, mm_row: int, slot: int) -> Label:
    shift = 12 + 9 * (_levels(edit) - 1)
    start = (-1 << (shift + 9)) % (1 << 64) | slot << shift
    return Label(technique=technique, pid=int(edit.views.mms.pid[mm_row]), start=start, end=start + (1 << shift))


def _free_slot(edit: Edit, mm_row: int) -> int:
    """A slot of the kernel half that no process uses."""
    return next(slot for slot in range(386, 500) if not _word(edit, _top(edit, mm_row) + 8 * slot))


def kernel_half_entry(edit: Edit) -> Label:
    """A top-level entry of the process's heap hung into the kernel half too, and nowhere else."""
    pte = pick_pte(edit, _heap)
    mm_row = int(pte.mm_row[0])
    slot = _free_slot(edit, mm_row)
    used = int(pte.va[0]) >> (12 + 9 * (_levels(edit) - 1))
    write_entry(edit, _top(edit, mm_row) + 8 * slot, _word(edit, _top(edit, mm_row) + 8 * used))
    return _kernel_label(edit, "heap in the kernel half", mm_row, slot)


def kernel_half_table(edit: Edit) -> Label:
    """An entry that every process has made to lead to a copy of its table, with the heap hung into the copy."""
    pte = pick_pte(edit, _heap)
    mm_row = int(pte.mm_row[0])
    top = _top(edit, mm_row)
    others = view_of(edit).ptes
    spare = others.take(
        (others.page_row >= 0) & (others.mm_row != mm_row) & (others.level == 1) & ~np.isin(others.pfn, pte.pfn)
    )
    spare = spare.take(view_of(edit).pages.anon[spare.page_row] & (view_of(edit).pages.mapcount[spare.page_row] == 1))
    copy = int(spare.pfn[len(spare) // 2]) << 12
    slot = next(slot for slot in range(511, 256, -1) if _word(edit, top + 8 * slot) & bits.PRESENT)
    entry = _word(edit, top + 8 * slot)
    table = edit.overlay.read(entry & bits.ADDRESS_MASK, PAGE)
    edit.overlay.write(copy, table)
    free = next(at for at in range(512) if not int.from_bytes(table[8 * at : 8 * at + 8], "little"))
    below = _word(edit, top + 8 * (int(pte.va[0]) >> (12 + 9 * (_levels(edit) - 1)))) & bits.ADDRESS_MASK
    hung = next(word for at in range(512) if (word := _word(edit, below + 8 * at)) & bits.PRESENT)
    write_entry(edit, copy + 8 * free, hung)
    write_entry(edit, top + 8 * slot, entry & ~bits.ADDRESS_MASK | copy | bits.USER)
    return _kernel_label(edit, "kernel table exchanged for a copy", mm_row, slot)


def kernel_half_user_copy(edit: Edit) -> Label:
    """With page-table isolation: the heap hung into the kernel half of the copy that user mode runs on alone."""
    assert edit.kernel.identity.isolation, "the kernel has no page-table isolation"
    pte = pick_pte(edit, _heap)
    mm_row = int(pte.mm_row[0])
    top, slot = _top(edit, mm_row), _free_slot(edit, mm_row)
    used = int(pte.va[0]) >> (12 + 9 * (_levels(edit) - 1))
    write_entry(edit, top + PAGE + 8 * slot, _word(edit, top + 8 * used) & ~bits.NO_EXECUTE)
    return _kernel_label(edit, "heap in the kernel half of the user's copy", mm_row, slot)


def kernel_half_everywhere(edit: Edit) -> Label:
    """The same entry in the kernel half of every process but not in the kernel's own table."""
    pte = pick_pte(edit, _heap)
    mm_row = int(pte.mm_row[0])
    slot = _free_slot(edit, mm_row)
    used = int(pte.va[0]) >> (12 + 9 * (_levels(edit) - 1))
    entry = _word(edit, _top(edit, mm_row) + 8 * used)
    for row in range(len(edit.views.mms)):
        write_entry(edit, _top(edit, row) + 8 * slot, entry)
    label = _kernel_label(edit, "heap in the kernel half of every process", mm_row, slot)
    return Label(technique=label.technique, pid=0, start=label.start, end=label.end)


def kernel_page_opened(edit: Edit) -> Label:
    """The user bit set on all levels for a page of the kernel's vmalloc area, which all processes share."""
    kernel = edit.kernel
    root = kernel.symbols.get("init_top_pgt")
    assert root is not None
    leaves = kernel.arch.walk_kernel(kernel.memory, edit.physical(root)).leaves
    base = kernel.variable("vmalloc_base", 8) or 0xFFFFC900_00000000
    inside = leaves.take(
        (leaves.level == 1) & (leaves.va >= np.uint64(base)) & (leaves.va < np.uint64(base + (1 << 40)))
    )
    va = int(inside.va[len(inside) // 2])
    table = edit.physical(root)
    for level in range(_levels(edit), 0, -1):
        where = table + 8 * (va >> (12 + 9 * (level - 1)) & 511)
        entry = _word(edit, where)
        write_entry(edit, where, entry | bits.USER)
        table = entry & bits.ADDRESS_MASK
    for row in range(len(edit.views.mms)):
        where = _top(edit, row) + 8 * (va >> (12 + 9 * (_levels(edit) - 1)) & 511)
        write_entry(edit, where, _word(edit, where) | bits.USER)
    return Label(
        technique="page of the kernel opened for user mode", pid=0, start=va, end=va + PAGE, rank=Severity.CRITICAL
    )


def direct_map_moved(edit: Edit) -> Label:
    """An entry of the direct map made to lead to another page."""
    kernel = edit.kernel
    root = kernel.symbols.get("init_top_pgt")
    assert root is not None
    pte = pick_pte(edit, _heap)
    base = kernel.arch.direct_map(kernel.variable)
    leaves = kernel.arch.walk_kernel(kernel.memory, edit.physical(root)).leaves
    inside = (leaves.level == 1) & (leaves.va >= np.uint64(base)) & (leaves.va < np.uint64(base + (1 << 40)))
    users = edit.views.page_tables.pages.pfn if edit.views.page_tables is not None else np.zeros(0, np.uint64)
    mapped = np.isin((leaves.va - np.uint64(base)) >> np.uint64(12), users)
    found = leaves.take(inside & mapped)
    found = found if len(found) else leaves.take(inside)
    va = int(found.va[0])
    write_entry(edit, int(found.where[0]), int(found.entry[0]) & ~bits.ADDRESS_MASK | int(pte.pfn[0]) << 12)
    return Label(technique="direct map shows another page", pid=0, start=va, end=va + PAGE)


# Disguised as a device -------------------------------------------------------------------------------------


def _disguised(edit: Edit) -> tuple[Ptes, Row]:
    """Present entries of a private anonymous VMA, and the VMA."""
    view, vmas = view_of(edit), edit.views.vmas
    pte = pick_pte(edit, lambda vmas, pages: _heap(vmas, pages) & ((vmas.flags & np.uint64(flags.VM_GROWSDOWN)) == 0))
    area = int(pte.range_row[0])
    (vma,) = rows_in(vmas.take(view.ranges.vma_row[area : area + 1]))
    return view.ptes.take((view.ptes.range_row == area) & (view.ptes.state == PteState.PRESENT)), vma


def _as_device(edit: Edit, technique: str, vma: Row) -> Label:
    edit.put(edit.at("vm_area_struct", int(vma.vma), "vm_flags"), int(vma.flags) | _VM_DISGUISE)
    mm_row = int(edit.views.mm_rows(np.array([vma.mm], np.uint64))[0])
    return Label(technique=technique, pid=int(edit.views.mms.pid[mm_row]), start=int(vma.start), end=int(vma.end))


def device_flags(edit: Edit, *, repaired: bool = False) -> Label:
    """VM_IO and VM_PFNMAP set on anonymous memory; repaired: its entries are marked as raw page frames, no page counts
    them."""
    ptes, vma = _disguised(edit)
    if repaired:
        for pte in rows_in(ptes):
            write_entry(edit, int(pte.where), int(pte.entry) | bits.SPECIAL)
            _count(edit, int(pte.pfn), -1)
    technique = "anonymous memory disguised as a device"
    return _as_device(edit, f"{technique}, entries marked" if repaired else technique, vma)


def device_file(edit: Edit) -> Label:
    """The same with file and operations of a VMA that maps a device, shared."""
    vmas = edit.views.vmas
    real = vmas.take((vmas.kind == Kind.DEVICE) & ((vmas.flags & np.uint64(flags.VM_PFNMAP)) != 0))
    assert len(real), "no VMA maps a device"
    _, vma = _disguised(edit)
    for member, value in (("vm_file", real.file[0]), ("vm_ops", real.ops[0])):
        edit.put(edit.at("vm_area_struct", int(vma.vma), member), int(value))
    label = _as_device(edit, "anonymous memory disguised as a shared device, with its file", vma)
    edit.put(
        edit.at("vm_area_struct", int(vma.vma), "vm_flags"),
        int(vma.flags) | _VM_DISGUISE | flags.VM_SHARED | flags.VM_MAYSHARE,
    )
    return label


def device_file_private(edit: Edit) -> Label:
    """The same as a private mapping of the device, whose pages are all copies."""
    vmas = edit.views.vmas
    real = vmas.take((vmas.kind == Kind.DEVICE) & ((vmas.flags & np.uint64(flags.VM_PFNMAP)) != 0))
    assert len(real), "no VMA maps a device"
    _, vma = _disguised(edit)
    for member, value in (("vm_file", real.file[0]), ("vm_ops", real.ops[0])):
        edit.put(edit.at("vm_area_struct", int(vma.vma), member), int(value))
    return _as_device(edit, "anonymous memory disguised as a private mapping of a device", vma)


def entry_marked_special(edit: Edit) -> Label:
    """An anonymous page's entry marked as a raw page frame, the page no longer counts it."""
    pte = pick_pte(edit, _heap)
    write_entry(edit, int(pte.where[0]), int(pte.entry[0]) | bits.SPECIAL)
    _count(edit, int(pte.pfn[0]), -1)
    pid = int(edit.views.mms.pid[pte.mm_row[0]])
    start = int(pte.va[0])
    return Label(technique="entry marked as a raw page frame", pid=pid, start=start, end=start + PAGE)


# vDSO --------------------------------------------------------------------------------------------------------


def _vdso_pte(edit: Edit, name: bytes) -> Ptes:
    view = view_of(edit)
    named = np.array([edit.views.names[row] == name for row in range(len(edit.views.vmas))])
    areas = np.flatnonzero(named[view.ranges.vma_row])
    found = np.flatnonzero(np.isin(view.ptes.range_row, areas) & (view.ptes.state == PteState.PRESENT))
    assert len(found), f"no page of {name.decode()} is present"
    middle = found[len(found) // 2]
    return view.ptes.take(np.array([middle]))


def _vdso_label(edit: Edit, technique: str, pte: Ptes) -> Label:
    pid = int(edit.views.mms.pid[pte.mm_row[0]])
    return Label(technique=technique, pid=pid, start=int(pte.va[0]), end=int(pte.va[0]) + PAGE)


def _lead(edit: Edit, pte: Ptes, pfn: int) -> None:
    """Have an entry lead to a page, which counts it if the entry is counted."""
    if not int(pte.entry[0]) & bits.SPECIAL:
        _count(edit, pfn, 1)
    write_entry(edit, int(pte.where[0]), int(pte.entry[0]) & ~bits.ADDRESS_MASK | pfn << 12)


def vdso_replaced(edit: Edit) -> Label:
    """The entry of a page of the vDSO made to lead to another page."""
    pte, other = _vdso_pte(edit, b"[vdso]"), pick_pte(edit, _heap)
    _lead(edit, pte, int(other.pfn[0]))
    return _vdso_label(edit, "vDSO replaced", pte)


def vvar_replaced(edit: Edit) -> Label:
    """The entry of a page of vvar made to lead to another page: the process has a clock of its own."""
    pte, other = _vdso_pte(edit, b"[vvar]"), pick_pte(edit, _heap)
    _lead(edit, pte, int(other.pfn[0]))
    return _vdso_label(edit, "vvar replaced", pte)


def vvar_made_writable(edit: Edit) -> Label:
    """Write and execute permission in flags, page_prot and entries of vvar, where both are never given."""
    pte = _vdso_pte(edit, b"[vvar]")
    (vma,) = rows_in(edit.views.vmas.take(view_of(edit).ranges.vma_row[pte.range_row]))
    rights = flags.VM_WRITE | flags.VM_EXEC
    edit.put(edit.at("vm_area_struct", int(vma.vma), "vm_flags"), int(vma.flags) | rights)
    prot = (int(vma.page_prot) | bits.WRITE) & ~bits.NO_EXECUTE
    edit.put(edit.at("vm_area_struct", int(vma.vma), "vm_page_prot"), prot)
    for entry in rows_in(view_of(edit).ptes.take(view_of(edit).ptes.range_row == pte.range_row[0])):
        write_entry(edit, int(entry.where), (int(entry.entry) | bits.WRITE) & ~bits.NO_EXECUTE)
    return _vdso_label(edit, "vvar made writable and executable", pte)


def _mm_with(edit: Edit) -> tuple[int, Row]:
    """A process with a writable anonymous VMA, and that VMA."""
    pte = pick_pte(edit, _heap)
    view = view_of(edit)
    (vma,) = rows_in(edit.views.vmas.take(view.ranges.vma_row[pte.range_row]))
    return int(pte.mm_row[0]), vma


def vdso_pointed_elsewhere(edit: Edit, *, repaired: bool = False) -> Label:
    """``context.vdso`` set to anonymous memory, which many tools then pass over; repaired: AT_SYSINFO_EHDR too."""
    mm_row, vma = _mm_with(edit)
    mm = int(edit.views.mms.mm[mm_row])
    edit.put(edit.at("mm_struct", mm, "context.vdso"), int(vma.start))
    if repaired:
        auxv = edit.at("mm_struct", mm, "saved_auxv")
        for at in range(auxv, auxv + 40 * 16, 16):
            if edit.get(at) == 33:
                edit.put(at + 8, int(vma.start))
                break
    return Label(
        technique="context.vdso names other memory" + (", auxiliary vector too" if repaired else ""),
        pid=int(edit.views.mms.pid[mm_row]),
        start=int(vma.start),
        end=int(vma.end),
    )


def vdso_image_exchanged(edit: Edit) -> Label:
    """``context.vdso_image`` of one process set to a structure made by hand, whose data is another page."""
    pte, other = _vdso_pte(edit, b"[vdso]"), pick_pte(edit, _heap)
    kernel, mm = edit.kernel, int(edit.views.mms.mm[pte.mm_row[0]])
    word = edit.at("mm_struct", mm, "context.vdso_image")
    init_task = kernel.symbols.get("init_task")
    assert init_task is not None
    made = (edit.at("task_struct", init_task, "thread") + 255) & ~255
    for at in range(0, kernel.sizeof("vdso_image") // 8 * 8, 8):
        edit.put(made + at, edit.get(edit.get(word) + at))
    direct = kernel.arch.direct_map(kernel.variable) + (int(other.pfn[0]) << 12)
    edit.put(edit.at("vdso_image", made, "data"), direct)
    edit.put(word, made)
    _lead(edit, pte, int(other.pfn[0]))
    return _vdso_label(edit, "vdso_image exchanged", pte)


def vdso_patched_for_all(edit: Edit) -> Label:
    """A function of the kernel's own vDSO made to begin with a jump out of it."""
    view = edit.views.vdso
    assert view is not None
    functions, images = view.images.functions, view.images.images
    assert len(functions), "the vDSO is not in the image"
    where = int(images.data[functions.image[0]]) + int(functions.value[0])
    edit.write(where, b"\xe9\x00\x00\x10\x00")
    return Label(technique="the kernel's vDSO patched", pid=0, start=0, end=0)


KERNEL_HALF: tuple[Callable[[Edit], Label], ...] = (
    kernel_half_entry,
    kernel_half_table,
    kernel_half_user_copy,
    kernel_half_everywhere,
    kernel_page_opened,
    direct_map_moved,
)
DISGUISES: tuple[Callable[[Edit], Label], ...] = (
    device_flags,
    device_file,
    device_file_private,
    entry_marked_special,
)
VDSO: tuple[Callable[[Edit], Label], ...] = (
    vdso_replaced,
    vvar_replaced,
    vvar_made_writable,
    vdso_pointed_elsewhere,
    vdso_image_exchanged,
    vdso_patched_for_all,
)
