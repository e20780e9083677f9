"""The ``vm_area_struct`` objects: every address some view led to, decoded once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.kernel.space.pointers import kernel_pointer
from vmaforensics.views.problems import Problem, ProblemLog
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags
from vmaforensics.views.vmas.kind import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vmaforensics.kernel.kernel import Kernel
    from vmaforensics.views.vmas.files import FileTable

VMAS = np.dtype(
    [
        ("vma", np.uint64),
        ("ok", np.bool_),  # False: not in the dump; every other column is 0
        ("start", np.uint64),
        ("end", np.uint64),
        ("mm", np.uint64),  # vm_mm
        ("flags", np.uint64),
        ("pgoff", np.uint64),  # pages
        ("anon_pgoff", np.uint64),  # pages; what anonymous pages of the area count from
        ("page_prot", np.uint64),
        ("file", np.uint64),
        ("ops", np.uint64),
        ("private", np.uint64),
        ("anon_vma", np.uint64),
        ("anon_name", np.uint64),
        ("next", np.uint64),
        ("prev", np.uint64),
        ("gap", np.uint64),  # rb_subtree_gap
        ("refcnt", np.int64),  # -1 where the kernel has no vm_refcnt
        ("detached", np.bool_),
        ("file_row", np.int64),  # row of the file table, -1 for none
        ("kind", np.uint8),
    ]
)

_PLAIN = {
    "start": "vm_start",
    "end": "vm_end",
    "mm": "vm_mm",
    "flags": "vm_flags",
    "pgoff": "vm_pgoff",
    "page_prot": "vm_page_prot.pgprot",
    "file": "vm_file",
    "ops": "vm_ops",
    "private": "vm_private_data",
    "anon_vma": "anon_vma",
}
_OPTIONAL = {
    "anon_name": "anon_name",
    "next": "vm_next",
    "prev": "vm_prev",
    "gap": "rb_subtree_gap",
    "refcnt": "vm_refcnt.refs.counter",
    "detached": "detached",
}

_DEVICE = flags.VM_PFNMAP | flags.VM_IO | flags.VM_MIXEDMAP


def read_vmas(kernel: Kernel, addresses: NDArray[np.uint64], log: ProblemLog) -> NDArray[np.void]:
    """Decode the VMA at each of ``addresses`` (any order, repeats allowed).

    Returns one row per distinct address, sorted by it; dtype ``VMAS``. ``file_row`` and ``kind`` are
    filled in by :func:`classify`, which needs the file table.
    """
    addresses = np.unique(addresses)
    # A pointer that cannot be one is not followed; the view that holds it has reported it.
    usable = kernel_pointer(addresses) & ((addresses & np.uint64(7)) == 0)
    present = _PLAIN | {column: member for column, member in _OPTIONAL.items() if kernel.has("vm_area_struct", member)}
    rows = np.zeros(len(addresses), VMAS)
    rows["vma"] = addresses
    rows["file_row"] = rows["refcnt"] = -1
    got, ok = kernel.gather("vm_area_struct", addresses[usable], present.values())
    at = np.flatnonzero(usable)
    rows["ok"][at] = ok
    for column, member in present.items():
        rows[column][at[ok]] = got[member][ok]
    rows["anon_pgoff"] = rows["pgoff"]
    rows["anon_pgoff"][at[ok]] = _anon_pgoff(kernel, addresses[at[ok]], rows["pgoff"][at[ok]])
    log.add(View.VMA, Problem.UNREADABLE, 0, addresses[at[~ok]])
    return rows


def _anon_pgoff(kernel: Kernel, addresses: NDArray[np.uint64], pgoff: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """From 7.3 on anonymous pages count from an offset of their own (vma_start_anon_pgoff)."""
    high, low = "__vm_anon_pgoff_hi", "__vm_anon_pgoff_lo"
    if not kernel.has("vm_area_struct", high) or not kernel.has("vm_area_struct", low):
        return pgoff
    got, _ = kernel.gather("vm_area_struct", addresses, [high, low])
    return got[high].astype(np.uint64) << np.uint64(32) | got[low].astype(np.uint64)


def classify(kernel: Kernel, rows: NDArray[np.void], files: FileTable) -> None:
    """Fill in ``file_row`` and ``kind`` of ``rows``."""
    rows["file_row"] = files.rows_of(rows["file"])
    shared = files.is_shmem[rows["file_row"]] & (rows["file_row"] >= 0)
    kind = np.full(len(rows), Kind.ANONYMOUS, np.uint8)
    kind[rows["file"] != 0] = Kind.FILE
    kind[shared] = Kind.SHARED_MEMORY
    kind[(rows["file"] == 0) & special(kernel, rows["ops"])] = Kind.SPECIAL
    kind[((rows["flags"] & np.uint64(_DEVICE)) != 0) & (kind != Kind.SPECIAL)] = Kind.DEVICE
    kind[(rows["flags"] & np.uint64(flags.VM_HUGETLB)) != 0] = Kind.HUGETLB
    kind[~rows["ok"]] = Kind.UNKNOWN
    rows["kind"] = kind


def special(kernel: Kernel, ops: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Is each vm_ops that of a special mapping (_install_special_mapping, mm/mmap.c)?

    Told by the ``name`` operation. Without symbols any name operation counts: of the operations that
    have one, only special mappings have no file.
    """
    known, inverse = np.unique(ops, return_inverse=True)
    got, ok = kernel.gather("vm_operations_struct", known, ["name"])
    name = kernel.symbols.get("special_mapping_name")
    hit = ok & (known != 0) & ((got["name"] == np.uint64(name)) if name else (got["name"] != 0))
    answer: NDArray[np.bool_] = hit[inverse]
    return answer
