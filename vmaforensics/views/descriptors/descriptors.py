"""Who keeps memory without mapping it: open files, and the files in memory they and System V hold.

Files in flight over unix sockets, and those that io_uring has registered, are in ``kept``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.kernel.space.pointers import kernel_pointer
from vmaforensics.views.descriptors.kept_files import read_kept
from vmaforensics.views.descriptors.memory_files import read_memory_files
from vmaforensics.views.descriptors.sysv import read_segments
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.tasks import Tasks
    from vmaforensics.views.views import Views

DESCRIPTORS = np.dtype(
    [
        ("files", np.uint64),  # files_struct; threads, and processes made with CLONE_FILES, share one
        ("task", np.uint64),  # the first task that has it, by tgid and pid
        ("pid", np.int32),  # its tgid
        ("fd", np.int32),
        ("slot", np.uint64),  # address of the pointer
        ("file", np.uint64),
        ("inode", np.uint64),  # 0 where the file is not in the dump
        ("mapping", np.uint64),  # f_mapping
    ]
)

_MOST_FDS = 1 << 20  # of one process: sysctl_nr_open's default (fs/file.c)
_MOST_WORDS = 1 << 22  # of all bitmaps: 64 descriptors each
_MOST_USED = 1 << 16  # of these words, with a descriptor in them


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlesView:
    """Open files and files in memory; see the dtypes for the columns."""

    descriptors: NDArray[np.void]  # dtype DESCRIPTORS, by files_struct and fd
    kept: NDArray[np.void]  # dtype KEPT: in flight, or registered with io_uring
    memory_files: NDArray[np.void]  # dtype MEMORY_FILES, by inode
    names: list[bytes | None]  # one per row of memory_files
    segments: NDArray[np.void]  # dtype SEGMENTS
    whole: bool  # every list, index and table was read to its end, but for what ``kept`` was read from
    kept_whole: bool  # every queue and ring was read to its end


def gather_handles(kernel: Kernel, views: Views, log: ProblemLog) -> HandlesView:
    """Read every open file of every process, those that sockets and rings keep, every file in memory and every
    System V segment."""
    descriptors, whole = read_descriptors(kernel, views.tasks, log)
    kept, kept_whole = read_kept(kernel, descriptors, log)
    memory_files, names, more = read_memory_files(kernel, log)
    segments, rest = read_segments(kernel, views.tasks, log)
    return HandlesView(
        descriptors=descriptors,
        kept=kept,
        kept_whole=kept_whole,
        memory_files=memory_files,
        names=names,
        segments=segments,
        whole=whole and more and rest,
    )


def read_descriptors(kernel: Kernel, tasks: Tasks, log: ProblemLog) -> tuple[NDArray[np.void], bool]:
    """``(rows, whole)``: the descriptors that ``fdtable.open_fds`` marks, dtype ``DESCRIPTORS``.

    A descriptor that is marked and still NULL is being opened (alloc_fd, fs/file.c) and is left out.
    """
    live = tasks[tasks["ok"]]
    got, ok = kernel.gather("task_struct", live["task"], ["files"])
    usable = ok & kernel_pointer(got["files"])  # NULL in zombies
    files, first = np.unique(got["files"][usable], return_index=True)
    owner = live[usable][first]
    table, fine = kernel.gather("files_struct", files, ["fdt"])
    fdt, held = kernel.gather("fdtable", table["fdt"], ["max_fds", "fd", "open_fds"])
    log.add(View.HANDLES, Problem.UNREADABLE, owner["mm"][~(fine & held)], files[~(fine & held)])
    whole = bool((fine & held).all())

    count = fdt["max_fds"].astype(np.int64) & 0xFFFFFFFF
    words = np.minimum(count, _MOST_FDS) // 64  # max_fds is a multiple of BITS_PER_LONG (alloc_fdtable)
    words[np.cumsum(words) > _MOST_WORDS] = 0
    cut = words * 64 < count
    log.add(View.HANDLES, Problem.CUT_SHORT, owner["mm"][cut], table["fdt"][cut], count[cut].astype(np.uint64))
    whole &= not cut.any()

    which = np.repeat(np.arange(len(files)), words)
    number = np.arange(len(which)) - np.repeat(np.cumsum(words) - words, words)
    with np.errstate(over="ignore"):
        places = fdt["open_fds"][which] + np.uint64(8) * number.astype(np.uint64)
    marks, read = kernel.words(places, 1)
    lost = np.unique(which[~read])
    log.add(View.HANDLES, Problem.UNREADABLE, owner["mm"][lost], fdt["open_fds"][lost])
    used = np.flatnonzero(marks[:, 0])
    if len(used) > _MOST_USED:
        left = np.unique(which[used[_MOST_USED:]])
        log.add(View.HANDLES, Problem.CUT_SHORT, owner["mm"][left], table["fdt"][left])
        used, whole = used[:_MOST_USED], False
    bits = np.unpackbits(marks[used].astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    row, bit = np.nonzero(bits)
    which, number = which[used[row]], number[used[row]] * 64 + bit
    with np.errstate(over="ignore"):
        slots = fdt["fd"][which] + np.uint64(8) * number.astype(np.uint64)
    pointers, there = kernel.words(slots, 1)
    file = pointers[:, 0]
    wild = there & (file != 0) & ~kernel_pointer(file)
    for problem, bad in ((Problem.UNREADABLE, ~there), (Problem.NON_CANONICAL, wild)):
        _, one = np.unique(which[bad], return_index=True)  # the first of each table: there may be millions
        at = np.flatnonzero(bad)[one]
        log.add(View.HANDLES, problem, owner["mm"][which[at]], slots[at], file[at])
    whole &= bool(read.all() and there.all())
    keep = np.flatnonzero(there & (file != 0) & ~wild)

    rows = np.zeros(len(keep), DESCRIPTORS)
    which = which[keep]
    rows["files"], rows["task"], rows["pid"] = files[which], owner["task"][which], owner["tgid"][which]
    rows["fd"], rows["slot"], rows["file"] = number[keep], slots[keep], file[keep]
    return rows, _of_files(kernel, rows, log) and whole


def _of_files(kernel: Kernel, rows: NDArray[np.void], log: ProblemLog) -> bool:
    """Fill in ``inode`` and ``mapping``."""
    files, inverse = np.unique(rows["file"], return_inverse=True)
    got, ok = kernel.gather("file", files, ["f_inode", "f_mapping"])
    log.add(View.HANDLES, Problem.UNREADABLE, 0, files[~ok])
    rows["inode"], rows["mapping"] = got["f_inode"][inverse], got["f_mapping"][inverse]
    return bool(ok.all())
