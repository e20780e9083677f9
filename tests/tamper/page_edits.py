"""Labelled edits of page tables and of the pages they lead to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tamper.edits import Label
from vmaforensics.arch.page_tables import PteState
from vmaforensics.arch.x86_64 import bits
from vmaforensics.views.vmas import flags
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Edit

    from vmaforensics.arch.page_tables import TablePages
    from vmaforensics.columns.types import Bools
    from vmaforensics.views.pages.mapped_pages import Pages
    from vmaforensics.views.pages.page_tables import PageTablesView
    from vmaforensics.views.pages.ptes import Ptes
    from vmaforensics.views.vmas.vmas import Vmas

    Pick = Callable[[Vmas, Pages], Bools]


def view_of(edit: Edit) -> PageTablesView:
    view = edit.views.page_tables
    assert view is not None
    return view


def pick_pte(edit: Edit, pick: Pick) -> Ptes:
    """A table of one present small entry whose (VMA, page) ``pick`` chooses."""
    view = view_of(edit)
    ptes = view.ptes
    ptes = ptes.take(
        (ptes.page_row >= 0) & (ptes.range_row >= 0) & (ptes.state == PteState.PRESENT) & (ptes.level == 1)
    )
    vmas = edit.views.vmas.take(view.ranges.vma_row[ptes.range_row])
    found = np.flatnonzero(pick(vmas, view.pages.take(ptes.page_row)))
    assert len(found), "no entry fits this edit"
    middle = len(found) // 2
    return ptes.take(found[middle : middle + 1])


def _label(edit: Edit, technique: str, pte: Ptes, size: int = 4096) -> Label:
    pid = int(edit.views.mms.pid[pte.mm_row[0]])
    return Label(technique=technique, pid=pid, start=int(pte.va[0]), end=int(pte.va[0]) + size)


def write_entry(edit: Edit, where: int, value: int) -> None:
    edit.overlay.write(where, value.to_bytes(8, "little"))


def _code(vmas: Vmas, pages: Pages) -> Bools:
    code: Bools = ((vmas.flags & np.uint64(flags.VM_EXEC)) != 0) & (vmas.kind == Kind.FILE) & ~pages.anon
    return code


def _heap(vmas: Vmas, pages: Pages) -> Bools:
    small: Bools = pages.anon & ~pages.ksm & ~pages.compound & (pages.mapcount == 1) & (vmas.kind == Kind.ANONYMOUS)
    return small


def heap_entry(edit: Edit) -> Ptes:
    """A table of one present entry of a small anonymous page that nobody shares."""
    return pick_pte(edit, _heap)


def pte_pointed_elsewhere(edit: Edit) -> Label:
    """A code page's entry made to lead to an anonymous page of another process."""
    pte = pick_pte(edit, _code)
    view = view_of(edit)
    others = view.ptes.take((view.ptes.page_row >= 0) & (view.ptes.mm_row != pte.mm_row[0]) & (view.ptes.level == 1))
    anon = others.take(view.pages.anon[others.page_row])
    entry = int(pte.entry[0]) & ~bits.ADDRESS_MASK | int(anon.pfn[0]) << 12
    write_entry(edit, int(pte.where[0]), entry)
    return _label(edit, "PTE pointed at another page", pte)


def pte_to_slab(edit: Edit) -> Label:
    """An anonymous page's entry made to lead to the page of the process's own mm_struct."""
    pte = heap_entry(edit)
    pa, _, _ = edit.kernel.space.translate(edit.views.mms.mm[pte.mm_row])
    entry = int(pte.entry[0]) & ~bits.ADDRESS_MASK | int(pa[0]) & ~4095
    write_entry(edit, int(pte.where[0]), entry)
    return _label(edit, "PTE pointed at kernel memory", pte)


def page_freed(edit: Edit) -> Label:
    """``_refcount`` of a mapped anonymous page set to 0: the next to ask for memory may get it."""
    pte = heap_entry(edit)
    base = edit.kernel.variable("vmemmap_base", 8)
    assert base is not None
    page = base + int(pte.pfn[0]) * edit.kernel.sizeof("page")
    edit.put(edit.at("page", page, "_refcount.counter"), 0, 4)
    return _label(edit, "page given back while it is mapped", pte)


