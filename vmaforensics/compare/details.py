"""Everything known of a region: the members of its ``vm_area_struct``, and every record from the task to its pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import bounds_of
from vmaforensics.compare.backing import anon_steps, file_steps, page_steps
from vmaforensics.compare.cell_text import run_row, vma_row
from vmaforensics.compare.decoded import decode
from vmaforensics.compare.records_document import Detail, Row, Step
from vmaforensics.views.slab.caches import ObjectKind
from vmaforensics.views.slab.objects import State
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vmaforensics.compare.comparison import Comparison
    from vmaforensics.compare.records import MapRecords
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.indices.entries import IndexEntries
    from vmaforensics.views.views import Views

_MOST = 16  # regions that cover one address
_MAPLE_DEPTH = 32  # no maple tree is deeper (MAPLE_HEIGHT_MAX, lib/maple_tree.c)
_RBTREE_DEPTH = 128  # no red-black tree is deeper


def details_at(kernel: Kernel, views: Views, records: MapRecords, address: int) -> list[Detail]:
    """Everything known of each region that covers the user address ``address``; a kernel address is taken for that
    of a ``vm_area_struct``."""
    compared = records.compared
    count = len(compared.vmas)
    order = compared.shown_order()
    chosen = order[_covers(views, compared, address)[order]][:_MOST].tolist()
    details = []
    for place in chosen:
        vma = int(compared.vmas.vma[place]) if place < count else None
        row = vma_row(compared, place) if place < count else run_row(compared, place - count)
        start = compared.vmas.start[place] if place < count else compared.runs.start[place - count]
        end = compared.vmas.end[place] if place < count else compared.runs.end[place - count]
        steps = list(_steps_to_mm(kernel, views, records))
        if vma is not None:
            steps += _steps_to_vma(kernel, views, records.mm, vma, row)
        steps += page_steps(views, _mm_row(views, records.mm), int(start), int(end))
        members = [] if vma is None else decode(kernel, "vm_area_struct", vma)
        details.append(Detail(start=row.start, end=row.end, vma=row.vma, members=members, chain=steps))
    return details


def _covers(views: Views, compared: Comparison, address: int) -> NDArray[np.bool_]:
    """Is each VMA, and then each run of entries, at ``address``? A VMA is also where the maple tree has it."""
    vmas, runs, at = compared.vmas, compared.runs, np.uint64(address)
    if views.arch.is_kernel_address(address):
        return np.concatenate([vmas.vma == at, np.zeros(len(runs), np.bool_)])
    covers = (vmas.start <= at) & (at < vmas.end)
    for cells in compared.indices.values():
        covers |= cells.other_range & (cells.low <= at) & (at < cells.high)
    return np.concatenate([covers, (runs.start <= at) & (at < runs.end)])


def _steps_to_mm(kernel: Kernel, views: Views, records: MapRecords) -> Iterator[Step]:
    """The task and its ``mm_struct``; an address space that no task has begins with the latter."""
    if records.task:
        where = hex(records.task + kernel.offset("task_struct", "mm"))
        facts = {"pid": str(records.pid), "comm": records.printable_comm, "mm at": where}
        yield Step(record="task_struct", address=hex(records.task), facts=facts)
    mms, row = views.mms, _mm_row(views, records.mm)
    yield Step(
        record="mm_struct",
        address=hex(records.mm),
        facts={
            "map_count": str(int(mms.map_count[row])),
            "total_vm": str(int(mms.total_vm[row])),
            "lock": records.lock.text,
            "pgd": hex(mms.pgd[row]),
        },
    )


def _steps_to_vma(kernel: Kernel, views: Views, mm: int, vma: int, row: Row) -> Iterator[Step]:
    """What leads from the ``mm_struct`` to a VMA, the VMA itself, and what it leads to; ``row`` is its row."""
    yield from _maple_steps(kernel, views, mm, vma)
    yield from _list_steps(kernel, views, mm, vma)
    yield from _rbtree_steps(views, mm, vma)
    facts = {"": f"{row.start}-{row.end} {row.perms} {row.name}".rstrip()}
    if views.slab is not None:
        state = State(int(views.slab.states(np.array([vma], np.uint64), ObjectKind.VMA)[0]))
        facts["slab"] = state.text
    yield Step(record="vm_area_struct", address=hex(vma), facts=facts)
    yield from file_steps(views, vma)
    yield from anon_steps(views, vma)


def _mm_row(views: Views, mm: int) -> int:
    return int(views.mm_rows(np.array([mm], np.uint64))[0])


def _absent(view: View) -> Step:
    return Step(record=view.label, address=None, facts={"": "has no record that leads to this VMA"}, level=1)


def _entry_of(entries: IndexEntries, mm: int, vma: int) -> int | None:
    """Row of the first entry of ``mm`` that leads to ``vma``."""
    first, last = bounds_of(entries.mm, mm)
    rows = np.flatnonzero(entries.vma[first:last] == np.uint64(vma))
    return first + int(rows[0]) if len(rows) else None


def _maple_steps(kernel: Kernel, views: Views, mm: int, vma: int) -> Iterator[Step]:
    """Nodes from the root to the leaf, each with the slot that leads on and the pivots on either side of it."""
    if views.maple is None:
        return
    entry = _entry_of(views.maple, mm, vma)
    if entry is None:
        yield _absent(View.MAPLE)
        return
    nodes, word = views.maple_nodes, int(views.maple.slot[entry])
    base = nodes.address + nodes.slot_offset.astype(np.uint64)
    end = base + np.uint64(8) * nodes.capacity.astype(np.uint64)
    path: list[tuple[int, int]] = []
    node = int(np.flatnonzero(nodes.leaf & (base <= np.uint64(word)) & (np.uint64(word) < end))[0])
    slot = (word - int(base[node])) // 8
    while node >= 0 and len(path) < _MAPLE_DEPTH:
        path.append((node, slot))
        node, slot = int(nodes.parent[node]), int(nodes.parent_slot[node])
    root = mm + kernel.offset("mm_struct", "mm_mt.ma_root")
    row = _mm_row(views, mm)
    facts = {"ma_root": hex(views.mms.ma_root[row]), "ma_flags": hex(views.mms.ma_flags[row])}
    yield Step(record="maple tree", address=hex(root), facts=facts, level=1)
    names = {kernel.types.constant(f"maple_{name}"): name for name in ("leaf_64", "range_64", "arange_64")}
    for depth, (node, slot) in enumerate(reversed(path)):
        low = int(nodes.pivots[node, slot - 1]) + 1 if slot else int(nodes.low[node])
        facts = {
            "covers": f"{int(nodes.low[node]):#x}-{int(nodes.high[node]):#x}",
            "slot": f"{slot} of 0-{int(nodes.end[node])} at {int(base[node]) + 8 * slot:#x}",
            "holds": hex(nodes.slots[node, slot]),
            "pivots": f"{low:#x}-{int(nodes.pivots[node, slot]):#x}",
        }
        if nodes.gapped[node]:
            facts["gap"] = hex(nodes.gaps[node, slot])
        facts["parent"] = hex(nodes.parent_word[node])
        kind = names.get(int(nodes.kind[node]), "?")
        yield Step(record=f"maple_node ({kind})", address=hex(nodes.address[node]), facts=facts, level=2 + depth)


def _list_steps(kernel: Kernel, views: Views, mm: int, vma: int) -> Iterator[Step]:
    """The word of the list that leads to the VMA, and the VMA's own links."""
    if views.vma_list is None:
        return
    entry = _entry_of(views.vma_list, mm, vma)
    if entry is None:
        yield _absent(View.LIST)
        return
    row = int(views.vma_rows(views.vma_list.vma[entry : entry + 1])[0])
    word, order = int(views.vma_list.slot[entry]), int(views.vma_list.order[entry])
    before = "mm->mmap" if order == 0 else hex(word - kernel.offset("vm_area_struct", "vm_next"))
    links = {"vm_prev": hex(views.vmas.prev[row]), "vm_next": hex(views.vmas.next[row])}
    facts = {"": f"element {order}", "led here from": before, **links}
    yield Step(record="vm_next list", address=hex(word), facts=facts, level=1)


