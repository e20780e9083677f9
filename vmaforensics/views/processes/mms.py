"""The ``mm_struct`` of every process: its counters, its anchors, the roots of its trees, its lock."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import first_rows
from vmaforensics.columns.table import Table, columns_of, member, table
from vmaforensics.columns.types import I32, I64, U8, U32, U64, Bools, Bytes16
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.slab.homes import MM, Homes
from vmaforensics.views.structures.rwsem import lock_states
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.tasks import Tasks


@table(struct="mm_struct")
class Mms(Table):
    """Address spaces: a row is an ``mm_struct`` (include/linux/mm_types.h) that some task uses; sorted by address."""

    mm: U64  # address of the mm_struct
    task: U64  # the task of lowest tgid and pid that uses it
    pid: I32  # its tgid
    comm: Bytes16  # its command name
    ok: Bools  # False: not in the dump
    lock: U8  # Lock: state of the mmap lock
    lock_seq: U32 = member("mm_lock_seq.sequence|mm_lock_seq?")  # of changes of the map, from 6.4 on; 0 before
    users: I32 = member("mm_users.counter")  # mm_users: tasks, and others that use the user part
    count: I32 = member("mm_count.counter")  # mm_count: references to the mm_struct itself
    map_count: I64 = member("map_count|vma_count")  # VMAs
    total_vm: U64 = member("total_vm")  # pages, like all counters
    exec_vm: U64 = member("exec_vm")
    data_vm: U64 = member("data_vm")
    stack_vm: U64 = member("stack_vm")
    locked_vm: U64 = member("locked_vm")
    highest_vm_end: U64 = member("highest_vm_end?")  # up to 6.0
    pgtables_bytes: I64 = member("pgtables_bytes.counter?")  # of all page tables
    hugetlb_usage: I64 = member("hugetlb_usage.counter?")  # pages of the CPU
    other_tables: Bools  # has it page tables that are counted and no part of the user half?
    pgd: U64 = member("pgd")  # the top page table
    task_size: U64 = member("task_size")  # end of user addresses
    mmap: U64 = member("mmap?")  # head of the vm_next list, up to 6.0
    rb_root: U64 = member("mm_rb.rb_node?")  # root of the red-black tree, up to 6.0
    ma_root: U64 = member("mm_mt.ma_root?")  # root of the maple tree, from 6.1 on
    ma_flags: U32 = member("mm_mt.ma_flags?")
    start_code: U64 = member("start_code")
    end_code: U64 = member("end_code")
    start_data: U64 = member("start_data")
    end_data: U64 = member("end_data")
    start_brk: U64 = member("start_brk")
    brk: U64 = member("brk")
    start_stack: U64 = member("start_stack")
    arg_start: U64 = member("arg_start")
    arg_end: U64 = member("arg_end")
    env_start: U64 = member("env_start")
    env_end: U64 = member("env_end")
    vdso: U64 = member("context.vdso?")  # where it is mapped
    exe_file: U64 = member("exe_file?")  # file
    has_gate_area: Bools  # /proc/PID/maps shows the gate area (get_gate_vma)


def read_mms(kernel: Kernel, tasks: Tasks, log: ProblemLog) -> Mms:
    """One row per ``mm_struct`` that some of ``tasks`` uses.

    ``tasks`` are sorted by tgid and pid. Processes that share one (vfork, CLONE_VM) share its row.
    """
    users = tasks.take(tasks.ok & (tasks.mm != 0))
    wild = ~kernel.arch.kernel_pointer(users.mm)
    at = np.uint64(kernel.offset("task_struct", "mm"))
    log.add(View.TASKS, Problem.NON_CANONICAL, 0, users.task[wild] + at, users.mm[wild])
    users = users.take(~wild)
    users = users.take(first_rows(users.mm))
    stale = kernel.shared(Homes).strangers(MM, users.mm)
    log.add(View.TASKS, Problem.STALE, 0, users.task[stale] + at, users.mm[stale])
    if stale.any():
        # A copy made by hand has the owner that the original had; foreign memory does not.
        owner, owned = kernel.gather_member("mm_struct", "owner?", users.mm)
        users = users.take(~stale | (owned & (owner == users.task)))
    rows, ok = kernel.gather(Mms, users.mm)
    rows.mm[:], rows.task[:], rows.pid[:], rows.comm[:] = users.mm, users.task, users.tgid, users.comm
    rows.ok[:] = ok
    log.add(View.TASKS, Problem.UNREADABLE, users.mm[~ok], users.mm[~ok])
    rows.lock[:] = mmap_locks(kernel, users.mm)
    rows.has_gate_area[:] = kernel.arch.has_gate_area(kernel, users.mm)
    rows.other_tables[:] = kernel.arch.has_other_tables(kernel, users.mm)
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class MmOffsets:
    """Where the words of an mm_struct lie that findings point at: byte offsets, None for what
    this kernel does not have.

    A field is named as the column of :class:`Mms` that holds the word.
    """

    map_count: int = 0
    total_vm: int = 0
    exec_vm: int = 0
    data_vm: int = 0
    stack_vm: int = 0
    locked_vm: int = 0
    pgtables_bytes: int | None = None
    start_code: int = 0
    end_code: int = 0
    start_data: int = 0
    end_data: int = 0
    start_brk: int = 0
    brk: int = 0
    start_stack: int = 0
    arg_start: int = 0
    arg_end: int = 0
    env_start: int = 0
    env_end: int = 0
    vdso: int | None = None
    exe_file: int | None = None

    @classmethod
    def of(cls, kernel: Kernel) -> MmOffsets:
        """Ask the kernel's types. Raises :class:`KernelNotFoundError` for a member that has to be there; of damaged
        types 0 is said, and :attr:`Kernel.untyped` has it."""
        offsets: dict[str, int] = {}
        for field in fields(cls):
            path = columns_of(Mms)[field.name].path
            if not (path.endswith("?") or kernel.types_damaged) or kernel.has("mm_struct", path.removesuffix("?")):
                offsets[field.name] = kernel.offset("mm_struct", path.removesuffix("?"))
        return cls(**offsets)


def mmap_locks(kernel: Kernel, mms: U64) -> U8:
    """The :class:`Lock` state of each mm's mmap lock; before 5.8 it is called mmap_sem."""
    member = "mmap_lock" if kernel.has("mm_struct", "mmap_lock") else "mmap_sem"
    return lock_states(kernel, "mm_struct", mms, member)
