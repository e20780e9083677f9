"""VMA-PROT: vm_page_prot does not follow from vm_flags.

*Compared:* execute and write bits of `vm_page_prot` with VM_EXEC, VM_WRITE and VM_SHARED. Writable only where the VMA
is shared and writable, for private VMAs are written by copying. Present exactly where VM_READ, VM_WRITE or VM_EXEC is
set.

*Guaranteed by:* `vm_get_page_prot` and `vma_set_page_prot`; `protection_map` has PAGE_NONE, which is not present, for
no access and for nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from vmaforensics.checks.finding import Evidence
from vmaforensics.checks.rule import Part, Rule, Severity
from vmaforensics.checks.vmas.indexed import like_vmas
from vmaforensics.views.operations.operation import Operation
from vmaforensics.views.view import View
from vmaforensics.views.vmas import flags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmaforensics.checks.context import Context
    from vmaforensics.checks.finding import Finding
    from vmaforensics.columns.types import I64, U64, Bools

_ACCESS: Final = np.uint64(flags.VM_READ | flags.VM_WRITE | flags.VM_EXEC)
_SHARED_WRITABLE: Final = np.uint64(flags.VM_WRITE | flags.VM_SHARED)

RULE = Rule(
    id="VMA-PROT",
    title="vm_page_prot does not follow from vm_flags",
    severity=Severity.HIGH,
    why="vm_page_prot is what the next page fault puts into the page table, vm_flags is what tools show.",
    compares="present, execute and write bits of vm_page_prot with VM_READ, VM_EXEC, VM_WRITE and VM_SHARED",
    views=(View.VMA,),
    transient="mprotect, under the write lock",
    by_hand=("crash: struct vm_area_struct.vm_page_prot,vm_flags VMA",),
    steps=("vma",),
    part=Part.CAUSE,
    rank=180,
    changed_by=(Operation.PROTECT, Operation.ADJUST, Operation.MAP),
)


def check(context: Context) -> Iterator[Finding]:
    """One finding for each process with such VMAs."""
    entries = context.views.index
    vmas = context.views.vmas
    allowed, vm_flags = context.views.arch.protection(vmas.page_prot[entries.vma_row]), vmas.flags[entries.vma_row]
    may_access = (vm_flags & _ACCESS) != 0
    may_execute = (vm_flags & np.uint64(flags.VM_EXEC)) != 0
    may_write = (vm_flags & _SHARED_WRITABLE) == _SHARED_WRITABLE
    # An entry without access has no NX bit.
    differs = (allowed.execute != may_execute) | (allowed.write & ~may_write)
    differs = np.where(may_access & allowed.present, differs, may_access != allowed.present)
    wrong = np.flatnonzero(vmas.ok[entries.vma_row] & differs)
    if not context.acquisition.live:
        yield from _findings(context, wrong)
        return
    # Both words are written one after the other (vma_set_page_prot): in one page, they were read so.
    rows = entries.vma_row[wrong]
    apart = _in_two_pages(context, vmas.vma[rows]) | ~like_vmas(context, rows)
    for finding in _findings(context, wrong[~apart]):
        yield replace(finding, at_once=True)
    yield from _findings(context, wrong[apart])


def _in_two_pages(context: Context, vma: U64) -> Bools:
    """Which of the vm_area_structs reach into another page?"""
    pages = context.views.arch.pages
    apart: Bools = pages(vma) != pages(vma + np.uint64(max(context.views.vma_size - 1, 0)))
    return apart


def _findings(context: Context, wrong: I64) -> Iterator[Finding]:
    """Of the VMAs at the rows ``wrong`` of the index."""
    entries, vmas = context.views.index, context.views.vmas
    at = entries.vma_row[wrong]

    def evidence(row: int) -> Evidence:
        vma = int(vmas.vma[at[row]])
        return Evidence(
            what=f"vm_page_prot of {vma:#x} is {int(vmas.page_prot[at[row]]):#x}, vm_flags are "
            f"{int(vmas.flags[at[row]]):#x}",
            view=View.VMA.label,
            address=vma,
        )

    def title(row: int) -> str:
        return f"vm_page_prot of the {context.vma_in_words(int(vmas.vma[at[row]]))} allows other than its vm_flags"

    def bounds(row: int) -> tuple[int, int]:
        return int(vmas.start[at[row]]), int(vmas.end[at[row]])

    yield from context.per_mm(RULE, entries.mm[wrong], evidence, title, bounds)
