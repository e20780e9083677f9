"""Which page tables each CPU was on, and whose they are."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct, rows_of
from vmaforensics.columns.table import Table, column, table
from vmaforensics.columns.types import I32, I64, U8, U64
from vmaforensics.kernel.several import set_aside
from vmaforensics.views.system.ending import panic_cpu

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.arch.registers import CpuState
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.mms import Mms


@table()
class Cpus(Table):
    """A row for each CPU whose table register (``arch.registers.table``) the image has; see :func:`read_cpus`."""

    cpu: I32
    table_register: U64
    root: U64  # physical address of the top-level table that it names
    owner: U8  # RootOwner
    mm: U64  # the mm whose pgd that is, 0 for none known
    mm_users: I64 = column(fill=-1)  # of that mm if it is no process's, else -1
    loaded_mm: U64  # what the kernel says it loaded there, 0 if not readable
    loaded_from: U64  # address of that word


class RootOwner(IntEnum):
    """Whose page tables a CPU was on."""

    UNKNOWN = 0
    PROCESS = 1
    KERNEL = 2  # init_mm, or another of the kernel's own
    TASKLESS = 3  # an mm that no task of the lists has and that still has users
    DEAD = 4  # an mm without users, kept by a kernel thread or an idle CPU (lazy TLB)
    CRASH_KERNEL = 5  # this kernel has died and handed the machine over; the tables lie in what it kept for that

    @property
    def label(self) -> str:
        """The owner in words."""
        return ("unknown", "process", "kernel", "mm without a task", "mm that has ended", "crash kernel")[self]


def read_cpus(kernel: Kernel, mms: Mms, cpus: tuple[CpuState, ...]) -> Cpus:
    """A row for each CPU whose table register the image has."""
    known = [state for state in cpus if state.table_register is not None]
    rows = Cpus.zeros(len(known))
    rows.cpu[:] = [state.cpu for state in known]
    rows.table_register[:] = [(state.table_register or 0) % (1 << 64) for state in known]
    meant = kernel.arch.roots_of(rows.table_register)
    rows.root[:] = meant[0]
    if not len(rows):
        return rows
    rows.loaded_from[:] = kernel.arch.loaded_mm_words(kernel, rows.cpu)
    words, ok = kernel.words(rows.loaded_from, 1)
    rows.loaded_mm[:] = np.where(ok, words[:, 0], np.uint64(0))

    processes = mms.take(mms.ok)
    roots, mapped = _roots(kernel, processes.pgd)
    _match(rows, meant, roots[mapped], processes.mm[mapped], RootOwner.PROCESS)
    own = _own_roots(kernel)
    _match(rows, meant, own, np.zeros(len(own), np.uint64), RootOwner.KERNEL)
    _match_loaded(kernel, rows, meant)
    _match_crash_kernel(kernel, rows)
    return rows


def _match(rows: Cpus, meant: tuple[U64, ...], roots: U64, mms: U64, owner: RootOwner) -> None:
    """Give the CPUs that were on one of ``roots`` its owner and mm; ``meant`` are the roots a CPU may have been on."""
    order = np.argsort(roots)
    roots, mms = roots[order], mms[order]
    for wanted in meant:
        at = rows_of(roots, wanted)
        hit = (at >= 0) & (rows.owner == RootOwner.UNKNOWN)
        rows.owner[hit], rows.mm[hit] = owner, mms[at[hit]]


def _roots(kernel: Kernel, pgds: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Physical addresses of top-level tables, and which could be translated."""
    pas, _, mapped = kernel.space.translate(pgds)
    return pas, mapped & kernel.arch.kernel_pointer(pgds)


def _own_roots(kernel: Kernel) -> NDArray[np.uint64]:
    """Tables of the kernel itself: swapper_pg_dir, efi_mm's, that of the code patcher (text_poke)."""
    symbols = kernel.symbols
    own = kernel.arch.kernel_tables
    pgds = [at for name in own.tables if (at := symbols.get(name))]
    holders = [at for name in own.mms if (at := symbols.get(name))]
    pointers = [at for name in own.pointers if (at := symbols.get(name))]
    words, ok = kernel.words(np.array(pointers, np.uint64), 1)
    mms = np.concatenate([np.array(holders, np.uint64), words[ok, 0]])
    held, readable = kernel.gather_member("mm_struct", "pgd", mms)
    roots, mapped = _roots(kernel, np.concatenate([np.array(pgds, np.uint64), held[readable]]))
    return distinct(roots[mapped])


def _match_loaded(kernel: Kernel, rows: Cpus, meant: tuple[U64, ...]) -> None:
    """What is left may be the tables of an mm that no task has: the mm that the kernel says it loaded leads to it."""
    left = np.flatnonzero((rows.owner == RootOwner.UNKNOWN) & kernel.arch.kernel_pointer(rows.loaded_mm))
    pgds, ok = kernel.gather_member("mm_struct", "pgd", rows.loaded_mm[left])
    users, ok_users = kernel.gather_signed("mm_struct", "mm_users.counter", rows.loaded_mm[left])
    roots, mapped = _roots(kernel, pgds)
    same = ok & ok_users & mapped & np.any([roots == wanted[left] for wanted in meant], axis=0)
    at = left[same]
    rows.mm[at], rows.mm_users[at] = rows.loaded_mm[at], users[same]
    rows.owner[at] = np.where(users[same] > 0, RootOwner.TASKLESS, RootOwner.DEAD)


def _match_crash_kernel(kernel: Kernel, rows: Cpus) -> None:
    """After a panic the CPU runs the crash kernel, in memory that this one never touched (__crash_kexec)."""
    if panic_cpu(kernel) in (None, -1):
        return
    for start, end in set_aside(kernel):
        inside = (rows.root >= np.uint64(start)) & (rows.root < np.uint64(end))
        rows.owner[inside & (rows.owner == RootOwner.UNKNOWN)] = RootOwner.CRASH_KERNEL