def _rbtree_steps(views: Views, mm: int, vma: int) -> Iterator[Step]:
    """Nodes from the root to that of the VMA."""
    entries, nodes = views.rbtree, views.rb_nodes
    if entries is None or nodes is None:
        return
    entry = _entry_of(entries, mm, vma)
    if entry is None:
        yield _absent(View.RBTREE)
        return
    path, row = [entry], int(nodes.parent[entry])
    while row >= 0 and len(path) < _RBTREE_DEPTH:
        path.append(row)
        row = int(nodes.parent[row])
    yield Step(record="rbtree", address=hex(entries.slot[path[-1]]), facts={"": "mm->mm_rb"}, level=1)
    for depth, row in enumerate(reversed(path)):
        up = int(nodes.parent[row])
        side = "root" if up < 0 else "left" if int(nodes.left[up]) == row else "right"
        word = int(nodes.parent_word[row])
        facts = {
            "": side,
            "area": f"{int(entries.start[row]):#x}-{int(entries.end[row]):#x} at {int(entries.vma[row]):#x}",
            "colour": "black" if word & 1 else "red",  # RB_BLACK, include/linux/rbtree_augmented.h
            "parent": hex(word & ~3),
        }
        yield Step(record="rb_node", address=hex(nodes.address[row]), facts=facts, level=2 + depth)
