"""Which page tables each CPU was on (CR3), and whose they are."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.table import Table, column, table
from vmaforensics.columns.types import I32, I64, U8, U64
from vmaforensics.kernel.space.pointers import kernel_pointer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.image.image import CpuState
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.processes.mms import Mms


@table()
class Cpus(Table):
    """A row for each CPU whose CR3 the image has; see :func:`read_cpus`."""

    cpu: I32
    cr3: U64
    root: U64  # physical address of the top-level table that CR3 names
    owner: U8  # RootOwner
    mm: U64  # the mm whose pgd that is, 0 for none known
    mm_users: I64 = column(fill=-1)  # of that mm if it is no process's, else -1
    loaded_mm: U64  # what the kernel says it loaded there (cpu_tlbstate), 0 if not readable
    loaded_from: U64  # address of that word


class RootOwner(IntEnum):
    """Whose page tables a CPU was on."""

    UNKNOWN = 0
    PROCESS = 1
    KERNEL = 2  # init_mm, or another of the kernel's own
    TASKLESS = 3  # an mm that no task of the lists has and that still has users
    DEAD = 4  # an mm without users, kept by a kernel thread or an idle CPU (lazy TLB)

    @property
    def label(self) -> str:
        """The owner in words."""
        return ("unknown", "process", "kernel", "mm without a task", "mm that has ended")[self]


# Bits of CR3 that are no address: PCID below, LAM and no-flush above (Intel SDM vol. 3, 2.5 and 4.10.4.1).
_ROOT = 0x000FFFFF_FFFFF000
_PTI_USER = 0x1000  # PTI_USER_PGTABLE_MASK: the user's copy lies a page above the kernel's (pgtable.h)


def read_cpus(kernel: Kernel, mms: Mms, cpus: tuple[CpuState, ...]) -> Cpus:
    """A row for each CPU whose CR3 the image has."""
    known = [one for one in cpus if one.cr3 is not None]
    rows = Cpus.zeros(len(known))
    rows.cpu[:] = [one.cpu for one in known]
    rows.cr3[:] = [(one.cr3 or 0) % (1 << 64) for one in known]
    info = kernel.vmcoreinfo
    encrypted = (info.number("sme_mask") or 0) if info else 0
    rows.root[:] = rows.cr3 & np.uint64(_ROOT & ~encrypted)
    if not len(rows):
        return rows
    rows.loaded_from[:] = _loaded_words(kernel, rows.cpu)
    words, ok = kernel.words(rows.loaded_from, 1)
    rows.loaded_mm[:] = np.where(ok, words[:, 0], np.uint64(0))

    processes = mms[mms["ok"]]
    roots, mapped = _roots(kernel, processes["pgd"])
    _match(rows, roots[mapped], processes["mm"][mapped], RootOwner.PROCESS)
    own = _own_roots(kernel)
    _match(rows, own, np.zeros(len(own), np.uint64), RootOwner.KERNEL)
    _match_loaded(kernel, rows)
    return rows


def _match(rows: Cpus, roots: NDArray[np.uint64], mms: NDArray[np.uint64], owner: RootOwner) -> None:
    if not len(roots):
        return
    order = np.argsort(roots)
    for half in (0, _PTI_USER):
        wanted = rows.root & ~np.uint64(half)
        at = np.minimum(np.searchsorted(roots[order], wanted), len(roots) - 1)
        hit = (roots[order][at] == wanted) & (rows.owner == RootOwner.UNKNOWN)
        rows.owner[hit], rows.mm[hit] = owner, mms[order][at[hit]]


def _roots(kernel: Kernel, pgds: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Physical addresses of top-level tables, and which could be translated."""
    pas, _, mapped = kernel.space.translate(pgds)
    return pas, mapped & kernel_pointer(pgds)


def _own_roots(kernel: Kernel) -> NDArray[np.uint64]:
    """Tables of the kernel itself: swapper_pg_dir, efi_mm's, that of the code patcher (text_poke)."""
    symbols = kernel.symbols
    pgds = [at for name in ("init_top_pgt", "swapper_pg_dir", "early_top_pgt") if (at := symbols.get(name))]
    holders = [at for name in ("init_mm", "efi_mm") if (at := symbols.get(name))]
    pointers = [at for name in ("poking_mm", "text_poke_mm") if (at := symbols.get(name))]
    words, ok = kernel.words(np.array(pointers, np.uint64), 1)
    mms = np.concatenate([np.array(holders, np.uint64), words[ok, 0]])
    got, fine = kernel.gather("mm_struct", mms, ["pgd"])
    roots, mapped = _roots(kernel, np.concatenate([np.array(pgds, np.uint64), got["pgd"][fine]]))
    return np.unique(roots[mapped])


def _match_loaded(kernel: Kernel, rows: Cpus) -> None:
    """What is left may be the tables of an mm that no task has: cpu_tlbstate.loaded_mm leads to it."""
    left = np.flatnonzero((rows.owner == RootOwner.UNKNOWN) & kernel_pointer(rows.loaded_mm))
    got, ok = kernel.gather("mm_struct", rows.loaded_mm[left], ["pgd", "mm_users.counter"])
    roots, mapped = _roots(kernel, got["pgd"])
    same = ok & mapped & (roots == (rows.root[left] & ~np.uint64(_PTI_USER)))
    users = got["mm_users.counter"].astype(np.int64)
    at = left[same]
    rows.mm[at], rows.mm_users[at] = rows.loaded_mm[at], users[same]
    rows.owner[at] = np.where(users[same] > 0, RootOwner.TASKLESS, RootOwner.DEAD)


def _loaded_words(kernel: Kernel, cpus: NDArray[np.int32]) -> NDArray[np.uint64]:
    """Address of ``cpu_tlbstate.loaded_mm`` of each CPU (arch/x86/include/asm/tlbflush.h); 0 if unknown."""
    variable, offsets = kernel.symbols.get("cpu_tlbstate"), kernel.symbols.get("__per_cpu_offset")
    none = np.zeros(len(cpus), np.uint64)
    if variable is None or offsets is None or not kernel.has("tlb_state", "loaded_mm"):
        return none
    words, ok = kernel.words(np.uint64(offsets) + np.uint64(8) * cpus.astype(np.uint64), 1)
    with np.errstate(over="ignore"):
        addresses = words[:, 0] + np.uint64(variable + kernel.offset("tlb_state", "loaded_mm"))
    return np.where(ok, addresses, none)
