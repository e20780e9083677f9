"""Labelled edits that only the allocator, the pid index or the page directories still contradict."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from support import row_at, rows_in

from tamper.edits import Label, executable_file, labelled, pick, repair_counters, vma_of
from vmaforensics.checks.finding import Severity
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from collections.abc import Callable

    from support import Edit, Row


def slot_zeroed_repaired(edit: Edit) -> Label:
    """A leaf slot emptied and every counter repaired: the index and the counters agree."""
    row = pick(edit, View.MAPLE, executable_file)
    edit.put(int(row.slot), 0)
    repair_counters(edit, row)
    return labelled(edit, "slot zeroed, counters repaired", row)


def area_erased(edit: Edit) -> Label:
    """The same in a tree of a single leaf, which records no gap: nothing in the tree is wrong."""
    nodes = edit.views.maple_nodes
    lone = nodes.mm[(nodes.parent < 0) & nodes.leaf]
    row = pick(edit, View.MAPLE, lambda rows, vmas: executable_file(rows, vmas) & np.isin(rows.mm, lone))
    edit.put(int(row.slot), 0)
    repair_counters(edit, row)
    return labelled(edit, "area erased, counters repaired", row)


def area_forged(edit: Edit) -> Label:
    """A slot that leads to a copy of the VMA, in memory that is not of the slab cache."""
    row = pick(edit, View.MAPLE, executable_file)
    size = edit.views.vma_size // 8 * 8
    init_task = edit.kernel.symbols.get("init_task")
    assert init_task is not None
    copy = (edit.at("task_struct", init_task, "thread") + 255) & ~255
    for at in range(0, size, 8):
        edit.put(copy + at, edit.get(int(row.vma) + at))
    edit.put(int(row.slot), copy)
    return labelled(edit, "forged area", row)


def list_and_tree_unlinked(edit: Edit) -> Label:
    """A VMA taken out of the list and the red-black tree, with parents, gaps and counters repaired (5.10)."""
    tree = edit.views.rb_nodes
    assert tree is not None
    rows = edit.views.indices()[View.RBTREE]
    leaf = (tree.left < 0) & (tree.right < 0) & (tree.parent >= 0)
    # A red leaf: taking it out needs no rebalancing (rb_color: bit 0 of __rb_parent_color, 0 is red).
    leaf &= (tree.parent_word & np.uint64(1)) == 0
    mine = rows.vma[leaf]
    row = pick(edit, View.LIST, lambda rows, vmas: executable_file(rows, vmas) & np.isin(rows.vma, mine))
    at = int(np.flatnonzero(rows.vma == row.vma)[0])
    parent = int(tree.parent[at])
    side = "vm_rb.rb_left" if int(tree.left[parent]) == at else "vm_rb.rb_right"
    edit.put(edit.at("vm_area_struct", int(rows.vma[parent]), side), 0)
    vma = vma_of(edit, row)
    edit.put(edit.at("vm_area_struct", int(vma.prev), "vm_next"), int(vma.next))
    edit.put(edit.at("vm_area_struct", int(vma.next), "vm_prev"), int(vma.prev))
    repair_counters(edit, row)
    return labelled(edit, "list and tree unlinked, counters repaired", row)


def _victim(edit: Edit, *, alone: bool = True) -> Row:
    """A process with an address space of its own and a single thread, neither init nor the last one."""
    tasks = edit.views.tasks
    users = {int(mm): int(count) for mm, count in zip(*np.unique(tasks.mm, return_counts=True), strict=True)}
    fits = [row for row in rows_in(tasks) if row.leader and row.mm and row.pid > 1 and users[int(row.mm)] == 1]
    return fits[len(fits) // 2 if alone else 0]


def _process(technique: str, task: Row) -> Label:
    return Label(technique=technique, pid=int(task.tgid), start=0, end=0)


def task_off_list(edit: Edit) -> Label:
    """A process taken out of init_task.tasks in both directions."""
    task = _victim(edit)
    where = edit.at("task_struct", int(task.task), "tasks")
    after, before = edit.get(where), edit.get(where + 8)
    edit.put(before, after)
    edit.put(after + 8, before)
    return _process("task off the list", task)


def task_off_pid_index(edit: Edit) -> Label:
    """A process taken off its struct pid: kill and /proc do not find it any more."""
    task = _victim(edit)
    pid = edit.get(edit.at("task_struct", int(task.task), "thread_pid"))
    edit.put(edit.at("pid", pid, "tasks"), 0)
    return _process("task off the pid index", task)


def task_off_both(edit: Edit) -> Label:
    """A process in neither: only the allocator and its address space still know of it."""
    task_off_list(edit)
    label = task_off_pid_index(edit)
    return Label(technique="task off list and pid index", pid=label.pid, start=0, end=0)


def mm_decoy(edit: Edit) -> Label:
    """``task->mm`` set to the address space of another process; active_mm as it was."""
    task, other = _victim(edit), _victim(edit, alone=False)
    assert task.mm != other.mm
    edit.put(edit.at("task_struct", int(task.task), "mm"), int(other.mm))
    return _process("decoy mm", task)


def mm_decoy_active(edit: Edit) -> Label:
    """The same with ``active_mm``."""
    task, other = _victim(edit), _victim(edit, alone=False)
    for member in ("mm", "active_mm"):
        edit.put(edit.at("task_struct", int(task.task), member), int(other.mm))
    return _process("decoy mm and active_mm", task)


def mm_cleared(edit: Edit, *, repaired: bool = False) -> Label:
    """``task->mm`` set to NULL, as of a kernel thread, with its mark; repaired: the mm is owned by nobody."""
    task = _victim(edit)
    edit.put(edit.at("task_struct", int(task.task), "mm"), 0)
    if repaired:
        edit.put(edit.at("mm_struct", int(task.mm), "owner"), 0)
    flags = edit.at("task_struct", int(task.task), "flags")
    edit.put(flags, int(task.flags) | 0x00200000, 4)
    return _process("mm cleared" + (", owner too" if repaired else ""), task)


def marked_as_kernel_thread(edit: Edit) -> Label:
    """PF_KTHREAD set in the flags of a process that keeps its memory: ``ps`` shows it in brackets."""
    task = _victim(edit)
    edit.put(edit.at("task_struct", int(task.task), "flags"), int(task.flags) | 0x00200000, 4)
    return _process("process marked as a kernel thread", task)


def memory_lent_to_kernel_thread(edit: Edit) -> Label:
    """A kernel thread given the memory of a process, as kthread_use_mm does: legal, so of low rank."""
    tasks = edit.views.tasks
    threads = ((tasks.flags & 0x00200000) != 0) & (tasks.pid > 2) & (tasks.mm == 0)
    thread = row_at(tasks, int(np.flatnonzero(threads)[0]))
    mm = int(_victim(edit).mm)
    for member in ("mm", "active_mm"):
        edit.put(edit.at("task_struct", int(thread.task), member), mm)
    return replace(_process("memory lent to a kernel thread", thread), rank=Severity.LOW)


def root_exchanged(edit: Edit) -> Label:
    """``ma_root`` led to a copy of a tree of a single leaf; the old root says that it still is the tree's."""
    nodes = edit.views.maple_nodes
    node = int(np.flatnonzero((nodes.parent < 0) & nodes.leaf)[0])
    old, mm = int(nodes.address[node]), int(nodes.mm[node])
    init_task = edit.kernel.symbols.get("init_task")
    assert init_task is not None
    copy = (edit.at("task_struct", init_task, "thread") + 255) & ~255  # a node is aligned to its size
    for at in range(0, 256, 8):
        edit.put(copy + at, edit.get(old + at))
    root = edit.at("mm_struct", mm, "mm_mt.ma_root")
    edit.put(root, edit.get(root) - old + copy)
    pid = int(edit.views.mms.pid[edit.views.mm_rows(nodes.mm[node : node + 1])[0]])
    return Label(technique="root exchanged for a copy", pid=pid, start=0, end=0)


