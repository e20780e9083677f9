"""User addresses that the kernel remembers outside of any VMA: each should lie in one.

Code, data, heap, stack and argument bounds are columns of ``Mms``; here are the auxiliary vector, the
threads' registers and pointers, the signal handlers and the page tables the CPUs were on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.table import Table, table
from vmaforensics.columns.types import U64, Bools
from vmaforensics.views.anchors.cpus import Cpus, read_cpus
from vmaforensics.views.anchors.registers import Threads, read_threads
from vmaforensics.views.anchors.signals import Handlers, read_handlers
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.arch.registers import CpuState, Place
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.mms import Mms
    from vmaforensics.views.processes.tasks import Tasks

# Types of auxiliary vector entries that are addresses (include/uapi/linux/auxvec.h; AT_SYSINFO_EHDR of
# arch/x86/include/uapi/asm/auxvec.h), by the column of :class:`MmAnchors`.
AUXV = {"phdr": 3, "base": 7, "entry": 9, "random": 25, "execfn": 31, "sysinfo_ehdr": 33}
_AT_NULL = 0


@table()
class MmAnchors(Table):
    """What each address space remembers of its program; a row for each of ``Views.mms``, in its order."""

    mm: U64
    ok: Bools  # the auxiliary vector could be read
    auxv: U64  # address of mm_struct.saved_auxv
    # Values of the vector's entries, 0 where it has no such entry.
    phdr: U64  # program headers
    base: U64  # where the ELF interpreter was loaded
    entry: U64  # entry point of the program
    random: U64  # 16 random bytes
    execfn: U64  # name of the program file
    sysinfo_ehdr: U64  # the vDSO
    exe_private: U64  # exe_file's private_data: up to 6.7 the file beneath, if on an overlay

    def auxv_values(self) -> dict[str, U64]:
        """The entries of the auxiliary vector that are addresses, by the names of :data:`AUXV`."""
        return {
            "phdr": self.phdr,
            "base": self.base,
            "entry": self.entry,
            "random": self.random,
            "execfn": self.execfn,
            "sysinfo_ehdr": self.sysinfo_ehdr,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorsView:
    """What the kernel remembers of user addresses."""

    mms: MmAnchors
    threads: Threads
    place: Place  # where the threads' registers were found
    handlers: Handlers
    cpus: Cpus


def gather_anchors(kernel: Kernel, tasks: Tasks, mms: Mms, cpus: tuple[CpuState, ...], log: ProblemLog) -> AnchorsView:
    """Read every anchor of every process. ``cpus`` is what the image says of the CPUs.

    Problems carry the view ``ANCHORS`` and the mm.
    """
    threads, place = read_threads(kernel, tasks, cpus, log)
    if place.fitting * 2 < place.tried:
        kernel.identity.problems.append(
            f"user registers were found on {place.fitting} of {place.tried} kernel stacks only"
        )
    return AnchorsView(
        mms=read_mm_anchors(kernel, mms, log),
        threads=threads,
        place=place,
        handlers=read_handlers(kernel, threads, log),
        cpus=read_cpus(kernel, mms, cpus),
    )


def read_mm_anchors(kernel: Kernel, mms: Mms, log: ProblemLog) -> MmAnchors:
    """``saved_auxv`` of each of ``mms``: pairs of type and value up to a type of 0 (create_elf_tables,
    fs/binfmt_elf.c); and what exe_file has in ``private_data``."""
    rows = MmAnchors.zeros(len(mms))
    rows.mm[:] = mms.mm
    member = kernel.member("mm_struct", "saved_auxv")
    rows.auxv[:] = rows.mm + np.uint64(member.offset)
    vectors, ok = kernel.words(rows.auxv, member.extent // 8)
    rows.ok[:] = ok & mms.ok
    lost = ~ok & mms.ok
    log.add(View.ANCHORS, Problem.UNREADABLE, rows.mm[lost], rows.auxv[lost])
    # 32-bit programs have it in words of theirs (elf_addr_t of fs/compat_binfmt_elf.c).
    narrow = (mms.task_size != 0) & (mms.task_size <= np.uint64(1 << 32))
    _take_entries(rows, np.flatnonzero(~narrow), vectors)
    _take_entries(rows, np.flatnonzero(narrow), vectors.view("<u4"))
    # ovl_open_realfile and ovl_mmap (fs/overlayfs/file.c): VMAs have that file, exe_file is the overlay's.
    rows.exe_private[:], _ = kernel.gather_member("file", "private_data", mms.exe_file)
    return rows


def _take_entries(rows: MmAnchors, which: NDArray[np.int64], vectors: NDArray[np.unsignedinteger]) -> None:
    """Fill in the values of the auxiliary vectors of the rows ``which``; ``vectors`` has a row for every mm."""
    vector = vectors[which]
    pairs = vector.shape[1] // 2
    types, values = vector[:, 0 : 2 * pairs : 2], vector[:, 1 : 2 * pairs : 2]
    live = np.cumsum(types == _AT_NULL, axis=1) == 0
    for name, column in rows.auxv_values().items():
        hit = live & (types == AUXV[name])
        found = np.flatnonzero(hit.any(axis=1))
        column[which[found]] = values[found, hit[found].argmax(axis=1)]
