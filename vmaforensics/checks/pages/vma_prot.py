"""VMA-PROT: vm_page_prot does not follow from vm_flags.

*Compared:* execute and write bits of `vm_page_prot` with VM_EXEC, VM_WRITE and VM_SHARED. Writable only where the area
is shared and writable, for private areas are written by copying. Areas without access are left out.

*Guaranteed by:* `vm_get_page_prot` and `vma_set_page_prot`.
"""

from __future__ import annotations

from vmaforensics.checks.rule import Part, Rule, Severity
from vmaforensics.views.view import View

RULE = Rule(
    id="VMA-PROT",
    title="vm_page_prot does not follow from vm_flags",
    severity=Severity.HIGH,
    why="vm_page_prot is what the next page fault puts into the page table, vm_flags is what tools show.",
    compares="execute and write bits of vm_page_prot with VM_EXEC, VM_WRITE and VM_SHARED",
    views=(View.VMA,),
    transient="mprotect, under the write lock",
    by_hand=("crash: struct vm_area_struct.vm_page_prot,vm_flags VMA",),
    steps=("area",),
    part=Part.CAUSE,
    rank=180,
)
