"""The ``vm_area_struct`` objects: every address some view leads to, decoded once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.columns.lookup import distinct, rows_of, values_at
from vmaforensics.columns.table import Table, column, member, table
from vmaforensics.columns.types import I32, U8, U32, U64, Bools
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.vmas.files import FileTable

NEVER_LOCKED = 0xFFFF_FFFF  # vm_lock_seq of a VMA that fork made and nothing has changed (vma_lock_init)


@table(struct="vm_area_struct")
class Vmas(Table):
    """Decoded VMAs: a row is a ``vm_area_struct`` (include/linux/mm_types.h), sorted by its address."""

    vma: U64  # address of the vm_area_struct
    ok: Bools  # False: not in the dump; every other column holds its fill
    start: U64 = member("vm_start")
    end: U64 = member("vm_end")  # exclusive
    mm: U64 = member("vm_mm")
    flags: U64 = member("vm_flags")
    pgoff: U64 = member("vm_pgoff")  # pages
    anon_pgoff: U64  # pages; what anonymous pages of the VMA count from
    page_prot: U64 = member("vm_page_prot.pgprot")
    file: U64 = member("vm_file")  # struct file
    ops: U64 = member("vm_ops")  # vm_operations_struct
    private: U64 = member("vm_private_data")
    anon_vma: U64 = member("anon_vma")
    anon_name: U64 = member("anon_name?")  # anon_vma_name, from 5.17 on
    next: U64 = member("vm_next?")  # up to 6.0
    prev: U64 = member("vm_prev?")
    gap: U64 = member("rb_subtree_gap?")  # bytes; largest gap before a VMA of the subtree, up to 6.0
    refcnt: I32 = member("vm_refcnt.refs.counter?", fill=-1)  # -1 where the kernel has no vm_refcnt
    detached: Bools = member("detached?")  # 6.4 to 6.14
    lock_seq: U32 = member("vm_lock_seq?", fill=NEVER_LOCKED)  # the change of the map that locked it last, from 6.4 on
    file_row: I32 = column(fill=-1)  # row of the file table, -1 for none
    kind: U8  # Kind


def read_vmas(kernel: Kernel, addresses: U64, log: ProblemLog) -> Vmas:
    """Decode the VMA at each of ``addresses`` (any order, repeats allowed), one row per distinct address.

    ``file_row`` and ``kind`` are filled in by :func:`classify`, which needs the file table.
    """
    addresses = distinct(addresses)
    # A pointer that cannot be one is not followed; the view that holds it has reported it.
    usable = kernel.arch.kernel_pointer(addresses) & ((addresses & np.uint64(7)) == 0)
    asked = addresses[usable]
    rows, ok = kernel.gather(Vmas, asked)
    rows.ok[:] = ok
    rows = rows.replace(anon_pgoff=_anon_pgoff(kernel, asked, rows))
    log.add(View.VMA, Problem.UNREADABLE, 0, asked[~ok])
    if len(asked) < len(addresses):
        rows = rows.take_or_fill(rows_of(asked, addresses))
    rows.vma[:] = addresses
    return rows


def _anon_pgoff(kernel: Kernel, addresses: U64, rows: Vmas) -> U64:
    """From 7.3 on anonymous pages count from an offset of their own (vma_start_anon_pgoff)."""
    high, low = "__vm_anon_pgoff_hi", "__vm_anon_pgoff_lo"
    if not kernel.has("vm_area_struct", high) or not kernel.has("vm_area_struct", low):
        return rows.pgoff
    upper, ok = kernel.gather_member("vm_area_struct", high, addresses)
    lower, lower_ok = kernel.gather_member("vm_area_struct", low, addresses)
    return np.where(rows.ok & ok & lower_ok, upper << np.uint64(32) | lower, rows.pgoff)


def classify(kernel: Kernel, vmas: Vmas, files: FileTable) -> None:
    """Fill in ``file_row`` and ``kind`` of ``vmas``."""
    vmas.file_row[:] = files.rows_of(vmas.file)
    kind = vmas.kind
    kind[:] = Kind.ANONYMOUS
    kind[vmas.file != 0] = Kind.FILE
    kind[values_at(files.rows.shmem, vmas.file_row)] = Kind.SHARED_MEMORY
    kind[(vmas.file == 0) & special(kernel, vmas.ops)] = Kind.SPECIAL
    # What has no file is no driver's, whatever its flags say.
    kind[((vmas.flags & np.uint64(flags.VM_DEVICE)) != 0) & (vmas.file != 0)] = Kind.DEVICE
    kind[(vmas.flags & np.uint64(flags.VM_HUGETLB)) != 0] = Kind.HUGETLB
    kind[~vmas.ok] = Kind.UNKNOWN


def special(kernel: Kernel, ops: U64) -> Bools:
    """Is each vm_ops that of a special mapping (_install_special_mapping, mm/mmap.c)?

    Told by the ``name`` operation. Without symbols any name operation counts: of the operations that
    have one, only special mappings have no file.
    """
    known, inverse = np.unique(ops, return_inverse=True)
    operation, ok = kernel.gather_member("vm_operations_struct", "name", known)
    name = kernel.symbols.get("special_mapping_name")
    hit = ok & (known != 0) & ((operation == np.uint64(name)) if name else (operation != 0))
    answer: Bools = hit[inverse]
    return answer
