"""Labelled edits of guests at work, made from outside while they are stopped, and with which they then go on.

Each hides something of one process: of one that rests, or of one that never does. They are made in areas that the
process itself never touches (``decoys`` of guest/storms.c), so that it goes on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from edits import Bench, tasks_list

from vmaforensics.analysis import analyse_image
from vmaforensics.arch.page_tables import PteState
from vmaforensics.image.open import open_image
from vmaforensics.kernel.find import find_kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from vmaforensics.image.image import Image
    from vmaforensics.views.indices.entries import IndexEntries
    from vmaforensics.views.pages.ptes import Ptes
    from vmaforensics.views.structures.interval_tree import IntervalNodes

PAGE = 4096
SIZE = 7 * PAGE  # of a decoy
DECOYS = re.compile(r"^DECOY (\d+) \S+((?: (?:data|code)-[0-9a-f]+)+)\.", re.MULTILINE)
NO_EXECUTE = 1 << 63  # arch/x86/include/asm/pgtable_types.h
FRAME = ((1 << 52) - 1) & -PAGE
PRESENT_USER_CODE = 0x67  # present, writable, user, accessed, dirty
PRESENT_USER_READ = 0x25  # present, user, accessed
VM_EXEC, VM_PFNMAP, VM_IO = 1 << 2, 1 << 10, 1 << 14  # include/linux/mm.h


class NotHereError(Exception):
    """The process has nothing that this edit could be made on."""


@dataclass(frozen=True)
class Decoys:
    """Areas that a process never touches."""

    data: tuple[int, ...]  # anonymous, writable
    code: tuple[int, ...]  # of a file, executable


def announced(console: str) -> dict[int, Decoys]:
    """The decoys of every process that has some, by process id."""
    found = {}
    for pid, areas in DECOYS.findall(console):
        of = {kind: tuple(int(at, 16) for at in re.findall(rf"{kind}-(\w+)", areas)) for kind in ("data", "code")}
        found[int(pid)] = Decoys(**of)
    return found


def opened(path: Path, vmlinux: Path | None) -> Image:
    """An image, with the types of a kernel that has none in it."""
    return replace(open_image(path), symbols=None if vmlinux is None else [vmlinux])


def physical(image: Image, symbol: str) -> int:
    """Physical address of a variable of the kernel of an image."""
    kernel = find_kernel(image)
    address = kernel.symbols.get(symbol)
    assert address is not None
    found, _, mapped = kernel.space.translate(np.array([address], np.uint64))
    assert mapped[0]
    return int(found[0])


def addresses(image: Image, names: Iterable[str]) -> dict[str, int]:
    """Addresses of those functions that the kernel of an image has, also where the compiler has named a clone."""
    symbols = find_kernel(image).symbols
    endings = ("", ".isra.0", ".constprop.0", ".part.0")
    known = {name: next(filter(None, (symbols.get(name + end) for end in endings)), None) for name in names}
    return {name: address for name, address in known.items() if address is not None}


def _index(bench: Bench) -> IndexEntries:
    """What the kernel finds the process's VMAs by."""
    found = bench.views.maple or bench.views.vma_list
    assert found is not None
    return found.take(found.mm == np.uint64(bench.mm))


def _area(bench: Bench, start: int) -> tuple[int, int]:
    """(address of the VMA at ``start``, of the word of the maple tree that leads to it)."""
    index = _index(bench)
    rows = np.flatnonzero(index.start == np.uint64(start))
    if len(rows) != 1:
        raise NotHereError
    return int(index.vma[rows[0]]), int(index.slot[rows[0]])


def _less(bench: Bench, member: str, amount: int) -> None:
    field = bench.kernel.member("mm_struct", member)
    at = bench.member("mm_struct", bench.mm, member)
    bench.put(f"mm_struct.{member}", at, lambda value: value - amount, size=field.size)