MAPLE_SLAB_EDITS: tuple[tuple[Callable[[Edit], Label], str], ...] = (
    (slot_zeroed_repaired, "VMA-SLAB-ORPHAN"),
    (area_erased, "VMA-SLAB-ORPHAN"),
    (area_forged, "VMA-SLAB-STATE"),
)
LIST_SLAB_EDITS: tuple[tuple[Callable[[Edit], Label], str], ...] = ((list_and_tree_unlinked, "VMA-SLAB-ORPHAN"),)
TASK_EDITS: tuple[tuple[Callable[[Edit], Label], str], ...] = (
    (task_off_list, "TASK-HIDDEN"),
    (task_off_pid_index, "TASK-HIDDEN"),
    (task_off_both, "TASK-HIDDEN"),
    (mm_decoy, "MM-DECOY"),
    (mm_decoy_active, "MM-DECOY"),
    (mm_cleared, "MM-HIDDEN"),
    (marked_as_kernel_thread, "TASK-KTHREAD-MM"),
)
ROOT_EDITS: tuple[tuple[Callable[[Edit], Label], str], ...] = ((root_exchanged, "MT-ROOT"),)
LOW_EDITS: tuple[tuple[Callable[[Edit], Label], str], ...] = ((memory_lent_to_kernel_thread, "TASK-KTHREAD-MM"),)
