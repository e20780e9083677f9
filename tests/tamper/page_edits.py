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

    from numpy.typing import NDArray
    from support import Edit

    from vmaforensics.views.pages.page_tables import PageTablesView

    Pick = Callable[[NDArray[np.void], NDArray[np.void], NDArray[np.void]], NDArray[np.bool_]]


def _view(edit: Edit) -> PageTablesView:
    view = edit.views.page_tables
    assert view is not None
    return view


def _pte(edit: Edit, pick: Pick) -> np.void:
    """The first present small entry whose (entries, areas' VMAs, pages) ``pick`` chooses."""
    view = _view(edit)
    ptes = view.ptes[(view.ptes.page_row >= 0) & (view.ptes.range_row >= 0) & (view.ptes.state == PteState.PRESENT)]
    ptes = ptes[ptes["level"] == 1]
    vmas = edit.views.vmas[view.ranges["vma_row"][ptes["range_row"]]]
    found = np.flatnonzero(pick(ptes, vmas, view.pages[ptes["page_row"]]))
    assert len(found), "no entry fits this edit"
    return ptes[found[len(found) // 2]]


def _label(edit: Edit, technique: str, pte: np.void, size: int = 4096) -> Label:
    pid = int(edit.views.mms["pid"][pte["mm_row"]])
    return Label(technique=technique, pid=pid, start=int(pte["va"]), end=int(pte["va"]) + size)


def _write(edit: Edit, where: int, value: int) -> None:
    edit.overlay.write(where, value.to_bytes(8, "little"))


def _code(ptes: NDArray[np.void], vmas: NDArray[np.void], pages: NDArray[np.void]) -> NDArray[np.bool_]:
    return ((vmas["flags"] & np.uint64(flags.VM_EXEC)) != 0) & (vmas["kind"] == Kind.FILE) & ~pages["anon"]


def _heap(ptes: NDArray[np.void], vmas: NDArray[np.void], pages: NDArray[np.void]) -> NDArray[np.bool_]:
    small = pages["anon"] & ~pages["ksm"] & ~pages["compound"] & (pages["mapcount"] == 1)
    return (vmas["kind"] == Kind.ANONYMOUS) & small


def pte_pointed_elsewhere(edit: Edit) -> Label:
    """A code page's entry made to lead to an anonymous page of another process."""
    pte = _pte(edit, _code)
    view = _view(edit)
    others = view.ptes[(view.ptes.page_row >= 0) & (view.ptes.mm_row != pte["mm_row"]) & (view.ptes.level == 1)]
    anon = others[view.pages["anon"][others["page_row"]]]
    entry = int(pte["entry"]) & ~bits.ADDRESS_MASK | int(anon["pfn"][0]) << 12
    _write(edit, int(pte["where"]), entry)
    return _label(edit, "PTE pointed at another page", pte)


def pte_to_slab(edit: Edit) -> Label:
    """An anonymous page's entry made to lead to the page of the process's own mm_struct."""
    pte = _pte(edit, _heap)
    pa, _, _ = edit.kernel.space.translate(edit.views.mms["mm"][[pte["mm_row"]]])
    entry = int(pte["entry"]) & ~bits.ADDRESS_MASK | int(pa[0]) & ~4095
    _write(edit, int(pte["where"]), entry)
    return _label(edit, "PTE pointed at kernel memory", pte)


def pte_zeroed(edit: Edit) -> Label:
    """The entry of an anonymous page set to 0; the page stays."""
    pte = _pte(edit, _heap)
    _write(edit, int(pte["where"]), 0)
    return _label(edit, "PTE zeroed", pte)


def pte_made_executable(edit: Edit) -> Label:
    """The no-execute bit of an anonymous page's entry cleared."""
    pte = _pte(edit, _heap)
    _write(edit, int(pte["where"]), int(pte["entry"]) & ~bits.NO_EXECUTE)
    return _label(edit, "NX cleared in PTE", pte)


def exec_cleared_in_pte(edit: Edit) -> Label:
    """The no-execute bit of a code page's entry set."""
    pte = _pte(edit, _code)
    _write(edit, int(pte["where"]), int(pte["entry"]) | bits.NO_EXECUTE)
    return _label(edit, "exec cleared in PTE", pte)


def exec_cleared_in_flags(edit: Edit) -> Label:
    """VM_EXEC taken out of the vm_flags of an area with code."""
    pte = _pte(edit, _code)
    vma = edit.views.vmas[_view(edit).ranges["vma_row"][pte["range_row"]]]
    edit.put(edit.at("vm_area_struct", int(vma["vma"]), "vm_flags"), int(vma["flags"]) & ~flags.VM_EXEC)
    pid = int(edit.views.mms["pid"][pte["mm_row"]])
    return Label(technique="exec cleared in flags", pid=pid, start=int(vma["start"]), end=int(vma["end"]))


def exec_set_in_page_prot(edit: Edit) -> Label:
    """The no-execute bit taken out of the vm_page_prot of a writable anonymous area."""
    pte = _pte(edit, _heap)
    vma = edit.views.vmas[_view(edit).ranges["vma_row"][pte["range_row"]]]
    prot = edit.at("vm_area_struct", int(vma["vma"]), "vm_page_prot")
    edit.put(prot, int(vma["page_prot"]) & ~bits.NO_EXECUTE)
    pid = int(edit.views.mms["pid"][pte["mm_row"]])
    return Label(technique="exec set in page_prot", pid=pid, start=int(vma["start"]), end=int(vma["end"]))


def _ghost(edit: Edit, level: int) -> tuple[np.void, int, int]:
    """(table, address, physical address of a zero entry) in a table of ``level``, in no area."""
    view = _view(edit)
    tables = view.tables[(view.tables.level == level) & view.tables.ok]
    span = 1 << (12 + 9 * (level - 1))
    for table in tables[:200]:
        raw, _ = edit.kernel.memory.gather(np.array([table["pa"]], np.uint64), 4096)
        free = np.flatnonzero(raw.view("<u8")[0] == 0)
        for slot in free.tolist():
            va = int(table["va"]) + slot * span
            areas = view.ranges[view.ranges["mm_row"] == table["owner"]]
            if not ((areas["start"] < np.uint64(va + span)) & (areas["end"] > np.uint64(va))).any() and va < 1 << 46:
                return table, va, int(table["pa"]) + 8 * slot
    raise AssertionError("no free entry outside every area")


def _ghost_label(edit: Edit, technique: str, table: np.void, va: int, size: int) -> Label:
    return Label(technique=technique, pid=int(edit.views.mms["pid"][table["owner"]]), start=va, end=va + size)


def ghost_page(edit: Edit) -> Label:
    """An executable 4 KiB entry outside every area, for a page of another mapping."""
    table, va, where = _ghost(edit, 1)
    pfn = int(_pte(edit, _heap)["pfn"])
    _write(edit, where, pfn << 12 | 0x67)
    return _ghost_label(edit, "ghost 4 KiB", table, va, 4096)


def ghost_huge_page(edit: Edit) -> Label:
    """An executable 2 MiB entry outside every area."""
    table, va, where = _ghost(edit, 2)
    _write(edit, where, 0x800000 | 0xE7)
    return _ghost_label(edit, "ghost 2 MiB", table, va, 2 << 20)


def ghost_subtree(edit: Edit) -> Label:
    """A page table of another process hung in outside every area."""
    table, va, where = _ghost(edit, 2)
    view = _view(edit)
    foreign = view.tables[(view.tables.level == 1) & (view.tables.owner != table["owner"])]
    counts = {int(pa): 0 for pa in foreign["pa"].tolist()}
    for pa in (view.ptes["where"][view.ptes["level"] == 1] & ~np.uint64(4095)).tolist():
        if pa in counts:
            counts[pa] += 1
    fullest = max(counts, key=lambda pa: counts[pa])
    _write(edit, where, fullest | 0x67)
    return _ghost_label(edit, "ghost subtree", table, va, 2 << 20)


def own_table_again(edit: Edit) -> Label:
    """A page table of the process hung in a second time, outside every area."""
    table, va, where = _ghost(edit, 2)
    view = _view(edit)
    mine = view.tables[(view.tables.level == 1) & (view.tables.owner == table["owner"])]
    assert len(mine), "the process has no page table"
    _write(edit, where, int(mine["pa"][0]) | 0x67)
    return _ghost_label(edit, "own page table a second time", table, va, 2 << 20)


def user_copy_only(edit: Edit) -> Label:
    """With page-table isolation: memory of another process hung into the copy that user mode runs on, and no other."""
    assert edit.kernel.identity.isolation, "the kernel has no page-table isolation"
    view, levels = _view(edit), edit.kernel.identity.levels
    tables = view.tables[(view.tables.level == levels) & view.tables.ok]
    raw, _ = edit.kernel.memory.gather(tables["pa"], 4096)
    words = raw.view("<u8").reshape(-1, 512)[:, :256]
    row = int(np.flatnonzero((words == 0).any(axis=1))[0])
    other = int(np.flatnonzero((words != 0).any(axis=1) & (np.arange(len(words)) != row))[0])
    slot = int(np.flatnonzero(words[row] == 0)[0])
    entry = int(words[other][words[other] != 0][0]) & ~bits.NO_EXECUTE
    _write(edit, int(tables["pa"][row]) + 4096 + 8 * slot, entry)
    span = 1 << (12 + 9 * (levels - 1))
    return _ghost_label(edit, "ghost in the user's copy alone", tables[row], slot * span, span)


PAGE_EDITS: tuple[Callable[[Edit], Label], ...] = (
    pte_pointed_elsewhere,
    pte_to_slab,
    pte_zeroed,
    pte_made_executable,
    exec_cleared_in_pte,
    exec_cleared_in_flags,
    exec_set_in_page_prot,
    ghost_page,
    ghost_huge_page,
    ghost_subtree,
    own_table_again,
    user_copy_only,
)
