"""System V shared memory segments, by the kernel's own numbers: ``ipc_namespace.ids[IPC_SHM_IDS].ipcs_idr``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct
from vmaforensics.columns.table import Table, member, table
from vmaforensics.columns.types import I32, I64, U64
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.structures.xarray import all_pointers
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.tasks import Tasks


@table(struct="shmid_kernel")
class Segments(Table):
    """A System V segment (ipc/shm.c); by IPC namespace, then as its index has them."""

    segment: U64  # struct shmid_kernel
    id: I32 = member("shm_perm.id")
    key: I32 = member("shm_perm.key")
    nattch: I64 = member("shm_nattch")
    nattch_at: U64  # address of shm_nattch
    size: U64 = member("shm_segsz")  # bytes
    mapping: U64  # address_space that VMAs which map it have
    creator_pid: I32  # in the first PID namespace; 0 if unknown
    last_pid: I32  # who attached or detached last


@table(struct="shmid_kernel")
class _Referenced(Table):
    """What a segment points to."""

    file: U64 = member("shm_file")
    creator: U64 = member("shm_cprid")  # struct pid
    last: U64 = member("shm_lprid")


_IPC_SHM_IDS = 2  # ipc/util.h


def read_segments(kernel: Kernel, tasks: Tasks, log: ProblemLog) -> tuple[Segments, bool]:
    """``(segments, whole)``: the segments of every namespace that a task is in.

    ``whole`` is False if an index could not be read to its end. A kernel without System V has none. Problems
    carry the view ``HANDLES`` and no mm.
    """
    if kernel.types.struct("shmid_kernel") is None or not kernel.has("ipc_namespace", "ids"):
        return Segments.zeros(0), True
    spaces = _namespaces(kernel, tasks)
    ids = kernel.offset("ipc_namespace", "ids") + _IPC_SHM_IDS * kernel.sizeof("ipc_ids")
    heads = spaces + np.uint64(ids + kernel.offset("ipc_ids", "ipcs_idr.idr_rt.xa_head"))
    words, ok = kernel.words(heads, 1)
    log.add(View.HANDLES, Problem.UNREADABLE, 0, heads[~ok])
    spaces = spaces[ok]
    which, pointers, whole = all_pointers(kernel, words[ok, 0], View.HANDLES, log)
    # kern_ipc_perm, which the index leads to, is the first member of shmid_kernel
    pointers -= np.uint64(kernel.offset("shmid_kernel", "shm_perm"))
    wild = ~kernel.arch.kernel_pointer(pointers)
    log.add(View.HANDLES, Problem.NON_CANONICAL, 0, spaces[which[wild]], pointers[wild])
    pointers = pointers[~wild]
    rows, read = kernel.gather(Segments, pointers)
    leads, held = kernel.gather(_Referenced, pointers)
    read &= held
    log.add(View.HANDLES, Problem.UNREADABLE, 0, pointers[~read])
    rows, leads, pointers = rows.take(read), leads.take(read), pointers[read]
    rows.segment[:] = pointers
    rows.nattch_at[:] = pointers + np.uint64(kernel.offset("shmid_kernel", "shm_nattch"))
    rows.creator_pid[:], rows.last_pid[:] = _numbers(kernel, leads.creator), _numbers(kernel, leads.last)
    rows.mapping[:], known = kernel.gather_member("file", "f_mapping", leads.file)
    log.add(View.HANDLES, Problem.UNREADABLE, 0, leads.file[~known])
    return rows, whole and bool(ok.all() and read.all())


def _numbers(kernel: Kernel, pids: U64) -> I32:
    """The process number in the first namespace of each ``struct pid``; 0 where it cannot be read."""
    at = np.uint64(kernel.offset("pid", "numbers") + kernel.offset("upid", "nr"))
    with np.errstate(over="ignore"):
        data, ok = kernel.space.gather(pids + at, 4)
    return np.where(ok & kernel.arch.kernel_pointer(pids), data.view("<i4")[:, 0], 0).astype(np.int32)


def _namespaces(kernel: Kernel, tasks: Tasks) -> U64:
    """Every ``ipc_namespace`` that a task is in, and the first, by address."""
    proxies, ok = kernel.gather_member("task_struct", "nsproxy", tasks.task[tasks.ok])
    proxies = distinct(proxies[ok & kernel.arch.kernel_pointer(proxies)])
    spaces, held = kernel.gather_member("nsproxy", "ipc_ns", proxies)
    first = kernel.symbols.get("init_ipc_ns")
    known = spaces[held & kernel.arch.kernel_pointer(spaces)]
    return distinct(np.append(known, np.array([first] if first else [], np.uint64)))
