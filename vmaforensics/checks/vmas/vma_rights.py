"""VMA-RIGHTS: VMA allows what it may not.

*Compared:* VM_READ, VM_WRITE, VM_EXEC and VM_SHARED of each VMA with VM_MAYREAD, VM_MAYWRITE, VM_MAYEXEC and
VM_MAYSHARE; and VM_MAYSHARE, which `/proc/PID/maps` and smaps show as `s`, with VM_SHARED and the file.

*Guaranteed by:* `do_mmap` (mm/mmap.c) sets them together, or takes both away; `mprotect` allows nothing that VM_MAY*
does not (`do_mprotect_pkey`, mm/mprotect.c). VM_MAYSHARE without VM_SHARED is a shared mapping of a file that is not
open for writing, and may not be written to; shared memory without a file gets one (`shmem_zero_setup`). Code and data
of the kernel have fixed flags (`_install_special_mapping`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmaforensics.checks import hand
from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import BUG, SMEAR, Part, Rule, Severity
from vmaforensics.checks.vmas.indexed import indexed_vmas
from vmaforensics.columns.lookup import distinct
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding

RULE = Rule(
    id="VMA-RIGHTS",
    title="VMA allows what it may not",
    severity=Severity.HIGH,
    why="Which rights a VMA may ever have is decided when it is mapped: by its file, by the mount, by seals. Neither "
    "mmap nor mprotect goes beyond.",
    benign=(SMEAR, BUG),
    attack=("T1014", "T1055"),
    compares="VM_READ, VM_WRITE, VM_EXEC and VM_SHARED with VM_MAYREAD, VM_MAYWRITE, VM_MAYEXEC and VM_MAYSHARE; "
    "VM_MAYSHARE with VM_SHARED and vm_file",
    views=(View.VMA,),
    transient="none",
    by_hand=("crash: struct vm_area_struct.vm_flags VMA", hand.VM),
    steps=("vma",),
    part=Part.CAUSE,
    rank=158,
    changed_by=(Operation.MAP, Operation.PROTECT),
)

_RIGHTS = (
    (flags.VM_READ, "VM_READ"),
    (flags.VM_WRITE, "VM_WRITE"),
    (flags.VM_EXEC, "VM_EXEC"),
    (flags.VM_SHARED, "VM_SHARED"),
)
_EVERY = np.uint64(flags.VM_READ | flags.VM_WRITE | flags.VM_EXEC | flags.VM_SHARED)
_SHAREABLE = np.uint64(flags.VM_SHARED | flags.VM_MAYSHARE)
_MAY = np.uint64(4)  # bits that VM_MAYREAD lies above VM_READ, and so on


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process with such VMAs. Flags without any VM_MAY* are not those of a VMA."""
    vmas = context.views.vmas
    may = (vmas.flags >> _MAY) & _EVERY
    private = (vmas.flags & _SHAREABLE) == np.uint64(flags.VM_MAYSHARE)
    private &= (vmas.file == 0) | ((vmas.flags & np.uint64(flags.VM_MAYWRITE)) != 0)
    wrong = vmas.ok & (may != 0) & (((vmas.flags & _EVERY & ~may) != 0) | private)
    if not wrong.any():
        return
    indexed = indexed_vmas(context)[context.index]
    rows = distinct(indexed.vma_row[wrong[indexed.vma_row]])

    def title(at: int) -> str:
        row = int(rows[at])
        vm_flags = int(vmas.flags[row])
        names = [name for bit, name in _RIGHTS if vm_flags & bit and not vm_flags >> int(_MAY) & bit]
        which = f"{', '.join(names)}, which it may not have" if names else "VM_MAYSHARE, and is private"
        return f"{context.vma_in_words(int(vmas.vma[row]))} has {which}"

    def evidence(at: int) -> Evidence:
        row = int(rows[at])
        return Evidence(
            what=title(at), view=View.VMA.label, address=int(vmas.vma[row]), found=f"{int(vmas.flags[row]):#x}"
        )

    def bounds(at: int) -> tuple[int, int]:
        return int(vmas.start[rows[at]]), int(vmas.end[rows[at]])

    yield from context.per_mm(RULE, vmas.mm[rows], evidence, title, bounds)