def area_hidden(bench: Bench, decoys: Decoys) -> tuple[int, int]:
    """An anonymous area taken out of the index, its counters repaired."""
    if bench.views.maple is not None:
        start = decoys.data[2]
        _, slot = _area(bench, start)
        bench.put("slot of a maple_node", slot, lambda _: 0)
    else:
        start = _out_of_list_and_tree(bench, decoys)
    _less(bench, "map_count", 1)
    _less(bench, "total_vm", SIZE // PAGE)
    _less(bench, "data_vm", SIZE // PAGE)
    return start, start + SIZE


def _out_of_list_and_tree(bench: Bench, decoys: Decoys) -> int:
    """Up to 6.0: a red leaf, after which nothing needs balancing."""
    nodes, rows = bench.views.rb_nodes, bench.views.rbtree
    assert nodes is not None and rows is not None
    red = (nodes.parent_word & np.uint64(1)) == 0
    fits = (nodes.left < 0) & (nodes.right < 0) & (nodes.parent >= 0) & red & (rows.mm == np.uint64(bench.mm))
    fits &= np.isin(rows.start, np.array(decoys.data, np.uint64))
    if not fits.any():
        raise NotHereError
    row = int(np.flatnonzero(fits)[0])
    vma = int(rows.vma[row])
    after, before = (bench.edit.get(bench.member("vm_area_struct", vma, name)) for name in ("vm_next", "vm_prev"))
    bench.put("rb pointer to a vm_area_struct", int(rows.slot[row]), lambda _: 0)
    at = bench.member("vm_area_struct", before, "vm_next")
    bench.put("vm_area_struct.vm_next of the area before", at, lambda _: after)
    at = bench.member("vm_area_struct", after, "vm_prev")
    bench.put("vm_area_struct.vm_prev of the area behind", at, lambda _: before)
    return int(rows.start[row])


def area_shrunk(bench: Bench, decoys: Decoys) -> tuple[int, int]:
    """The end of an anonymous area moved down by a page, which was never touched."""
    start = decoys.data[1]
    vma, _ = _area(bench, start)
    bench.put("vm_area_struct.vm_end", bench.member("vm_area_struct", vma, "vm_end"), lambda end: end - PAGE)
    return start, start + SIZE


def code_not_executable(bench: Bench, decoys: Decoys) -> tuple[int, int]:
    """VM_EXEC cleared in the flags of an area of code."""
    start = decoys.code[1]
    vma, _ = _area(bench, start)
    flags = bench.member("vm_area_struct", vma, "vm_flags")
    bench.put("vm_area_struct.vm_flags", flags, lambda value: value & ~VM_EXEC)
    return start, start + SIZE


def _present(bench: Bench, starts: Iterable[int]) -> Ptes:
    """The process's entries of single pages in areas."""
    view = bench.views.page_tables
    assert view is not None
    ptes = view.ptes
    ptes = ptes.take((ptes.mm_row == bench.mm_row) & (ptes.state == PteState.PRESENT) & (ptes.level == 1))
    inside = np.zeros(len(ptes), np.bool_)
    for start in starts:
        inside |= (ptes.va >= np.uint64(start)) & (ptes.va < np.uint64(start + SIZE))
    if not inside.any():
        raise NotHereError
    return ptes.take(inside)


def page_executable(bench: Bench, decoys: Decoys) -> tuple[int, int]:
    """The no-execute bit of an anonymous page's entry cleared."""
    pte = _present(bench, decoys.data[3:])
    va = int(pte.va[0])
    bench.put("PTE", None, lambda entry: entry & ~NO_EXECUTE, physical=int(pte.where[0]), user_address=va)
    return va, va + PAGE


def page_elsewhere(bench: Bench, decoys: Decoys) -> tuple[int, int]:
    """The entry of a page of code made to lead to an anonymous page of the process."""
    code, data = _present(bench, decoys.code), _present(bench, decoys.data)
    va, pfn = int(code.va[-1]), int(data.pfn[-1])
    where = int(code.where[-1])
    bench.put("PTE", None, lambda entry: entry & ~FRAME | pfn * PAGE, physical=where, user_address=va)
    return va, va + PAGE


def page_alone(bench: Bench, decoys: Decoys) -> tuple[int, int]:
    """An entry for executable memory where the process has no area: below its program, as nothing is mapped there."""
    view = bench.views.page_tables
    assert view is not None
    tables = view.tables.take((view.tables.level == 1) & view.tables.ok & (view.tables.owner == bench.mm_row))
    lowest = int(_index(bench).start.min())
    span = PAGE << 9
    fits = np.flatnonzero((tables.va <= lowest - PAGE) & (tables.va + np.uint64(span) > lowest - PAGE))
    if not len(fits):
        raise NotHereError
    va = lowest - PAGE
    where = int(tables.pa[fits[0]]) + (va - int(tables.va[fits[0]])) // PAGE * 8
    pfn = int(_present(bench, decoys.data).pfn[-1])
    entry = pfn * PAGE | PRESENT_USER_CODE
    bench.put("PTE", None, lambda _: entry, physical=where, user_address=va)
    return va, va + PAGE


def _mend_last_pages(bench: Bench, nodes: IntervalNodes, gone: int) -> None:
    """rb_subtree_last of those above a node that is gone: the kernel goes where it says that there is something."""
    rmap = bench.views.rmap
    assert rmap is not None
    vmas = rmap.vmas.take(rmap.vma_rows(nodes.vma))
    last = nodes.last.astype(np.int64)
    last[gone] = 0
    row = int(nodes.parent[gone])
    while row >= 0:
        own = int(vmas.pgoff[row]) + (int(vmas.end[row]) - int(vmas.start[row])) // PAGE - 1
        below = [int(last[child]) for child in (nodes.left[row], nodes.right[row]) if child >= 0]
        last[row] = most = max(own, *below)
        at = bench.member("vm_area_struct", int(nodes.item[row]), "shared.rb_subtree_last")
        bench.put("rb_subtree_last of an i_mmap", at, lambda _, most=most: most)  # type: ignore[misc]
        row = int(nodes.parent[row])


def file_unlinked(bench: Bench, decoys: Decoys) -> tuple[int, int]:
    """An area of code taken out of its file's i_mmap: a red leaf, after which nothing needs balancing."""
    rmap = bench.views.rmap
    assert rmap is not None
    nodes, index = rmap.file_nodes, _index(bench)
    mine = index.take(np.isin(index.start, np.array(decoys.code, np.uint64)))
    leaves = (nodes.left < 0) & (nodes.right < 0) & (nodes.parent >= 0) & np.isin(nodes.vma, mine.vma)
    for row in np.flatnonzero(leaves).tolist():
        if bench.edit.get(int(nodes.node[row])) & 1 == 0:  # RB_RED in __rb_parent_color
            bench.put("rb pointer of an i_mmap", int(nodes.slot[row]), lambda _: 0)
            _mend_last_pages(bench, nodes, row)
            start = int(mine.start[mine.vma == nodes.vma[row]][0])
            return start, start + SIZE
    raise NotHereError


def task_unlisted(bench: Bench, decoys: Decoys) -> tuple[int, int]:
    """The process taken out of the list of tasks."""
    tasks_list(bench)
    return 0, 0


def kernel_half(bench: Bench, decoys: Decoys) -> tuple[int, int]:
    """The top-level entry of an anonymous area hung into the kernel half of the process's table too."""
    levels = bench.kernel.arch.levels
    shift = 12 + 9 * (levels - 1)
    (top,), _, _ = bench.kernel.space.translate(bench.views.mms.pgd[bench.mm_row : bench.mm_row + 1])
    words, _ = bench.kernel.memory.gather(np.array([top], np.uint64), PAGE)
    entries = words.view("<u8")[0]
    slot = next(slot for slot in range(386, 500) if not entries[slot])
    entry = int(entries[decoys.data[0] >> shift])
    bench.put("top-level entry of the kernel half", None, lambda _: entry, physical=int(top) + 8 * slot)
    start = (-1 << (shift + 9)) % (1 << 64) | slot << shift
    return start, start + (1 << shift)


def vdso_elsewhere(bench: Bench, decoys: Decoys) -> tuple[int, int]:
    """The entry of a page of the vDSO made to lead to an anonymous page of the process."""
    view, va = bench.views.page_tables, int(bench.views.mms.vdso[bench.mm_row])
    assert view is not None
    tables = view.tables.take((view.tables.level == 1) & view.tables.ok & (view.tables.owner == bench.mm_row))
    fits = np.flatnonzero((tables.va <= np.uint64(va)) & (tables.va + np.uint64(PAGE << 9) > np.uint64(va)))
    if not va or not len(fits):
        raise NotHereError
    where = int(tables.pa[fits[0]]) + (va - int(tables.va[fits[0]])) // PAGE * 8
    entry = int(_present(bench, decoys.data).pfn[-1]) * PAGE | PRESENT_USER_READ
    bench.put("PTE", None, lambda _: entry, physical=where, user_address=va)
    return va, va + PAGE


def area_as_device(bench: Bench, decoys: Decoys) -> tuple[int, int]:
    """VM_PFNMAP and VM_IO set in the flags of an anonymous area."""
    start = decoys.data[0]
    vma, _ = _area(bench, start)
    flags = bench.member("vm_area_struct", vma, "vm_flags")
    bench.put("vm_area_struct.vm_flags", flags, lambda value: value | VM_PFNMAP | VM_IO)
    return start, start + SIZE


FORKING = ("forks", "execs", "huge", "python3", "postgres")
# What copies a shrunk area may wait for ever. A copy is put into i_mmap below what it is a copy of
# (vma_interval_tree_insert_after, mm/interval_tree.c), and what balances the tree then takes back what was cut out.
NOT_OF_FORKING = (area_shrunk, file_unlinked)

HIDINGS: dict[str, Callable[[Bench, Decoys], tuple[int, int]]] = {
    hiding.__name__: hiding
    for hiding in (
        file_unlinked,  # first: not every process has something to make it on
        area_hidden,
        area_shrunk,
        code_not_executable,
        page_executable,
        page_elsewhere,
        page_alone,
        task_unlisted,
        kernel_half,
        area_as_device,
        vdso_elsewhere,
    )
}


def hide(memory: Path, image: Image, console: str, resting: Mapping[int, str], busy: Mapping[int, str]) -> list[object]:
    """Every edit once in a process that rests and once in one that does not, each in another one; their labels.

    ``image`` is a dump of the stopped guest. ``busy`` says which are to be taken first.
    """
    found = analyse_image(image)
    decoys = announced(console)
    labels: list[object] = []
    for names in (resting, busy):
        free = [pid for pid in names if pid in decoys and pid in found.views.mms.pid]
        for kind, hiding in HIDINGS.items():
            for pid in free:
                if hiding in NOT_OF_FORKING and names[pid] in FORKING:
                    continue
                bench = Bench(memory, found, pid)
                try:
                    start, end = hiding(bench, decoys[pid])
                except NotHereError:
                    continue
                words = [change.label() for change in bench.changes]
                of = {"edit": kind, "pid": pid, "comm": names[pid], "resting": names is resting}
                areas = (min(decoys[pid].data), max(decoys[pid].code) + SIZE)
                labels.append(
                    {**of, "start": hex(start), "end": hex(end), "decoys": list(map(hex, areas)), "words": words}
                )
                free.remove(pid)
                break
    return labels
