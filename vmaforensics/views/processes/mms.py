"""The ``mm_struct`` of every process: its counters, its anchors, the roots of its trees, its lock."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.kernel.space.pointers import kernel_pointer
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel


class Lock(IntEnum):
    """State of the mmap lock when the image was taken; see ``lock_states``."""

    FREE = 0
    READ = 1
    WRITE = 2
    UNKNOWN = 3

    @property
    def text(self) -> str:
        """The state in words."""
        return ("free", "read-held", "write-held", "unknown")[self]


MMS = np.dtype(
    [
        ("mm", np.uint64),
        ("task", np.uint64),  # the task of lowest tgid and pid that uses it
        ("pid", np.int32),  # its tgid
        ("comm", "S16"),
        ("ok", np.bool_),
        ("lock", np.uint8),
        ("users", np.int32),
        ("count", np.int32),
        ("map_count", np.int64),
        ("total_vm", np.uint64),  # pages, like all counters
        ("exec_vm", np.uint64),
        ("data_vm", np.uint64),
        ("stack_vm", np.uint64),
        ("locked_vm", np.uint64),
        ("highest_vm_end", np.uint64),
        ("pgtables_bytes", np.int64),
        ("hugetlb_usage", np.int64),  # pages of 4 KiB
        ("ldt", np.uint64),
        ("pgd", np.uint64),
        ("task_size", np.uint64),
        ("mmap", np.uint64),
        ("rb_root", np.uint64),
        ("ma_root", np.uint64),
        ("ma_flags", np.uint32),
        ("start_code", np.uint64),
        ("end_code", np.uint64),
        ("start_data", np.uint64),
        ("end_data", np.uint64),
        ("start_brk", np.uint64),
        ("brk", np.uint64),
        ("start_stack", np.uint64),
        ("arg_start", np.uint64),
        ("arg_end", np.uint64),
        ("env_start", np.uint64),
        ("env_end", np.uint64),
        ("vdso", np.uint64),
        ("exe_file", np.uint64),
        ("has_vsyscall", np.bool_),
    ]
)

# column of MMS: member of mm_struct
_PLAIN = {
    "users": "mm_users.counter",
    "count": "mm_count.counter",
    "map_count": "map_count",
    "total_vm": "total_vm",
    "exec_vm": "exec_vm",
    "data_vm": "data_vm",
    "stack_vm": "stack_vm",
    "locked_vm": "locked_vm",
    "highest_vm_end": "highest_vm_end?",
    "pgtables_bytes": "pgtables_bytes.counter?",
    "hugetlb_usage": "hugetlb_usage.counter?",
    "ldt": "context.ldt?",
    "pgd": "pgd",
    "task_size": "task_size",
    "mmap": "mmap?",
    "rb_root": "mm_rb.rb_node?",
    "ma_root": "mm_mt.ma_root?",
    "ma_flags": "mm_mt.ma_flags?",
    "start_code": "start_code",
    "end_code": "end_code",
    "start_data": "start_data",
    "end_data": "end_data",
    "start_brk": "start_brk",
    "brk": "brk",
    "start_stack": "start_stack",
    "arg_start": "arg_start",
    "arg_end": "arg_end",
    "env_start": "env_start",
    "env_end": "env_end",
    "vdso": "context.vdso?",
    "exe_file": "exe_file?",
}

# A writer holds bit 0, readers count from bit 8 (kernel/locking/rwsem.c).
_RWSEM = ("mmap_lock.count.counter", "mmap_sem.count.counter")
# PREEMPT_RT: READER_BIAS plus readers, or WRITER_BIAS (include/linux/rwbase_rt.h, rwbase_rt.c).
_RWBASE = "mmap_lock.rwbase.readers.counter"
_READER_BIAS, _WRITER_BIAS = 1 << 31, 1 << 30

_HAS_VSYSCALL = 1 << 1  # MM_CONTEXT_HAS_VSYSCALL, arch/x86/include/asm/mmu.h


def read_mms(kernel: Kernel, tasks: NDArray[np.void], log: ProblemLog) -> NDArray[np.void]:
    """One row per ``mm_struct`` that some task uses; dtype ``MMS``, sorted by address.

    Processes that share one (vfork, CLONE_VM) share its row.
    """
    users = tasks[tasks["ok"] & (tasks["mm"] != 0)]
    wild = ~kernel_pointer(users["mm"])
    at = np.uint64(kernel.offset("task_struct", "mm"))
    log.add(View.TASKS, Problem.NON_CANONICAL, 0, users["task"][wild] + at, users["mm"][wild])
    users = users[~wild]
    addresses, first = np.unique(users["mm"], return_index=True)  # tasks are sorted by tgid and pid
    rows = np.zeros(len(addresses), MMS)
    rows["mm"] = addresses
    rows["task"], rows["pid"], rows["comm"] = (users[name][first] for name in ("task", "tgid", "comm"))
    present = {column: member for column, member in _PLAIN.items() if _exists(kernel, member)}
    got, ok = kernel.gather("mm_struct", addresses, present.values())
    rows["ok"] = ok
    log.add(View.TASKS, Problem.UNREADABLE, addresses[~ok], addresses[~ok])
    for column, member in present.items():
        rows[column] = got[member.rstrip("?")]
    rows["lock"] = lock_states(kernel, addresses)
    rows["has_vsyscall"] = _vsyscall(kernel, addresses)
    return rows


def mm_offsets(kernel: Kernel) -> dict[str, int]:
    """Byte offset in ``mm_struct`` of the columns that this kernel has."""
    return {
        column: kernel.offset("mm_struct", member.rstrip("?"))
        for column, member in _PLAIN.items()
        if _exists(kernel, member)
    }


def _exists(kernel: Kernel, member: str) -> bool:
    return kernel.has("mm_struct", member.rstrip("?"))


def lock_states(kernel: Kernel, mms: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """The :class:`Lock` state of each mm's mmap lock."""
    states = np.full(len(mms), Lock.UNKNOWN, np.uint8)
    for member in _RWSEM:
        if kernel.has("mm_struct", member):
            got, ok = kernel.gather("mm_struct", mms, [member])
            count = got[member].astype(np.int64)
            writer, readers = (count & 1) != 0, (count & ~0xFF) > 0
            held = np.where(writer, Lock.WRITE, np.where(readers, Lock.READ, Lock.FREE))
            return np.where(ok, held, Lock.UNKNOWN).astype(np.uint8)
    if kernel.has("mm_struct", _RWBASE):
        got, ok = kernel.gather("mm_struct", mms, [_RWBASE])
        count = got[_RWBASE].astype(np.int64) & 0xFFFFFFFF
        held = np.where(count == _WRITER_BIAS, Lock.WRITE, np.where(count == _READER_BIAS, Lock.FREE, Lock.READ))
        return np.where(ok, held, Lock.UNKNOWN).astype(np.uint8)
    return states


def _vsyscall(kernel: Kernel, mms: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Would get_gate_vma (arch/x86/entry/vsyscall) give this mm the gate area? 64-bit processes have it."""
    if kernel.has("mm_struct", "context.flags"):
        got, ok = kernel.gather("mm_struct", mms, ["context.flags"])
        has: NDArray[np.bool_] = ok & ((got["context.flags"] & np.uint64(_HAS_VSYSCALL)) != 0)
        return has
    # 5.10 has ia32_compat instead of context.flags, and asks for it to be zero.
    if kernel.has("mm_struct", "context.ia32_compat"):
        got, ok = kernel.gather("mm_struct", mms, ["context.ia32_compat"])
        native: NDArray[np.bool_] = ok & (got["context.ia32_compat"] == 0)
        return native
    return np.ones(len(mms), np.bool_)