def pte_zeroed(edit: Edit) -> Label:
    """The entry of an anonymous page set to 0; the page stays."""
    pte = heap_entry(edit)
    write_entry(edit, int(pte.where[0]), 0)
    return _label(edit, "PTE zeroed", pte)


def pte_made_executable(edit: Edit) -> Label:
    """The no-execute bit of an anonymous page's entry cleared."""
    pte = heap_entry(edit)
    write_entry(edit, int(pte.where[0]), int(pte.entry[0]) & ~bits.NO_EXECUTE)
    return _label(edit, "NX cleared in PTE", pte)


def exec_cleared_in_pte(edit: Edit) -> Label:
    """The no-execute bit of a code page's entry set."""
    pte = pick_pte(edit, _code)
    write_entry(edit, int(pte.where[0]), int(pte.entry[0]) | bits.NO_EXECUTE)
    return _label(edit, "exec cleared in PTE", pte)


def exec_cleared_in_flags(edit: Edit) -> Label:
    """VM_EXEC taken out of the vm_flags of a VMA with code."""
    pte = pick_pte(edit, _code)
    vma = edit.views.vmas.take(view_of(edit).ranges.vma_row[pte.range_row])
    edit.put(edit.at("vm_area_struct", int(vma.vma[0]), "vm_flags"), int(vma.flags[0]) & ~flags.VM_EXEC)
    pid = int(edit.views.mms.pid[pte.mm_row[0]])
    return Label(technique="exec cleared in flags", pid=pid, start=int(vma.start[0]), end=int(vma.end[0]))


def exec_set_in_page_prot(edit: Edit) -> Label:
    """The no-execute bit taken out of the vm_page_prot of a writable anonymous VMA."""
    pte = heap_entry(edit)
    vma = edit.views.vmas.take(view_of(edit).ranges.vma_row[pte.range_row])
    prot = edit.at("vm_area_struct", int(vma.vma[0]), "vm_page_prot")
    edit.put(prot, int(vma.page_prot[0]) & ~bits.NO_EXECUTE)
    pid = int(edit.views.mms.pid[pte.mm_row[0]])
    return Label(technique="exec set in page_prot", pid=pid, start=int(vma.start[0]), end=int(vma.end[0]))


def _ghost(edit: Edit, level: int) -> tuple[TablePages, int, int]:
    """(table, address, physical address of a zero entry) in a table of ``level``, in no VMA."""
    view = view_of(edit)
    tables = view.tables.take((view.tables.level == level) & view.tables.ok)
    span = 1 << (12 + 9 * (level - 1))
    for row in range(min(len(tables), 200)):
        table = tables.take(slice(row, row + 1))
        raw, _ = edit.kernel.memory.gather(table.pa, 4096)
        free = np.flatnonzero(raw.view("<u8")[0] == 0)
        for slot in free.tolist():
            va = int(table.va[0]) + slot * span
            areas = view.ranges.take(view.ranges.mm_row == table.owner[0])
            if not ((areas.start < np.uint64(va + span)) & (areas.end > np.uint64(va))).any() and va < 1 << 46:
                return table, va, int(table.pa[0]) + 8 * slot
    raise AssertionError("no free entry outside every area")


def _ghost_label(edit: Edit, technique: str, table: TablePages, va: int, size: int) -> Label:
    return Label(technique=technique, pid=int(edit.views.mms.pid[table.owner[0]]), start=va, end=va + size)


def ghost_page(edit: Edit) -> Label:
    """An executable 4 KiB entry outside every VMA, for a page of another mapping."""
    table, va, where = _ghost(edit, 1)
    pfn = int(pick_pte(edit, _heap).pfn[0])
    write_entry(edit, where, pfn << 12 | 0x67)
    return _ghost_label(edit, "ghost 4 KiB", table, va, 4096)


def ghost_huge_page(edit: Edit) -> Label:
    """An executable 2 MiB entry outside every VMA."""
    table, va, where = _ghost(edit, 2)
    write_entry(edit, where, 0x800000 | 0xE7)
    return _ghost_label(edit, "ghost 2 MiB", table, va, 2 << 20)


