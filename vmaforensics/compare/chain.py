"""The way from a task to the pages of one region: every record on it, with its address."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.compare.decoded import decode
from vmaforensics.compare.holders import anon_steps, file_steps, page_steps
from vmaforensics.compare.side_by_side import Detail, SideBySide, Step
from vmaforensics.views.slab.caches import ObjectKind
from vmaforensics.views.slab.objects import State
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.compare.side_by_side import Row
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views

_KERNEL_HALF = 1 << 63
_MOST = 16  # regions that cover one address, and levels of a tree


def with_details(kernel: Kernel, views: Views, document: SideBySide, at: int) -> SideBySide:
    """The document with everything known of each region that covers the user address ``at``; a kernel address
    is taken for that of a ``vm_area_struct``."""

    def chosen(row: Row) -> bool:
        if at >= _KERNEL_HALF:
            return row.vma is not None and int(row.vma, 16) == at
        return int(row.start, 16) <= at < int(row.end, 16) or any(
            one.note.startswith("as ") and _within(one.note, at) for one in row.cells.values()
        )

    details = [_detail(kernel, views, document, row) for row in document.rows if chosen(row)][:_MOST]
    return SideBySide(
        schema=document.schema,
        pid=document.pid,
        comm=document.comm,
        task=document.task,
        mm=document.mm,
        lock=document.lock,
        views=document.views,
        rows=document.rows,
        at=hex(at),
        details=details,
    )


def _within(note: str, at: int) -> bool:
    """Does the index hold the area at another range, and is ``at`` in that?"""
    low, _, high = note.removeprefix("as ").partition("-")
    return int(low, 16) <= at < int(high, 16)


def _detail(kernel: Kernel, views: Views, document: SideBySide, row: Row) -> Detail:
    vma = None if row.vma is None else int(row.vma, 16)
    return Detail(
        start=row.start,
        end=row.end,
        vma=row.vma,
        members=[] if vma is None else decode(kernel, "vm_area_struct", vma),
        chain=list(_chain(kernel, views, document, row, vma)),
    )


def _chain(kernel: Kernel, views: Views, document: SideBySide, row: Row, vma: int | None) -> Iterator[Step]:
    mm, task = int(document.mm, 16), int(document.task, 16)
    if task:  # an address space that no task has begins with its mm_struct
        where = hex(task + kernel.offset("task_struct", "mm"))
        facts = {"pid": str(document.pid), "comm": document.comm, "mm at": where}
        yield Step(record="task_struct", address=document.task, facts=facts)
    at = int(views.mm_rows(np.array([mm], np.uint64))[0])
    one = views.mms[at]
    yield Step(
        record="mm_struct",
        address=document.mm,
        facts={
            "map_count": str(int(one["map_count"])),
            "total_vm": str(int(one["total_vm"])),
            "lock": document.lock,
            "pgd": hex(int(one["pgd"])),
        },
    )
    if vma is not None:
        yield from _maple(kernel, views, mm, vma)
        yield from _list(kernel, views, mm, vma)
        yield from _rbtree(views, mm, vma)
        yield from _area(views, vma, row)
        yield from file_steps(views, vma)
        yield from anon_steps(views, vma)
    yield from page_steps(views, at, int(row.start, 16), int(row.end, 16))


def _absent(view: View) -> Step:
    return Step(record=view.label, address=None, facts={"": "has no record that leads to this area"}, level=1)


def _maple(kernel: Kernel, views: Views, mm: int, vma: int) -> Iterator[Step]:
    """Nodes from the root to the leaf, each with the slot that leads on and the pivots on either side of it."""
    if views.maple is None:
        return
    rows = views.maple[(views.maple["vma"] == np.uint64(vma)) & (views.maple["mm"] == np.uint64(mm))]
    if not len(rows):
        yield _absent(View.MAPLE)
        return
    nodes, word = views.maple_nodes, int(rows["slot"][0])
    base = nodes.address + nodes.slot_offset.astype(np.uint64)
    end = base + np.uint64(8) * nodes.capacity.astype(np.uint64)
    path: list[tuple[int, int]] = []
    node = int(np.flatnonzero(nodes.leaf & (base <= np.uint64(word)) & (np.uint64(word) < end))[0])
    slot = (word - int(base[node])) // 8
    while node >= 0 and len(path) < 2 * _MOST:
        path.append((node, slot))
        node, slot = int(nodes.parent[node]), int(nodes.parent_slot[node])
    root = mm + kernel.offset("mm_struct", "mm_mt.ma_root")
    known = views.mms[int(views.mm_rows(np.array([mm], np.uint64))[0])]
    facts = {"ma_root": hex(int(known["ma_root"])), "ma_flags": hex(int(known["ma_flags"]))}
    yield Step(record="maple tree", address=hex(root), facts=facts, level=1)
    names = {kernel.types.constant(f"maple_{name}"): name for name in ("leaf_64", "range_64", "arange_64")}
    for depth, (node, slot) in enumerate(reversed(path)):
        low = int(nodes.pivots[node, slot - 1]) + 1 if slot else int(nodes.low[node])
        facts = {
            "covers": f"{int(nodes.low[node]):#x}-{int(nodes.high[node]):#x}",
            "slot": f"{slot} of 0-{int(nodes.end[node])} at {int(base[node]) + 8 * slot:#x}",
            "holds": hex(int(nodes.slots[node, slot])),
            "pivots": f"{low:#x}-{int(nodes.pivots[node, slot]):#x}",
        }
        if nodes.gapped[node]:
            facts["gap"] = hex(int(nodes.gaps[node, slot]))
        facts["parent"] = hex(int(nodes.parent_word[node]))
        kind = names.get(int(nodes.kind[node]), "?")
        yield Step(record=f"maple_node ({kind})", address=hex(int(nodes.address[node])), facts=facts, level=2 + depth)


def _list(kernel: Kernel, views: Views, mm: int, vma: int) -> Iterator[Step]:
    if views.vma_list is None:
        return
    rows = views.vma_list[(views.vma_list["vma"] == np.uint64(vma)) & (views.vma_list["mm"] == np.uint64(mm))]
    if not len(rows):
        yield _absent(View.LIST)
        return
    area = views.vmas[int(views.vma_rows(rows["vma"][:1])[0])]
    word, order = int(rows["slot"][0]), int(rows["order"][0])
    before = "mm->mmap" if order == 0 else hex(word - kernel.offset("vm_area_struct", "vm_next"))
    links = {"vm_prev": hex(int(area["prev"])), "vm_next": hex(int(area["next"]))}
    facts = {"": f"element {order}", "led here from": before, **links}
    yield Step(record="vm_next list", address=hex(word), facts=facts, level=1)


def _rbtree(views: Views, mm: int, vma: int) -> Iterator[Step]:
    """Nodes from the root to that of the area."""
    rows, nodes = views.rbtree, views.rb_nodes
    if rows is None or nodes is None:
        return
    at = np.flatnonzero((rows["vma"] == np.uint64(vma)) & (rows["mm"] == np.uint64(mm)))
    if not len(at):
        yield _absent(View.RBTREE)
        return
    path, row = [int(at[0])], int(nodes.parent[at[0]])
    while row >= 0 and len(path) < 128:
        path.append(row)
        row = int(nodes.parent[row])
    yield Step(record="rbtree", address=hex(int(rows["slot"][path[-1]])), facts={"": "mm->mm_rb"}, level=1)
    for depth, row in enumerate(reversed(path)):
        up = int(nodes.parent[row])
        side = "root" if up < 0 else "left" if int(nodes.left[up]) == row else "right"
        facts = {
            "": side,
            "area": f"{int(rows['start'][row]):#x}-{int(rows['end'][row]):#x} at {int(rows['vma'][row]):#x}",
            "colour": "black" if int(nodes.parent_word[row]) & 1 else "red",
            "parent": hex(int(nodes.parent_word[row]) & ~3),
        }
        yield Step(record="rb_node", address=hex(int(nodes.address[row])), facts=facts, level=2 + depth)


def _area(views: Views, vma: int, row: Row) -> Iterator[Step]:
    facts = {"": f"{row.start}-{row.end} {row.perms} {row.name}".rstrip()}
    if views.slab is not None:
        state = State(int(views.slab.states(np.array([vma], np.uint64), ObjectKind.VMA)[0]))
        facts["slab"] = state.text
    yield Step(record="vm_area_struct", address=hex(vma), facts=facts)
