"""User addresses that the kernel remembers outside of any area: each should lie in one.

Code, data, heap, stack and argument bounds are columns of ``mms``; here are the auxiliary vector, the
threads' registers and pointers, the signal handlers and the page tables the CPUs were on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.views.anchors.cpus import read_cpus
from vmaforensics.views.anchors.registers import Place, read_threads
from vmaforensics.views.anchors.signals import read_handlers
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.image.image import CpuState
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.views import Views

# Types of auxiliary vector entries that are addresses (include/uapi/linux/auxvec.h; AT_SYSINFO_EHDR of
# arch/x86/include/uapi/asm/auxvec.h).
AUXV = {"phdr": 3, "base": 7, "entry": 9, "random": 25, "execfn": 31, "sysinfo_ehdr": 33}
_AT_NULL = 0

ANCHORS = np.dtype(
    [
        ("mm", np.uint64),
        ("ok", np.bool_),  # the auxiliary vector could be read
        ("auxv", np.uint64),  # address of mm_struct.saved_auxv
        *((name, np.uint64) for name in AUXV),  # 0 where the vector has no such entry
        ("exe_private", np.uint64),  # exe_file's private_data: up to 6.7 the file beneath, if on an overlay
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorsView:
    """What is remembered of user addresses; see the dtypes for the columns."""

    mms: NDArray[np.void]  # dtype ANCHORS, a row for each of Views.mms, in its order
    threads: NDArray[np.void]  # dtype THREADS
    place: Place  # where the threads' registers were found
    handlers: NDArray[np.void]  # dtype HANDLERS
    cpus: NDArray[np.void]  # dtype CPUS


def gather_anchors(kernel: Kernel, views: Views, log: ProblemLog, cpus: tuple[CpuState, ...] = ()) -> AnchorsView:
    """Read every anchor of every process. ``cpus`` is what the image says of the CPUs."""
    threads, place = read_threads(kernel, views.tasks, cpus, log)
    if place.fitting * 2 < place.tried:
        kernel.identity.problems.append(
            f"user registers were found on {place.fitting} of {place.tried} kernel stacks only"
        )
    anchors = _read_auxv(kernel, views.mms, log)
    # ovl_open_realfile and ovl_mmap (fs/overlayfs/file.c): areas have that file, exe_file is the overlay's.
    exe, ok = kernel.gather("file", views.mms["exe_file"], ["private_data"])
    anchors["exe_private"] = np.where(ok, exe["private_data"], np.uint64(0))
    return AnchorsView(
        mms=anchors,
        threads=threads,
        place=place,
        handlers=read_handlers(kernel, threads, log),
        cpus=read_cpus(kernel, views.mms, cpus),
    )


def _read_auxv(kernel: Kernel, mms: NDArray[np.void], log: ProblemLog) -> NDArray[np.void]:
    """``saved_auxv``: pairs of type and value up to a type of 0 (create_elf_tables, fs/binfmt_elf.c)."""
    rows = np.zeros(len(mms), ANCHORS)
    rows["mm"] = mms["mm"]
    got, ok = kernel.gather("mm_struct", mms["mm"], ["saved_auxv"])
    rows["ok"] = ok & mms["ok"]
    rows["auxv"] = mms["mm"] + np.uint64(kernel.offset("mm_struct", "saved_auxv"))
    log.add(View.ANCHORS, Problem.UNREADABLE, mms["mm"][~ok & mms["ok"]], rows["auxv"][~ok & mms["ok"]])
    # 32-bit programs have it in words of theirs (elf_addr_t of fs/compat_binfmt_elf.c).
    narrow = (mms["task_size"] != 0) & (mms["task_size"] <= np.uint64(1 << 32))
    for width, which in ((8, np.flatnonzero(~narrow)), (4, np.flatnonzero(narrow))):
        if not len(which):
            continue
        vector = np.ascontiguousarray(got["saved_auxv"][which]).view(f"<u{width}").reshape(len(which), -1)
        types, values = vector[:, : vector.shape[1] & ~1 : 2], vector[:, 1::2]
        live = np.cumsum(types == _AT_NULL, axis=1) == 0
        for name, number in AUXV.items():
            hit = live & (types == number)
            found = hit.any(axis=1)
            rows[name][which[found]] = values[found, hit[found].argmax(axis=1)]
    return rows