def ghost_subtree(edit: Edit) -> Label:
    """A page table of another process hung in outside every VMA."""
    table, va, where = _ghost(edit, 2)
    view = view_of(edit)
    foreign = view.tables.take((view.tables.level == 1) & (view.tables.owner != table.owner[0]))
    counts = {int(pa): 0 for pa in foreign.pa.tolist()}
    for pa in (view.ptes.where[view.ptes.level == 1] & ~np.uint64(4095)).tolist():
        if pa in counts:
            counts[pa] += 1
    fullest = max(counts, key=lambda pa: counts[pa])
    write_entry(edit, where, fullest | 0x67)
    return _ghost_label(edit, "ghost subtree", table, va, 2 << 20)


def own_table_again(edit: Edit) -> Label:
    """A page table of the process hung in a second time, outside every VMA."""
    table, va, where = _ghost(edit, 2)
    view = view_of(edit)
    mine = view.tables.take((view.tables.level == 1) & (view.tables.owner == table.owner[0]))
    assert len(mine), "the process has no page table"
    write_entry(edit, where, int(mine.pa[0]) | 0x67)
    return _ghost_label(edit, "own page table a second time", table, va, 2 << 20)


def _entry_of_table(edit: Edit, level: int) -> tuple[TablePages, int]:
    """(the table with the entry of a page of the heap, physical address of the entry of ``level`` above it)."""
    view, pte = view_of(edit), heap_entry(edit)
    va, below = int(pte.va[0]), 12 + 9 * (level - 1)
    tables = view.tables.take((view.tables.owner == pte.mm_row[0]) & view.tables.ok)
    (above,) = np.flatnonzero((tables.level == level) & (tables.va == va >> (below + 9) << (below + 9)))
    (under,) = np.flatnonzero((tables.level == level - 1) & (tables.va == va >> below << below))
    return tables.take(slice(under, under + 1)), int(tables.pa[above]) + 8 * (va >> below & bits.ENTRIES - 1)


def table_passed_over(edit: Edit) -> Label:
    """A bit that the CPU disregards set in the entry of a page table: the kernel passes over what it calls bad."""
    table, where = _entry_of_table(edit, 2)
    write_entry(edit, where, int(table.pa[0]) | 0x67 | bits.SPECIAL)
    return _ghost_label(edit, "page table that the kernel passes over", table, int(table.va[0]), 2 << 20)


def table_made_read_only(edit: Edit) -> Label:
    """The write bit cleared in the entry of a page table of level 2: nothing in a GiB can be written."""
    table, where = _entry_of_table(edit, 3)
    write_entry(edit, where, int(table.pa[0]) | 0x65)
    return _ghost_label(edit, "page table that cannot be written through", table, int(table.va[0]), 1 << 30)


def user_copy_only(edit: Edit) -> Label:
    """With page-table isolation: memory of another process hung into the copy that user mode runs on, and no other."""
    assert edit.kernel.identity.isolation, "the kernel has no page-table isolation"
    view, levels = view_of(edit), edit.kernel.identity.levels
    tables = view.tables.take((view.tables.level == levels) & view.tables.ok)
    raw, _ = edit.kernel.memory.gather(tables.pa, 4096)
    words = raw.view("<u8").reshape(-1, 512)[:, :256]
    row = int(np.flatnonzero((words == 0).any(axis=1))[0])
    other = int(np.flatnonzero((words != 0).any(axis=1) & (np.arange(len(words)) != row))[0])
    slot = int(np.flatnonzero(words[row] == 0)[0])
    entry = int(words[other][words[other] != 0][0]) & ~bits.NO_EXECUTE
    write_entry(edit, int(tables.pa[row]) + 4096 + 8 * slot, entry)
    span = 1 << (12 + 9 * (levels - 1))
    return _ghost_label(edit, "ghost in the user's copy alone", tables.take(slice(row, row + 1)), slot * span, span)


PAGE_EDITS: tuple[Callable[[Edit], Label], ...] = (
    pte_pointed_elsewhere,
    pte_to_slab,
    page_freed,
    pte_zeroed,
    pte_made_executable,
    exec_cleared_in_pte,
    exec_cleared_in_flags,
    exec_set_in_page_prot,
    ghost_page,
    ghost_huge_page,
    ghost_subtree,
    own_table_again,
    table_passed_over,
    table_made_read_only,
    user_copy_only,
)
