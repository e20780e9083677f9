"""System V shared memory segments, by the kernel's own numbers: ``ipc_namespace.ids[IPC_SHM_IDS].ipcs_idr``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.kernel.space.pointers import kernel_pointer
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.structures.xarray import all_pointers
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.tasks import Tasks

SEGMENTS = np.dtype(
    [
        ("segment", np.uint64),  # struct shmid_kernel
        ("namespace", np.uint64),
        ("id", np.int32),
        ("key", np.int32),
        ("nattch", np.int64),
        ("nattch_at", np.uint64),  # address of shm_nattch
        ("size", np.uint64),  # bytes
        ("file", np.uint64),
        ("mapping", np.uint64),  # address_space that areas which map it have
        ("creator_pid", np.int32),
        ("last_pid", np.int32),  # who attached or detached last
    ]
)

_IPC_SHM_IDS = 2  # ipc/util.h
_FIELDS = ("shm_perm.id", "shm_perm.key", "shm_nattch", "shm_segsz", "shm_file")
_PIDS = {"creator_pid": "shm_cprid", "last_pid": "shm_lprid"}  # struct pid


def read_segments(kernel: Kernel, tasks: Tasks, log: ProblemLog) -> tuple[NDArray[np.void], bool]:
    """``(rows, whole)``: the segments of every namespace that a task is in, dtype ``SEGMENTS``.

    ``whole`` is False if an index could not be read to its end. A kernel without System V has none.
    """
    none = np.zeros(0, SEGMENTS)
    if kernel.types.struct("shmid_kernel") is None or not kernel.has("ipc_namespace", "ids"):
        return none, True
    spaces = _namespaces(kernel, tasks)
    ids = kernel.offset("ipc_namespace", "ids") + _IPC_SHM_IDS * kernel.sizeof("ipc_ids")
    heads = spaces + np.uint64(ids + kernel.offset("ipc_ids", "ipcs_idr.idr_rt.xa_head"))
    words, ok = kernel.words(heads, 1)
    log.add(View.HANDLES, Problem.UNREADABLE, 0, heads[~ok])
    spaces, entries = spaces[ok], words[ok, 0]
    which, pointers, whole = all_pointers(kernel, entries, View.HANDLES, log)
    # kern_ipc_perm, which the index leads to, is the first member of shmid_kernel
    pointers -= np.uint64(kernel.offset("shmid_kernel", "shm_perm"))
    wild = ~kernel_pointer(pointers)
    log.add(View.HANDLES, Problem.NON_CANONICAL, 0, spaces[which[wild]], pointers[wild])
    which, pointers = which[~wild], pointers[~wild]
    got, fine = kernel.gather("shmid_kernel", pointers, [*_FIELDS, *_PIDS.values()])
    log.add(View.HANDLES, Problem.UNREADABLE, 0, pointers[~fine])
    which, pointers, got = which[fine], pointers[fine], got[fine]
    rows = np.zeros(len(got), SEGMENTS)
    rows["segment"], rows["namespace"] = pointers, spaces[which]
    rows["nattch_at"] = pointers + np.uint64(kernel.offset("shmid_kernel", "shm_nattch"))
    for column, member in zip(("id", "key", "nattch", "size", "file"), _FIELDS, strict=True):
        rows[column] = got[member]
    number = np.uint64(kernel.offset("pid", "numbers") + kernel.offset("upid", "nr"))  # in the first namespace
    for column, member in _PIDS.items():
        data, there = kernel.space.gather(got[member] + number, 4)
        rows[column] = np.where(there & kernel_pointer(got[member]), data.view("<i4")[:, 0], 0)
    file, known = kernel.gather("file", rows["file"], ["f_mapping"])
    rows["mapping"] = np.where(known, file["f_mapping"], np.uint64(0))
    log.add(View.HANDLES, Problem.UNREADABLE, 0, rows["file"][~known])
    return rows, whole and bool(ok.all() and fine.all())


def _namespaces(kernel: Kernel, tasks: Tasks) -> NDArray[np.uint64]:
    got, ok = kernel.gather("task_struct", tasks["task"][tasks["ok"]], ["nsproxy"])
    proxies = np.unique(got["nsproxy"][ok & kernel_pointer(got["nsproxy"])])
    spaces, fine = kernel.gather("nsproxy", proxies, ["ipc_ns"])
    first = kernel.symbols.get("init_ipc_ns")
    known = spaces["ipc_ns"][fine & kernel_pointer(spaces["ipc_ns"])]
    return np.unique(np.append(known, np.array([first] if first else [], np.uint64)))
